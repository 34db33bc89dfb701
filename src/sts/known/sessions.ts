import { LRUCache } from "lru-cache";
import { type AuthorityIds, type Revocations, revokedBy } from "../../domain/revocation.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Database } from "../../ports/database.ts";
import { readSession, type SessionRow } from "../store.ts";

export type Session = SessionRow & { readonly id: string };

/** A revocation state that is older than this is taken for lost: heads come every 2 s. */
const STREAM_SILENT_MS = 3_000;
/** While it is lost: one poll cycle. */
const MAX_AGE_LOST_MS = 1_000;
const MAX_SESSIONS = 50_000;

export type Sessions = {
  /**
   * The session of `authority` and whether a mark is on that or on another of its ids. Marks are looked at last: a
   * revocation that came while the row was being read is seen. undefined: there is none. Rejects where the database can't
   * be asked.
   */
  get(zone_id: string, authority: AuthorityIds): Found | undefined | Promise<Found | undefined>;
  /** A session that was just written. */
  put(zone_id: string, session: Session): void;
};

export type Found = { readonly session: Session; readonly marked: boolean };

/**
 * Sessions that were read once are believed for as long as the revocation stream is whole, because their end is then
 * announced; when it is not, they are read again once they are older than a poll cycle.
 */
export const createSessions = (options: {
  readonly db: Database;
  readonly revocations: Revocations;
  readonly clock: Clock;
  readonly onRead?: (() => void) | undefined;
}): Sessions => {
  const { revocations, clock } = options;
  const cache = new LRUCache<string, { session: Session; read_ms: number }>({ max: MAX_SESSIONS });
  const reads = new Map<string, Promise<Session | undefined>>();

  const found = (zone_id: string, session: Session, authority: AuthorityIds): Found => ({
    session,
    marked: revokedBy(revocations, zone_id, authority) !== undefined,
  });

  const read = async (zone_id: string, id: string, key: string): Promise<Session | undefined> => {
    options.onRead?.();
    const read_ms = clock.monotonic_ms(); // before the question: what changes while it is answered is younger
    const row = await readSession(options.db.sql, zone_id, id);
    if (row === undefined) {
      cache.delete(key);
      return undefined;
    }
    const session = { id, ...row };
    cache.set(key, { session, read_ms });
    return session;
  };

  const readOnce = (zone_id: string, id: string, key: string): Promise<Session | undefined> => {
    const running = reads.get(key);
    if (running !== undefined) return running;
    const reading = read(zone_id, id, key).finally(() => reads.delete(key));
    reads.set(key, reading);
    return reading;
  };

  return {
    get(zone_id, authority) {
      const { sid: id } = authority;
      const key = `${zone_id}/${id}`;
      const cached = cache.get(key);
      if (cached !== undefined) {
        const whole = revocations.age_ms() <= STREAM_SILENT_MS;
        if (whole || clock.monotonic_ms() - cached.read_ms < MAX_AGE_LOST_MS)
          return found(zone_id, cached.session, authority);
      }
      return readOnce(zone_id, id, key).then((session) =>
        session === undefined ? undefined : found(zone_id, session, authority),
      );
    },
    put(zone_id, session) {
      cache.set(`${zone_id}/${session.id}`, { session, read_ms: clock.monotonic_ms() });
    },
  };
};
