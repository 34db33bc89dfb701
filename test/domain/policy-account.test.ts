import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createPolicyAccounts } from "../../src/domain/policy-account.ts";
import { createQuarantine } from "../../src/domain/policy-quarantine.ts";

const manualClock = () => {
  let now_ms = 1_000;
  return { now_ms: () => now_ms, monotonic_ms: () => now_ms, advance: (by_ms: number) => void (now_ms += by_ms) };
};

describe("the quarantine of a zone", () => {
  const rig = () => {
    const clock = manualClock();
    return { clock, quarantine: createQuarantine(clock) };
  };

  it("holds a version for everybody once several principals met three failures", () => {
    const { clock, quarantine } = rig();
    for (const principal of ["a", "b", "a"]) {
      assert.equal(quarantine.holds("v", "c"), false);
      quarantine.failed("v", principal);
    }
    assert.deepEqual([quarantine.holds("v", "c"), quarantine.holds("w", "a")], [true, false]);
    clock.advance(30_000);
    assert.equal(quarantine.holds("v", "c"), false);
  });

  it("holds a principal alone that was the only one, however often it comes back", () => {
    const { clock, quarantine } = rig();
    for (let round = 0; round < 10; round += 1) {
      for (let i = 0; i < 3; i += 1) quarantine.failed("v", "a");
      assert.deepEqual([quarantine.holds("v", "a"), quarantine.holds("v", "b")], [true, false]);
      quarantine.failed("v", "b"); // once in a while anybody may fail
      assert.equal(quarantine.holds("v", "b"), false);
      clock.advance(60_001);
    }
  });

  it("forgets a failure after a minute", () => {
    const { clock, quarantine } = rig();
    for (let round = 0; round < 10; round += 1) {
      quarantine.failed("v", `${round}`);
      assert.equal(quarantine.holds("v", "a"), false);
      clock.advance(30_001);
    }
  });

  it("remembers a bounded number of versions and principals, the latest", () => {
    const { quarantine } = rig();
    for (const principal of ["first", ...Array.from({ length: 512 }, (_, i) => `${i}`)])
      for (let i = 0; i < 3; i += 1) quarantine.failed("v", principal);
    assert.deepEqual([quarantine.holds("v", "first"), quarantine.holds("v", "0")], [false, true]);
  });
});

describe("the account of a zone", () => {
  it("has so many units a second, and what is spent beyond is waited for", () => {
    const clock = manualClock();
    const account = createPolicyAccounts({ clock, units_per_s: 1_000 }).of("z");
    account.spend(999);
    assert.equal(account.wait_ms(), 0);
    account.spend(2_001);
    assert.ok(account.wait_ms() > 2_000);
    clock.advance(2_000);
    assert.ok(account.wait_ms() > 0);
    clock.advance(1);
    assert.equal(account.wait_ms(), 0);
    clock.advance(3_600_000);
    account.wait_ms();
    account.spend(1_001);
    assert.ok(account.wait_ms() > 0, "an idle hour saves up one second");
  });

  it("is the zone's own: neither its units nor its failures touch another", () => {
    const accounts = createPolicyAccounts({ clock: manualClock(), units_per_s: 1_000 });
    const [mine, other] = [accounts.of("mine"), accounts.of("other")];
    other.failed("v", "a");
    other.failed("v", "b");
    mine.spend(10_000);
    for (let i = 0; i < 10_000; i += 1) mine.failed(`v${i}`, `${i}`);
    assert.deepEqual([mine.wait_ms() > 0, other.wait_ms(), accounts.of("other")], [true, 0, other]);
    other.failed("v", "c");
    assert.deepEqual([other.holds("v", "d"), mine.holds("v", "d")], [true, false]);
  });
});
