import type { RateLimit, RateResult } from "../../ports/rate-limit.ts";
import type { Commands } from "./connection.ts";
import { createGatherer } from "./gather.ts";
import { SCRIPTS } from "./scripts.ts";

const MAX_AT_ONCE = 4_096;

/** GCRA in Redis: one number per key, which is forgotten once it says nothing any more. Calls of one tick are one script. */
export const createRateLimit = (commands: Commands): RateLimit => {
  // The limit is a part of the key, so that those who share a call share their limit too.
  const take = createGatherer<{ readonly words: readonly [string, number, number] }, RateResult>(
    MAX_AT_ONCE,
    async (_limit, close) => {
      let asked = 0;
      const [passed, left, wait_ms] = await commands.run<[number, number, number]>(SCRIPTS.take, () => {
        const calls = close();
        asked = calls.length;
        const [{ words }] = calls as [(typeof calls)[number]];
        return [1, ...words, asked];
      });
      return Array.from({ length: asked }, (_, i): RateResult =>
        i < passed ? { allowed: true, remaining: left + passed - 1 - i } : { allowed: false, retry_after_ms: wait_ms },
      );
    },
  );
  return {
    take: (key, per_minute, burst) =>
      take(`${per_minute}/${burst} ${key}`, {
        words: [`caracal:take:${key}`, Math.ceil(60_000_000 / per_minute), burst],
      }),
  };
};
