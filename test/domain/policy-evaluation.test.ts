import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  buildPolicyInput,
  type Evaluation,
  type Evaluator,
  MAX_POLICY_PATH_BYTES,
  type PolicyFacts,
} from "../../src/domain/policy.ts";
import { evaluateSet, setLimits, type SetMember } from "../../src/domain/policy-evaluation.ts";
import { createQuarantine } from "../../src/domain/policy-quarantine.ts";

const LIMITS = setLimits(50_000);

const manualClock = () => {
  let now_ms = 1000;
  return { now_ms: () => now_ms, monotonic_ms: () => now_ms, advance: (by_ms: number) => void (now_ms += by_ms) };
};

const allowing: Evaluation = {
  status: "result",
  result: { decision: "allow", evaluation_status: "complete", determining_policies: ["p"], diagnostics: [] },
  units: 1000,
};
const overrun: Evaluation = { status: "budget_exceeded", units: 50_001 };

const member = (
  version_id: string,
  evaluation: Evaluation,
): SetMember & { calls(): number; readonly evaluator: Evaluator } => {
  let calls = 0;
  return { version_id, calls: () => calls, evaluator: { evaluate: () => ((calls += 1), evaluation) } };
};

const facts: PolicyFacts = {
  zone_id: "z",
  application: { id: "a", traits: [] },
  credential_type: "client_secret",
  resource: { id: "r", identifier: "resource://r", scopes: [] },
  use: "per_call",
  requested_scopes: [],
  now_ms: 0,
  method: "GET",
  path: "/",
};

describe("evaluating a set", () => {
  it("adds up the units and gives the input's text for the ledger", () => {
    const evaluation = evaluateSet(
      [member("a", allowing), member("b", allowing)],
      facts,
      createQuarantine({ clock: manualClock() }),
      LIMITS,
    );
    assert.deepEqual(
      [evaluation.verdict.decision, evaluation.units, JSON.parse(evaluation.input_json)],
      ["allow", 2000, buildPolicyInput(facts)],
    );
  });

  it("asks nobody where a member is not loaded", () => {
    const loaded = member("a", allowing);
    const evaluation = evaluateSet(
      [loaded, { version_id: "b", evaluator: undefined }],
      facts,
      createQuarantine({ clock: manualClock() }),
      LIMITS,
    );
    assert.deepEqual(
      [evaluation.verdict.decision, evaluation.verdict.evaluation_status, loaded.calls()],
      ["deny", "policy_set_incomplete", 0],
    );
    assert.deepEqual(evaluation.faults, [{ version_id: "b", error: "the module is not loaded" }]);
  });

  it("stops at the first member that runs out of its budget", () => {
    const last = member("b", allowing);
    const evaluation = evaluateSet(
      [member("a", overrun), last],
      facts,
      createQuarantine({ clock: manualClock() }),
      LIMITS,
    );
    assert.deepEqual(
      [evaluation.verdict.decision, evaluation.verdict.evaluation_status, last.calls()],
      ["deny", "policy_budget_exceeded", 0],
    );
  });

  it("bounds the set as a whole, and counts that against its dearest member", () => {
    const clock = manualClock();
    const quarantine = createQuarantine({ clock });
    const members = [
      member("a", { ...allowing, units: 40_000 }),
      member("b", { ...allowing, units: 45_000 }),
      member("c", { ...allowing, units: 44_000 }),
    ];
    for (let round = 0; round < 3; round += 1) {
      assert.equal(
        evaluateSet(members, facts, quarantine, { units_max: 100_000 }).verdict.evaluation_status,
        "policy_budget_exceeded",
      );
    }
    assert.deepEqual(
      ["a", "b", "c"].map((id) => quarantine.holds(id)),
      [false, true, false],
    );
  });

  it("denies a version unevaluated for 30 s after three overruns within a minute", () => {
    const clock = manualClock();
    const quarantine = createQuarantine({ clock });
    const dear = member("a", overrun);
    const evaluate = () => evaluateSet([dear], facts, quarantine, LIMITS).verdict.evaluation_status;
    assert.deepEqual(
      [evaluate(), evaluate(), evaluate()],
      Array.from({ length: 3 }, () => "policy_budget_exceeded"),
    );
    assert.deepEqual([evaluate(), dear.calls()], ["policy_quarantined", 3]);
    clock.advance(29_999);
    assert.deepEqual([evaluate(), dear.calls()], ["policy_quarantined", 3]);
    clock.advance(1);
    assert.deepEqual([evaluate(), dear.calls()], ["policy_budget_exceeded", 4]);
  });

  it("forgets an overrun after a minute", () => {
    const clock = manualClock();
    const quarantine = createQuarantine({ clock });
    for (let round = 0; round < 10; round += 1) {
      quarantine.overran("a");
      assert.equal(quarantine.holds("a"), false);
      clock.advance(30_001);
    }
  });

  it("keeps an agent from quarantining its zone's policy with what it sends", () => {
    const quarantine = createQuarantine({ clock: manualClock() });
    const asked = member("a", allowing);
    const long = { ...facts, path: `/${"a".repeat(MAX_POLICY_PATH_BYTES)}` };
    const wide = { ...facts, requested_scopes: Array.from({ length: 256 }, () => "s".repeat(256)) };
    for (const dear of [long, wide]) {
      assert.equal(evaluateSet([asked], dear, quarantine, LIMITS).verdict.evaluation_status, "policy_input_too_large");
    }
    assert.deepEqual([asked.calls(), quarantine.holds("a")], [0, false]);
  });

  it("remembers a bounded number of versions, the latest", () => {
    const quarantine = createQuarantine({ clock: manualClock() });
    for (let round = 0; round < 3; round += 1) quarantine.overran("first");
    for (let i = 0; i < 4096; i += 1) quarantine.overran(`v${i}`);
    assert.equal(quarantine.holds("first"), false);
  });
});
