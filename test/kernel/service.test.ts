import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { within, worker } from "../../src/kernel/service.ts";

const unexpected = (error: unknown): void => assert.fail(String(error));

const gate = () => {
  let open: () => void = () => {};
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, passed };
};

describe("a worker", () => {
  it("runs again after a wake that came during a round, because that round may have looked too early", async () => {
    const first = gate();
    const second = gate();
    let rounds = 0;
    const made = worker({
      name: "test",
      every_ms: 1_000_000,
      onError: unexpected,
      tick: async () => {
        rounds += 1;
        if (rounds === 1) await first.passed;
        else second.open();
      },
    });
    await made.start(unexpected);
    while (rounds === 0) await new Promise((resolve) => setImmediate(resolve));
    made.wake();
    first.open();
    await second.passed;
    assert.equal(rounds, 2);
    await made.stop(1_000);
  });

  it("goes on after a failed round and reports it", async () => {
    const again = gate();
    const errors: unknown[] = [];
    let rounds = 0;
    const made = worker({
      name: "test",
      every_ms: 0,
      onError: (error) => errors.push(error),
      tick: async () => {
        rounds += 1;
        if (rounds === 1) throw new Error("first");
        again.open();
      },
    });
    await made.start(unexpected);
    await again.passed;
    await made.stop(1_000);
    assert.match(String(errors[0]), /first/);
  });

  it("stops behind its last round and runs none after", async () => {
    const running = gate();
    const release = gate();
    let rounds = 0;
    const made = worker({
      name: "test",
      every_ms: 0,
      onError: unexpected,
      tick: async () => {
        rounds += 1;
        running.open();
        await release.passed;
      },
    });
    await made.start(unexpected);
    await running.passed;
    const stopping = made.stop(10_000);
    release.open();
    await stopping;
    made.wake();
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(rounds, 1);
  });
});

describe("within", () => {
  it("does not wait past its deadline", async () => {
    await within(1, new Promise(() => {}));
    await within(1_000, undefined);
    assert.ok(true);
  });
});
