import { LRUCache } from "lru-cache";
import type { Clock } from "../../kernel/clock.ts";

/**
 * How long a zone may be read for what callers bring and it does not know: milliseconds at once, and of each second. A
 * reading counts for as long as it took, within bounds: a large zone is read less often than a small one.
 */
const ANEW = { burst_ms: 500, per_s_ms: 200, least_ms: 10, most_ms: 500 } as const;
/** One that is forgotten begins with all of its time again. */
const MAX_ZONES = 1_000;

/** How fast each zone may be read anew. */
export type Paces = {
  /** How long the zone's next reading has to wait, in milliseconds: until what the former ones took is paid back. */
  wait_ms(zone_id: string): number;
  /** A reading took this long, in milliseconds. */
  spend(zone_id: string, took_ms: number): void;
};

/** Token buckets of zones, in milliseconds of reading. What is over is waited out by the next reading. */
export const createPaces = (clock: Clock): Paces => {
  const buckets = new LRUCache<string, { left_ms: number; at_ms: number }>({ max: MAX_ZONES });
  const refilled = (zone_id: string): { left_ms: number; at_ms: number } => {
    const now_ms = clock.monotonic_ms();
    const bucket = buckets.get(zone_id) ?? { left_ms: ANEW.burst_ms, at_ms: now_ms };
    const gained_ms = ((now_ms - bucket.at_ms) * ANEW.per_s_ms) / 1_000;
    bucket.left_ms = Math.min(ANEW.burst_ms, bucket.left_ms + gained_ms);
    bucket.at_ms = now_ms;
    return bucket;
  };
  return {
    wait_ms: (zone_id) => Math.max(0, (-refilled(zone_id).left_ms * 1_000) / ANEW.per_s_ms),
    spend(zone_id, took_ms) {
      const bucket = refilled(zone_id);
      bucket.left_ms -= Math.min(ANEW.most_ms, Math.max(ANEW.least_ms, took_ms));
      buckets.set(zone_id, bucket);
    },
  };
};
