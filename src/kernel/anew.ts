import { setTimeout } from "node:timers/promises";
import { LRUCache } from "lru-cache";
import type { Clock } from "./clock.ts";

/**
 * How long a zone may be read for what callers bring and it does not know: milliseconds at once, and of each second. A
 * reading counts for as long as it took, within bounds: a large zone is read less often than a small one.
 */
const PACE = { burst_ms: 500, per_s_ms: 200, least_ms: 10, most_ms: 500 } as const;
/** One that is forgotten begins with all of its time again. */
const MAX_ZONES = 1_000;

export type AnewOptions<T> = {
  readonly clock: Clock;
  /** Begins a reading of the zone, and says what was found. */
  readonly read: (zone_id: string) => Promise<T>;
  /** A reading of the zone that began for another reason, if there is one: the next begins after it. */
  readonly running?: (zone_id: string) => Promise<unknown> | undefined;
  /** What a reading counts for, in milliseconds, where the time that it took says little of its work: another's, far away. */
  readonly costOf?: (zone_id: string) => number;
};

/**
 * Reads zones again for callers that bring what is not known: it may have been made a moment ago. Whoever asks is answered by a
 * reading that begins after the question; one reading answers all who asked before it began. A caller can cause readings of
 * one zone, so each zone has time of its own, and what is over is waited out.
 */
export type Anew<T> = {
  /** Rejects as `read` does. */
  read(zone_id: string): Promise<T>;
};

/** A bucket for each zone, filled with milliseconds of reading. */
const createPaces = (clock: Clock) => {
  const buckets = new LRUCache<string, { left_ms: number; at_ms: number }>({ max: MAX_ZONES });
  const refilled = (zone_id: string): { left_ms: number; at_ms: number } => {
    const now_ms = clock.monotonic_ms();
    const bucket = buckets.get(zone_id) ?? { left_ms: PACE.burst_ms, at_ms: now_ms };
    const gained_ms = ((now_ms - bucket.at_ms) * PACE.per_s_ms) / 1_000;
    bucket.left_ms = Math.min(PACE.burst_ms, bucket.left_ms + gained_ms);
    bucket.at_ms = now_ms;
    return bucket;
  };
  return {
    wait_ms: (zone_id: string): number => Math.max(0, (-refilled(zone_id).left_ms * 1_000) / PACE.per_s_ms),
    spend(zone_id: string, took_ms: number): void {
      const bucket = refilled(zone_id);
      bucket.left_ms -= Math.min(PACE.most_ms, Math.max(PACE.least_ms, took_ms));
      buckets.set(zone_id, bucket);
    },
  };
};

export const createAnew = <T>({ clock, read, running, costOf }: AnewOptions<T>): Anew<T> => {
  const paces = createPaces(clock);
  /** Readings that have not begun: who asks now is answered by them. */
  const awaited = new Map<string, Promise<T>>();

  const begin = async (zone_id: string): Promise<T> => {
    const wait_ms = paces.wait_ms(zone_id);
    if (wait_ms > 0) await setTimeout(wait_ms);
    for (let other = running?.(zone_id); other !== undefined; other = running?.(zone_id)) {
      await other.catch(() => {}); // it began before somebody asked
    }
    awaited.delete(zone_id); // in one step with the beginning
    const began_ms = clock.monotonic_ms();
    try {
      return await read(zone_id);
    } finally {
      paces.spend(zone_id, costOf?.(zone_id) ?? clock.monotonic_ms() - began_ms);
    }
  };

  return {
    read(zone_id) {
      const sooner = awaited.get(zone_id);
      if (sooner !== undefined) return sooner;
      const reading = Promise.resolve().then(() => begin(zone_id)); // not before it is known as awaited
      awaited.set(zone_id, reading);
      return reading;
    },
  };
};
