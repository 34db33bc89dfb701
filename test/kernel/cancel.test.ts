import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type Cancellation, Cancelling } from "../../src/kernel/cancel.ts";

describe("a cancellation", () => {
  it("tells each listener once, with its reason, and none that was taken back", () => {
    const cancelling = new Cancelling();
    const signal: Cancellation = cancelling;
    const told: string[] = [];
    const back = (): void => void told.push("taken back");
    signal.addEventListener("abort", () => told.push(`first: ${String(signal.reason)}`), { once: true });
    signal.addEventListener("abort", back);
    signal.addEventListener("abort", () => told.push(`second: ${signal.aborted}`));
    signal.removeEventListener("abort", back);
    assert.equal(signal.aborted, false);
    cancelling.cancel("enough");
    cancelling.cancel("again");
    assert.deepEqual(told, ["first: enough", "second: true"]);
  });

  it("is what an AbortSignal is, too", () => {
    const given: Cancellation = AbortSignal.abort("over");
    assert.deepEqual([given.aborted, given.reason], [true, "over"]);
  });
});
