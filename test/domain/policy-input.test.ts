import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import type { PolicyFacts, PolicyInput } from "../../src/domain/policy-input.ts";
import { policyInputText } from "../../src/domain/policy-input-text.ts";
import { constant } from "../../src/kernel/json-text.ts";
import { buildPolicyInput } from "../support/policy-input.ts";

const facts: PolicyFacts = {
  zone_id: "z",
  application: { id: "a", traits: ["t"] },
  credential_type: "client_secret",
  resource: { id: "r", identifier: "resource://r", scopes: ["r.read"] },
  use: "ambient",
  requested_scopes: ["r.read"],
  now_ms: Date.UTC(2026, 0, 4, 23, 59, 59, 999),
};

describe("the policy's input", () => {
  it("has every member that policies may read, and null where there is nothing", () => {
    assert.deepEqual(JSON.parse(policyInputText(facts)), {
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
    const asked: PolicyFacts = { ...facts, use: "per_call", method: "POST", path: "/mcp?x=1", session_id: "s" };
    const input = JSON.parse(policyInputText(asked)) as PolicyInput;
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
