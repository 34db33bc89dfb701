import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import {
  buildPolicyInput,
  combine,
  MAX_STATEMENT_BYTES,
  MAX_STATEMENTS,
  type MemberResult,
  type PolicyFacts,
  policyInputText,
  refusal,
} from "../../src/domain/policy.ts";
import { constant } from "../../src/kernel/json-text.ts";

const facts: PolicyFacts = {
  zone_id: "z",
  application: { id: "a", traits: ["t"] },
  credential_type: "client_secret",
  resource: { id: "r", identifier: "resource://r", scopes: ["r.read"] },
  use: "ambient",
  requested_scopes: ["r.read"],
  now_ms: Date.UTC(2026, 0, 4, 23, 59, 59, 999),
};

const answer = (result: unknown): MemberResult => ({ version_id: "v", status: "result", result, units: 1 });
const said = (
  decision: string,
  policies: readonly unknown[] = [],
  diagnostics: readonly unknown[] = [],
): MemberResult => answer({ decision, evaluation_status: "complete", determining_policies: policies, diagnostics });
const allow = said("allow", ["p-allow"]);
const silent = said("deny");
const explicit = said("deny", ["p-deny"], ["because"]);

describe("the policy's input", () => {
  it("has every member that policies may read, and null where there is nothing", () => {
    assert.deepEqual(buildPolicyInput(facts), {
      principal: {
        type: "Application",
        id: "a",
        zone_id: "z",
        credential_type: "client_secret",
        traits: ["t"],
        agent_session_id: null,
      },
      resource: { type: "Resource", id: "r", identifier: "resource://r", scopes: ["r.read"] },
      action: { id: "TokenExchange", use: "ambient" },
      session: null,
      delegation_edge: null,
      context: {
        actor_claims: null,
        subject_claims: null,
        trace_id: null,
        session_id: null,
        agent_session_id: null,
        delegation_edge_id: null,
        challenge_resolved: false,
        requested_scopes: ["r.read"],
        now: "2026-01-04T23:59:59.999Z",
        time: { unix_s: 1_767_571_199, weekday: "Sunday", hour: 23, minute: 59 },
      },
    });
  });

  it("names the call and the session where there are any", () => {
    const input = buildPolicyInput({ ...facts, use: "per_call", method: "POST", path: "/mcp?x=1", session_id: "s" });
    assert.deepEqual(input.action, { id: "TokenExchange", use: "per_call", method: "POST", path: "/mcp?x=1" });
    assert.deepEqual([input.session, input.context.session_id], [{ id: "s" }, "s"]);
  });
});

/** Ids as they are, and every text that a caller could send in their place. */
const text = fc.oneof(
  fc.uuid(),
  fc.string(),
  fc.string({ unit: "binary" }),
  fc.constantFrom("\ud800", "\u2028", '"\\/', "\0"),
);
const texts = fc.array(text, { maxLength: 4 });
const perhaps = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });
const edge = fc.record({
  id: text,
  source_session_id: text,
  target_session_id: text,
  issuer_application_id: text,
  receiver_application_id: text,
  resource_id: fc.option(text),
  scopes: texts,
  edge_version: fc.nat(),
  path: texts,
  graph_epoch: fc.nat(),
  constraints_json: fc.jsonValue(),
});
const claims = fc.dictionary(text, fc.oneof(text, texts, fc.nat(), fc.jsonValue()));

describe("the text of the policy's input", () => {
  // Few applications, resources and tokens and many calls of each: what is remembered of one must not show in another.
  const applications = fc.sample(fc.record({ id: text, traits: texts }), { numRuns: 4, seed: 1 });
  const resources = fc.sample(fc.record({ id: text, identifier: text, scopes: texts }), { numRuns: 4, seed: 2 });
  const tokens = fc.sample(claims, { numRuns: 4, seed: 3 });
  const one = <T extends object>(known: readonly T[], fresh: fc.Arbitrary<T>): fc.Arbitrary<T> =>
    fc.oneof(
      fc.constantFrom(...known.map((value) => constant(structuredClone(value)))),
      fc.constantFrom(...known),
      fresh,
    );

  const anyFacts: fc.Arbitrary<PolicyFacts> = fc.record(
    {
      zone_id: fc.oneof(fc.constantFrom("z1", "z2"), text),
      application: one(applications, fc.record({ id: text, traits: texts })),
      credential_type: fc.constantFrom("client_secret", "ambient_token"),
      resource: one(resources, fc.record({ id: text, identifier: text, scopes: texts })),
      use: fc.constantFrom("ambient", "per_call"),
      requested_scopes: fc.oneof(
        texts,
        texts.map((scopes) => constant(scopes)),
      ),
      now_ms: fc.oneof(fc.constantFrom(facts.now_ms, 0), fc.integer({ min: -1e12, max: 8e12 })),
      method: perhaps(text),
      path: perhaps(text),
      session_id: perhaps(text),
      agent_session_id: perhaps(text),
      delegation_edge: perhaps(edge),
      subject_claims: perhaps(one(tokens, claims)),
      actor_claims: perhaps(claims),
      trace_id: perhaps(text),
      challenge_resolved: perhaps(fc.boolean()),
    },
    {
      requiredKeys: ["zone_id", "application", "credential_type", "resource", "use", "requested_scopes", "now_ms"],
    },
  );

  it("is what JSON.stringify makes of the input, to the letter, whatever was asked before", () => {
    fc.assert(
      fc.property(fc.array(anyFacts, { minLength: 1, maxLength: 6 }), (asked) => {
        for (const one_asked of [...asked, ...asked.toReversed()]) {
          assert.equal(policyInputText(one_asked), JSON.stringify(buildPolicyInput(one_asked)));
        }
      }),
      { numRuns: 500 },
    );
  });

  it("follows an application or a resource that is not frozen, and so may change", () => {
    const application = { id: "a", traits: ["t"] };
    const resource = { id: "r", identifier: "resource://r", scopes: ["r.read"] };
    const before = policyInputText({ ...facts, application, resource });
    application.traits.push("u");
    resource.scopes.push("r.write");
    const after = policyInputText({ ...facts, application, resource });
    assert.notEqual(after, before);
    assert.equal(after, JSON.stringify(buildPolicyInput({ ...facts, application, resource })));
  });
});

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
