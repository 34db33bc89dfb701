import type { Revocations } from "../../domain/revocation.ts";
import type { Clock } from "../../kernel/clock.ts";
import { createKeptShares } from "../../kernel/kept-shares.ts";

/** A revocation state that is older than this is taken for lost: heads come every 2 s. */
const STREAM_SILENT_MS = 3_000;
/** While it is lost: one poll cycle. */
const MAX_AGE_LOST_MS = 1_000;

/** Rows of one table, by zone and id. */
export type Announced<T extends object> = {
  /** undefined: there is none. Rejects where the database can't be asked. */
  get(zone_id: string, id: string): T | undefined | Promise<T | undefined>;
  /** The row as it is now, whatever is remembered. */
  latest(zone_id: string, id: string): Promise<T | undefined>;
  /** A row that was just written. */
  put(zone_id: string, id: string, row: T): void;
  /** It is another by now. */
  forget(zone_id: string, id: string): void;
};

/**
 * Rows whose end the revocation stream announces. One that was read is believed for as long as that stream is whole; when
 * it is not, it is read again once it is older than a poll cycle. Whether there is a mark on a row is asked each time, by
 * whoever uses it, after it is in hand.
 *
 * `holds`: a row that says no is read anew each time, since nothing announces a beginning: what was suspended, or was not
 * there, may be now. Those who ask for one row at once share a reading. `max`: rows of all zones; above it the zone that has
 * most of them loses the one that it used least recently.
 */
export const createAnnounced = <T extends object>(options: {
  readonly read: (zone_id: string, id: string) => Promise<T | undefined>;
  readonly holds: (row: T) => boolean;
  readonly max: number;
  readonly revocations: Pick<Revocations, "age_ms">;
  readonly clock: Clock;
}): Announced<T> => {
  const { revocations, clock, holds } = options;
  const kept = createKeptShares<string, { readonly row: T; readonly read_ms: number }>(options.max);
  const reads = new Map<string, Promise<T | undefined>>();

  const read = async (zone_id: string, id: string): Promise<T | undefined> => {
    const read_ms = clock.monotonic_ms(); // before the question: what changes while it is answered is younger
    const row = await options.read(zone_id, id);
    if (row === undefined || !holds(row)) kept.take(zone_id, id);
    else kept.put(zone_id, id, { row, read_ms });
    return row;
  };

  const readOnce = (zone_id: string, id: string): Promise<T | undefined> => {
    const key = `${zone_id}/${id}`;
    const running = reads.get(key);
    if (running !== undefined) return running;
    const reading = read(zone_id, id).finally(() => reads.delete(key));
    reads.set(key, reading);
    return reading;
  };

  return {
    get(zone_id, id) {
      const cached = kept.get(zone_id, id);
      if (cached !== undefined && holds(cached.row)) {
        const whole = revocations.age_ms() <= STREAM_SILENT_MS;
        if (whole || clock.monotonic_ms() - cached.read_ms < MAX_AGE_LOST_MS) return cached.row;
      }
      return readOnce(zone_id, id);
    },
    latest: readOnce,
    put(zone_id, id, row) {
      kept.put(zone_id, id, { row, read_ms: clock.monotonic_ms() });
    },
    forget(zone_id, id) {
      kept.take(zone_id, id);
    },
  };
};
