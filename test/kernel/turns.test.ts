import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setImmediate } from "node:timers/promises";
import { createTurns } from "../../src/kernel/turns.ts";
import { Problem } from "../../src/kernel/problem.ts";

const rig = (some: { readonly running_max?: number; readonly zones_max?: number } = {}) => {
  let now_ms = 1_000;
  const clock = { now_ms: () => now_ms, monotonic_ms: () => now_ms };
  const limits = { running_max: 2, zone_waiting_max: 2, zones_max: 100, zone_ms_per_minute: 30_000 };
  const names = { waiting: "waiting_compiles", seconds: "compile_seconds_per_minute", busy: "busy" };
  const turns = createTurns({ ...limits, ...some, names, clock });
  const running = new Map<string, () => void>();
  const begun: string[] = [];
  const take = (zone_id: string, name: string, signal?: AbortSignal, seconds_per_minute?: number): Promise<string> =>
    turns.take(zone_id, { signal, seconds_per_minute }, async () => {
      begun.push(name);
      await new Promise<void>((resolve) => running.set(name, resolve));
      return name;
    });
  return {
    begun,
    take,
    advance: (ms: number) => void (now_ms += ms),
    finish: async (name: string): Promise<void> => {
      running.get(name)?.();
      await setImmediate();
    },
  };
};

const quota = (bound: string) => (error: unknown) =>
  error instanceof Problem &&
  error.status === 429 &&
  error.code === "quota_exceeded" &&
  error.description.includes(`${bound}: limit `) &&
  (error.retry_after_s ?? 0) > 0;

describe("turns of zones", () => {
  it("runs one job of a zone at a time, though there is room, and another zone's beside it", async () => {
    const { begun, take, finish } = rig();
    const all = [take("a", "a1"), take("a", "a2"), take("b", "b1")];
    assert.deepEqual(begun, ["a1", "b1"]);
    await finish("a1");
    assert.deepEqual(begun, ["a1", "b1", "a2"]);
    await finish("b1");
    await finish("a2");
    assert.deepEqual(await Promise.all(all), ["a1", "a2", "b1"]);
  });

  it("gives zones their turns one after the other, however many jobs one of them has", async () => {
    const { begun, take, finish } = rig({ running_max: 1 });
    const all = [take("a", "a1"), take("a", "a2"), take("a", "a3"), take("b", "b1"), take("c", "c1")];
    for (const name of ["a1", "b1", "c1", "a2", "a3"]) await finish(name);
    assert.deepEqual(begun, ["a1", "b1", "c1", "a2", "a3"]);
    await Promise.all(all);
  });

  it("refuses a zone that waits too much, with the bound's name, and no other one", async () => {
    const { take, finish } = rig();
    const all = [take("a", "a1"), take("a", "a2"), take("a", "a3")];
    await assert.rejects(take("a", "a4"), quota("waiting_compiles"));
    all.push(take("b", "b1"));
    for (const name of ["b1", "a1", "a2", "a3"]) await finish(name);
    await Promise.all(all);
  });

  it("refuses a zone that has spent its time, with those of it that wait, until it is paid off", async () => {
    const { take, advance, finish } = rig();
    const first = take("a", "a1");
    const waiting = assert.rejects(take("a", "a2"), quota("compile_seconds_per_minute"));
    advance(100_000);
    const other = take("b", "b1");
    await finish("a1");
    await finish("b1");
    await Promise.all([first, waiting, other]);
    await assert.rejects(take("a", "a3"), quota("compile_seconds_per_minute"));
    advance(60_000);
    const again = take("a", "a4");
    await finish("a4");
    assert.equal(await again, "a4");
  });

  it("gives a zone another share from the next job on, of which it has used what it used", async () => {
    const { take, advance, finish } = rig();
    const run = async (name: string, seconds_per_minute?: number): Promise<string> => {
      const [taken] = await Promise.all([take("a", name, undefined, seconds_per_minute), finish(name)]);
      return taken;
    };
    const first = take("a", "a1");
    advance(20_000); // 20 s of 30 are used, 10 s come back
    await finish("a1");
    await first;
    await assert.rejects(run("a2", 5), quota("compile_seconds_per_minute"));
    assert.equal(await run("a3", 30), "a3");
    await assert.rejects(run("a4", 0), (error) => error instanceof Problem && error.retry_after_s === 60);
    assert.equal(await run("a5"), "a5");
  });

  it("never starts a job whose caller has gone, nor counts it", async () => {
    const { begun, take, finish } = rig();
    const gone = new AbortController();
    const first = take("a", "a1");
    const second = assert.rejects(
      take("a", "a2", gone.signal),
      (error) => error instanceof Problem && error.code === "request_aborted",
    );
    gone.abort();
    await second;
    await assert.rejects(take("a", "a3", AbortSignal.abort()));
    const others = [take("a", "a4"), take("a", "a5")];
    for (const name of ["a1", "a4", "a5"]) await finish(name);
    assert.deepEqual(begun, ["a1", "a4", "a5"]);
    await Promise.all([first, ...others]);
  });

  it("forgets a zone only once it owes nothing", async () => {
    const { take, advance, finish } = rig({ zones_max: 1 });
    const first = take("a", "a1");
    advance(10_000);
    await finish("a1");
    await first;
    await assert.rejects(take("b", "b1"), (error) => error instanceof Problem && error.status === 503);
    advance(60_000);
    const second = take("b", "b2");
    await finish("b2");
    assert.equal(await second, "b2");
  });
});
