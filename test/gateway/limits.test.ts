import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createLimits, type Limited } from "../../src/gateway/limits.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { eventually } from "../support/eventually.ts";

/** Something that ends `after_ms` from now, and tells when it did. */
const endingAfter = (after_ms: number): Limited & { looks: number; ended_ms: number | undefined } => {
  const began_ms = performance.now();
  return {
    looks: 0,
    ended_ms: undefined,
    left_ms() {
      this.looks += 1;
      if (this.ended_ms !== undefined) return Infinity;
      const left_ms = began_ms + after_ms - performance.now();
      if (left_ms > 0) return left_ms;
      this.ended_ms = performance.now() - began_ms;
      return Infinity;
    },
  };
};

describe("limits of what is under way", () => {
  it("are met, each a little later at most, in whatever order they were set", async () => {
    const all = [endingAfter(250), endingAfter(20), endingAfter(120), endingAfter(60_000)];
    const limits = createLimits(systemClock, () => all);
    for (const one of all) limits.watch(one);
    const ends = all.slice(0, 3);
    await eventually(() => ends.every(({ ended_ms }) => ended_ms !== undefined));
    for (const [at, after_ms] of [250, 20, 120].entries()) {
      const ended_ms = ends[at]?.ended_ms ?? 0;
      assert.ok(ended_ms >= after_ms && ended_ms < after_ms + 400, `${after_ms} ms ended after ${ended_ms} ms`);
    }
    assert.equal(all[3]?.ended_ms, undefined);
  });

  it("cost a look every tenth of a second however many end", async () => {
    const all = Array.from({ length: 200 }, (_, at) => endingAfter(at));
    const limits = createLimits(systemClock, () => all);
    for (const one of all) limits.watch(one);
    await eventually(() => all.every(({ ended_ms }) => ended_ms !== undefined));
    const looks = Math.max(...all.map((one) => one.looks));
    assert.ok(looks <= 6, `${looks} looks in 0.3 s`);
  });
});
