import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { buildPolicyInput } from "../support/policy-input.ts";
import { MAX_POLICY_PATH_BYTES, type PolicyFacts } from "../../src/domain/policy-input.ts";
import type { Evaluation, Evaluator } from "../../src/domain/policy-module.ts";
import { evaluateSet, requestBudget, type SetMember } from "../../src/domain/policy-evaluation.ts";
import { createQuarantine } from "../../src/domain/policy-quarantine.ts";

const budget = () => requestBudget(50_000);

const manualClock = () => {
  let now_ms = 1000;
  return { now_ms: () => now_ms, monotonic_ms: () => now_ms, advance: (by_ms: number) => void (now_ms += by_ms) };
};

const allowing: Evaluation = {
  status: "result",
  result: { decision: "allow", evaluation_status: "complete", determining_policies: ["p"], diagnostics: [] },
  units: 1000,
};
const failed: Evaluation = { status: "failed", error: "unreachable", units: 10 };
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
      createQuarantine(manualClock()),
      budget(),
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
      createQuarantine(manualClock()),
      budget(),
    );
    assert.deepEqual(
      [evaluation.verdict.decision, evaluation.verdict.evaluation_status, loaded.calls()],
      ["deny", "policy_set_incomplete", 0],
    );
    assert.deepEqual(evaluation.faults, [{ version_id: "b", error: "the module is not loaded" }]);
  });

  it("stops at the first member that runs out of its budget", () => {
    const last = member("b", allowing);
    const evaluation = evaluateSet([member("a", overrun), last], facts, createQuarantine(manualClock()), budget());
    assert.deepEqual(
      [evaluation.verdict.decision, evaluation.verdict.evaluation_status, last.calls()],
      ["deny", "policy_budget_exceeded", 0],
    );
  });

  it("stops a request once its budget is spent, over all its resources, and blames no member", () => {
    const quarantine = createQuarantine(manualClock());
    const members = [40_000, 45_000, 44_000].map((units, i) => member(`${i}`, { ...allowing, units }));
    for (let round = 0; round < 4; round += 1) {
      const purse = { units_left: 200_000 };
      const statuses = [facts, facts].map(
        (one) => evaluateSet(members, one, quarantine, purse).verdict.evaluation_status,
      );
      assert.deepEqual([...statuses, purse.units_left], ["complete", "policy_budget_exceeded", -14_000]);
    }
    assert.deepEqual(
      members.map(({ version_id }) => quarantine.holds(version_id, "a")),
      [false, false, false],
    );
  });

  it("counts what failing costs, so that many members that fail take no more than the budget", () => {
    const failing = Array.from({ length: 256 }, (_, i) => member(`${i}`, { ...failed, units: 25_000 }));
    const purse = budget();
    assert.equal(evaluateSet(failing, facts, createQuarantine(manualClock()), purse).verdict.decision, "deny");
    assert.equal(failing.filter((one) => one.calls() > 0).length, 21);
  });

  it("counts failures of every kind, and tells the log", () => {
    const unfinished: Evaluation = { status: "result", result: { decision: "allow" }, units: 10 };
    for (const failure of [failed, overrun, unfinished, { ...unfinished, result: undefined }]) {
      const one = member("v", failure);
      const quarantine = createQuarantine(manualClock());
      const evaluate = () => evaluateSet([one], facts, quarantine, budget());
      assert.equal(evaluate().faults.length, 1);
      evaluate();
      evaluate();
      assert.deepEqual([evaluate().verdict.evaluation_status, one.calls()], ["policy_quarantined", 3]);
    }
  });

  it("denies a version unevaluated for 30 s after three overruns within a minute", () => {
    const clock = manualClock();
    const quarantine = createQuarantine(clock);
    const dear = member("a", overrun);
    const evaluate = () => evaluateSet([dear], facts, quarantine, budget()).verdict.evaluation_status;
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

  it("keeps an agent from quarantining its zone's policy with what it sends", () => {
    const quarantine = createQuarantine(manualClock());
    const asked = member("a", allowing);
    const long = { ...facts, path: `/${"a".repeat(MAX_POLICY_PATH_BYTES)}` };
    const wide = { ...facts, requested_scopes: Array.from({ length: 256 }, () => "s".repeat(256)) };
    for (const dear of [long, wide]) {
      assert.equal(
        evaluateSet([asked], dear, quarantine, budget()).verdict.evaluation_status,
        "policy_input_too_large",
      );
    }
    assert.deepEqual([asked.calls(), quarantine.holds("a", "a")], [0, false]);
  });
});
