import { LRUCache } from "lru-cache";
import type { Clock } from "../../kernel/clock.ts";
import type { RateLimit } from "../../ports/rate-limit.ts";

/** Keys that are remembered; the one that was used least lately is forgotten, which gives it a full burst again. */
const MAX_KEYS = 100_000;

/** GCRA with one number per key: the theoretical arrival time of its next call, in whole monotonic microseconds. */
export const createRateLimit = (clock: Clock): RateLimit => {
  const arrivals = new LRUCache<string, number>({ max: MAX_KEYS });
  return {
    async take(key, per_minute, burst) {
      const now = Math.floor(clock.monotonic_ms() * 1_000);
      const every = Math.ceil(60_000_000 / per_minute);
      const room = every * burst;
      // One that is further ahead was left by another limit: no reason to wait longer than the burst takes.
      const arrival = Math.min(Math.max(now, arrivals.get(key) ?? 0), now + room) + every;
      const ahead = arrival - now;
      if (ahead > room) return { allowed: false, retry_after_ms: Math.max(1, Math.ceil((ahead - room) / 1_000)) };
      arrivals.set(key, arrival);
      return { allowed: true, remaining: Math.floor((room - ahead) / every) };
    },
  };
};
