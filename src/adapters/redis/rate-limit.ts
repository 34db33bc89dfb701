import type { RateLimit } from "../../ports/rate-limit.ts";
import type { Commands } from "./connection.ts";

/** GCRA in Redis: one number per key, which is forgotten once it says nothing any more. */
export const createRateLimit = (commands: Commands): RateLimit => ({
  async take(key, per_minute, burst) {
    const [allowed, number] = await commands.send<[number, number]>((pipeline) =>
      pipeline.caracalTake(`caracal:rate:${key}`, 60_000 / per_minute, burst),
    );
    return allowed === 1 ? { allowed: true, remaining: number } : { allowed: false, retry_after_ms: number };
  },
});
