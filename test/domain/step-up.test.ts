import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { combine, type MemberResult } from "../../src/domain/policy-verdict.ts";
import { STEP_UP_KINDS, type StepUpKind } from "../../src/domain/step-up.ts";

const said = (decision: string, diagnostics: readonly unknown[], policies: readonly unknown[] = []): MemberResult => ({
  version_id: "v",
  status: "result",
  result: { decision, evaluation_status: "complete", determining_policies: policies, diagnostics },
  units: 1,
});
const asks = (kind: unknown, ...more: readonly unknown[]) => said("deny", [{ step_up_required: kind }, ...more]);
const silent = said("deny", []);
const allows = said("allow", []);

const stepUpOf = (...members: readonly MemberResult[]): StepUpKind | undefined => {
  const verdict = combine(members);
  return verdict.decision === "deny" ? verdict.step_up : undefined;
};

describe("a step-up", () => {
  it("is asked for by a deny whose diagnostics hold a kind, whatever else allows or is silent", () => {
    for (const kind of STEP_UP_KINDS) {
      assert.equal(stepUpOf(asks(kind)), kind);
      assert.equal(stepUpOf(asks(kind, "because", { more: 1 }), allows, silent), kind);
      assert.equal(stepUpOf(silent, asks(kind), asks(kind)), kind);
    }
  });

  it("is none where one explicit deny asks for nothing, since the deny would stay", () => {
    assert.equal(stepUpOf(asks("mfa"), said("deny", ["closed"])), undefined);
    assert.equal(stepUpOf(asks("mfa"), said("deny", [], ["p"])), undefined);
  });

  it("is none where two kinds are asked for: one challenge has one", () => {
    assert.equal(stepUpOf(asks("mfa"), asks("human_approval")), undefined);
    assert.equal(stepUpOf(asks("mfa", { step_up_required: "human_approval" })), undefined);
  });

  it("is none for what is no kind, nor where nobody denies", () => {
    for (const odd of ["", "MFA", "none", null, 7, true, {}, ["mfa"], "__proto__"])
      assert.equal(stepUpOf(asks(odd)), undefined);
    assert.equal(stepUpOf(said("deny", ["step_up_required", "mfa", ["step_up_required"], null])), undefined);
    assert.equal(stepUpOf(said("allow", [{ step_up_required: "mfa" }])), undefined);
    assert.equal(stepUpOf(silent), undefined);
  });

  it("is asked for exactly where every explicit deny asks for the same", () => {
    const member = fc.record({
      allow: fc.boolean(),
      kinds: fc.array(fc.constantFrom(...STEP_UP_KINDS), { maxLength: 2 }),
      words: fc.array(fc.string({ maxLength: 4 }), { maxLength: 2 }),
    });
    fc.assert(
      fc.property(fc.array(member, { minLength: 1, maxLength: 4 }), (members) => {
        const results = members.map(({ allow, kinds, words }) =>
          said(allow ? "allow" : "deny", [...words, ...kinds.map((kind) => ({ step_up_required: kind }))]),
        );
        const denies = members.filter(({ allow, kinds, words }) => !allow && kinds.length + words.length > 0);
        const kinds = new Set(denies.flatMap((one) => one.kinds));
        const one = denies.every((deny) => deny.kinds.length > 0) && kinds.size === 1;
        assert.equal(stepUpOf(...results), one ? [...kinds][0] : undefined);
      }),
    );
  });
});
