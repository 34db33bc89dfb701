import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import {
  combine,
  MAX_STATEMENT_BYTES,
  MAX_STATEMENTS,
  type MemberResult,
  refusal,
} from "../../src/domain/policy-verdict.ts";
import { constant } from "../../src/kernel/json-text.ts";

const answer = (result: unknown): MemberResult => ({ version_id: "v", status: "result", result, units: 1 });
const said = (
  decision: string,
  policies: readonly unknown[] = [],
  diagnostics: readonly unknown[] = [],
): MemberResult => answer({ decision, evaluation_status: "complete", determining_policies: policies, diagnostics });
const allow = said("allow", ["p-allow"]);
const silent = said("deny");
const explicit = said("deny", ["p-deny"], ["because"]);

describe("the verdict of a set", () => {
  it("is the same for a result that is remembered as for one that is not, and can't be changed then", () => {
    const result = { decision: "allow", evaluation_status: "complete", determining_policies: ["p"], diagnostics: [] };
    const fresh = combine([answer(structuredClone(result))]);
    const frozen = answer(constant(structuredClone(result)));
    assert.deepEqual([combine([frozen]), combine([frozen])], [fresh, fresh]);
    assert.throws(() => Object.assign(combine([frozen]), { decision: "deny" }), TypeError);
    assert.equal(combine([frozen, explicit]).decision, "deny");
    const open = structuredClone(result);
    assert.equal(combine([answer(open)]).decision, "allow");
    open.decision = "deny";
    assert.equal(combine([answer(open)]).decision, "deny");
  });

  it("is an allow where one allows and no other objects", () => {
    const verdict = combine([silent, allow, silent]);
    assert.deepEqual(verdict, {
      decision: "allow",
      evaluation_status: "complete",
      determining_policies: ["p-allow"],
      diagnostics: [],
    });
  });

  it("is the explicit deny, whatever else allows", () => {
    for (const members of [
      [explicit, allow],
      [allow, explicit],
      [allow, silent, explicit, allow],
    ]) {
      assert.deepEqual(combine(members), {
        decision: "deny",
        reason: "policy_denied",
        evaluation_status: "complete",
        determining_policies: ["p-deny"],
        diagnostics: ["because"],
      });
    }
  });

  it("takes a deny for explicit that names a policy or a diagnostic alone", () => {
    assert.equal(combine([said("deny", ["p"]), allow]).decision, "deny");
    assert.equal(combine([said("deny", [], ["d"]), allow]).decision, "deny");
  });

  it("is a deny where all are silent", () => {
    const verdict = combine([silent, silent]);
    assert.deepEqual([verdict.decision, verdict.evaluation_status, verdict.diagnostics], ["deny", "complete", []]);
  });

  it("allows on exactly `complete` and exactly `allow`, and on nothing that looks like them", () => {
    const alike: readonly unknown[] = [
      undefined,
      null,
      true,
      "allow",
      ["allow"],
      {},
      { decision: "allow" },
      { allow: true },
      { decision: "allow", evaluation_status: "Complete" },
      { decision: "allow", evaluation_status: true },
      { decision: "allow", evaluation_status: "complete", determining_policies: "p" },
      { decision: "allow", evaluation_status: "complete", diagnostics: { a: 1 } },
    ];
    for (const result of alike)
      assert.deepEqual(combine([allow, answer(result)]), refusal("policy_set_incomplete"), JSON.stringify(result));
    for (const decision of ["ALLOW", "allow ", "", "yes", null, true, 1, ["allow"], { allow: true }]) {
      assert.equal(
        combine([answer({ decision, evaluation_status: "complete" })]).decision,
        "deny",
        JSON.stringify(decision),
      );
    }
    assert.equal(combine([answer({ decision: "allow", evaluation_status: "complete" })]).decision, "allow");
  });

  it("denies for all where one member did not answer, and says which way", () => {
    const lost: readonly (readonly [MemberResult, string])[] = [
      [{ version_id: "v", status: "failed", error: "inside", units: 3 }, "policy_set_incomplete"],
      [{ version_id: "v", status: "not_loaded", units: 0 }, "policy_set_incomplete"],
      [{ version_id: "v", status: "budget_exceeded", units: 3 }, "policy_budget_exceeded"],
      [{ version_id: "v", status: "quarantined", units: 0 }, "policy_quarantined"],
    ];
    for (const [member, reason] of lost) {
      const verdict = combine([allow, member, explicit]);
      assert.deepEqual(
        [verdict.decision, "reason" in verdict && verdict.reason, verdict.evaluation_status, verdict.diagnostics],
        ["deny", reason, reason, [reason]],
      );
      assert.equal(JSON.stringify(verdict).includes("inside"), false);
    }
    assert.equal(combine([]).decision, "deny");
  });

  it("keeps each statement once, and bounds what authors say", () => {
    assert.deepEqual(combine([said("deny", ["p", "p"], [{ a: 1 }]), said("deny", ["q", "p"], [{ a: 1 }, "b"])]), {
      decision: "deny",
      reason: "policy_denied",
      evaluation_status: "complete",
      determining_policies: ["p", "q"],
      diagnostics: [{ a: 1 }, "b"],
    });
    const many = combine([
      said(
        "deny",
        [],
        Array.from({ length: 500 }, (_, i) => `d${i}`),
      ),
    ]).diagnostics;
    assert.equal(many.length, MAX_STATEMENTS);
    assert.equal(many.at(-1), "truncated");
    const deep: unknown = JSON.parse(`${"[".repeat(20_000)}${"]".repeat(20_000)}`);
    assert.deepEqual(combine([said("deny", [], ["first", deep])]).diagnostics, ["first", "truncated"]);
  });

  it("stays within its bounds for any words, and never allows against an explicit deny", () => {
    const list = fc.array(fc.jsonValue({ maxDepth: 12 }), { maxLength: 40 });
    const member = fc.record({
      decision: fc.constantFrom("allow", "deny"),
      determining_policies: list,
      diagnostics: list,
    });
    fc.assert(
      fc.property(fc.array(member, { minLength: 1, maxLength: 5 }), (members) => {
        const verdict = combine(members.map((one) => answer({ evaluation_status: "complete", ...one })));
        for (const statements of [verdict.determining_policies, verdict.diagnostics]) {
          assert.ok(
            statements.length <= MAX_STATEMENTS && Buffer.byteLength(JSON.stringify(statements)) <= MAX_STATEMENT_BYTES,
          );
        }
        const objects = (one: (typeof members)[number]): boolean =>
          one.decision === "deny" && one.determining_policies.length + one.diagnostics.length > 0;
        const expected = !members.some(objects) && members.some((one) => one.decision === "allow");
        assert.equal(verdict.decision === "allow", expected);
      }),
    );
  });
});
