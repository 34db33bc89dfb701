import { LRUCache } from "lru-cache";
import type { Clock } from "../../kernel/clock.ts";
import type { RateLimit } from "../../ports/rate-limit.ts";

/** Keys that are remembered; the one that was used least lately is forgotten, which gives it a full burst again. */
const MAX_KEYS = 100_000;

/** GCRA with one number per key: the theoretical arrival time of its next call, in monotonic milliseconds. */
export const createRateLimit = (clock: Clock): RateLimit => {
  const arrivals = new LRUCache<string, number>({ max: MAX_KEYS });
  return {
    async take(key, per_minute, burst) {
      const now_ms = clock.monotonic_ms();
      const every_ms = 60_000 / per_minute;
      const room_ms = every_ms * burst;
      const arrival_ms = Math.max(now_ms, arrivals.get(key) ?? 0) + every_ms;
      const ahead_ms = arrival_ms - now_ms;
      if (ahead_ms > room_ms + 0.001) return { allowed: false, retry_after_ms: Math.ceil(ahead_ms - room_ms) };
      arrivals.set(key, arrival_ms);
      return { allowed: true, remaining: Math.floor((room_ms - ahead_ms) / every_ms + 0.001) };
    },
  };
};
