import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import type { RateResult } from "../../src/ports/rate-limit.ts";
import { createMemory } from "../../src/adapters/memory/index.ts";
import { eventually } from "../support/eventually.ts";
import { type Backend, BACKENDS } from "./backends.ts";

for (const [name, start] of Object.entries(BACKENDS)) {
  describe(`the rate limit on ${name}`, () => {
    let backend: Backend;
    before(async () => {
      backend = await start();
    });
    after(() => backend.close());

    it("lets a burst through and then says how long to wait", async () => {
      const results = await Promise.all(Array.from({ length: 8 }, () => backend.rateLimit.take("burst", 60, 5)));
      assert.deepEqual(
        results.map((one) => one.allowed),
        [true, true, true, true, true, false, false, false],
      );
      const remaining = results.map((one) => (one.allowed ? one.remaining : -1)).slice(0, 5);
      assert.deepEqual(remaining, [4, 3, 2, 1, 0]);
      const refused = results[5];
      assert.ok(refused?.allowed === false && refused.retry_after_ms > 900 && refused.retry_after_ms <= 1000);
    });

    it("lets one pass again when the wait that it told is over, and not before", async () => {
      const take = () => backend.rateLimit.take("wait", 600, 1);
      assert.equal((await take()).allowed, true);
      const refused = await take();
      assert.ok(!refused.allowed && refused.retry_after_ms <= 100);
      const began = performance.now();
      await eventually(async () => (await take()).allowed, { every_ms: 2 });
      assert.ok(performance.now() - began >= refused.retry_after_ms - 15);
    });

    it("shares a key between clients and keeps keys apart", async () => {
      assert.equal((await backend.rateLimit.take("shared", 1, 1)).allowed, true);
      assert.equal((await backend.another().rateLimit.take("shared", 1, 1)).allowed, false);
      assert.equal((await backend.rateLimit.take("other", 1, 1)).allowed, true);
    });

    it("never lets more pass over any stretch of time than burst + per_minute × t", async () => {
      const per_minute = 6000;
      const burst = 10;
      const passed: number[] = [];
      const began = performance.now();
      while (performance.now() - began < 400) {
        const asked = performance.now();
        for (const one of await Promise.all(
          Array.from({ length: 20 }, () => backend.rateLimit.take("stretch", per_minute, burst)),
        )) {
          if (one.allowed) passed.push(asked);
        }
      }
      for (const [i, from] of passed.entries()) {
        for (let j = i; j < passed.length; j += 1) {
          const minutes = ((passed[j] as number) - from + 50) / 60_000; // when it was asked is not quite when it was decided
          assert.ok(j - i + 1 <= burst + per_minute * minutes + 1, `${j - i + 1} passed in ${minutes * 60_000} ms`);
        }
      }
      assert.ok(passed.length >= 30);
    });

    it("gives to n at once what it gives to n one after the other", async () => {
      let run = 0;
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 30 }), // two seconds and more for a call: the time between two does not show
          fc.integer({ min: 1, max: 40 }),
          fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 4 }),
          async (per_minute, burst, groups) => {
            run += 1;
            const began = performance.now();
            for (const count of groups) {
              const at_once = await Promise.all(
                Array.from({ length: count }, () => backend.rateLimit.take(`at once ${run}`, per_minute, burst)),
              );
              const in_turn = [];
              for (let i = 0; i < count; i += 1)
                in_turn.push(await backend.rateLimit.take(`in turn ${run}`, per_minute, burst));
              const shown = (one: RateResult) => (one.allowed ? one.remaining : "refused");
              assert.deepEqual(at_once.map(shown), in_turn.map(shown));
              const waits = [...at_once, ...in_turn].flatMap((one) => (one.allowed ? [] : [one.retry_after_ms]));
              const between_ms = performance.now() - began + 2;
              assert.ok(Math.max(...waits, 0) - Math.min(...waits, Infinity) <= between_ms, waits.join(" "));
            }
          },
        ),
        { numRuns: 25 },
      );
    });

    it("grants to each of those at once by its own key and limit", async () => {
      const [a, b, other_limit, c] = await Promise.all([
        backend.rateLimit.take("mixed a", 60, 2),
        backend.rateLimit.take("mixed b", 60, 1),
        backend.rateLimit.take("mixed a", 60, 1),
        backend.rateLimit.take("mixed b", 60, 1),
      ]);
      assert.deepEqual(
        [a?.allowed, b?.allowed, other_limit?.allowed, c?.allowed],
        [true, true, false, false],
        "the second of `a` is one too many for its own limit",
      );
    });

    it("passes nothing twice at the edge of a second or a minute: a refused call changes nothing", async () => {
      for (let i = 0; i < 50; i += 1) await backend.rateLimit.take("edge", 60, 2);
      const last = await backend.rateLimit.take("edge", 60, 2);
      assert.ok(!last.allowed && last.retry_after_ms <= 1000);
    });
  });
}

describe("the rate limit by a clock that is moved", () => {
  it("holds its bound for every sliding minute, whatever the pattern of calls", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 200 }),
        fc.integer({ min: 1, max: 50 }),
        fc.array(fc.tuple(fc.integer({ min: 0, max: 20_000 }), fc.integer({ min: 1, max: 60 })), { maxLength: 60 }),
        async (per_minute, burst, calls) => {
          let now_ms = 1_000_000;
          const { rateLimit } = await createMemory({ clock: { now_ms: () => now_ms, monotonic_ms: () => now_ms } });
          const passed: number[] = [];
          for (const [wait_ms, count] of calls) {
            now_ms += wait_ms;
            for (let i = 0; i < count; i += 1)
              if ((await rateLimit.take("k", per_minute, burst)).allowed) passed.push(now_ms);
          }
          for (const from of passed) {
            const within = passed.filter((at) => at >= from && at < from + 60_000).length;
            assert.ok(within <= burst + per_minute, `${within} > ${burst} + ${per_minute}`);
          }
        },
      ),
      { numRuns: 100 },
    );
  });
});
