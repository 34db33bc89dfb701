import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { buildPolicyInput, type PolicyFacts, policyInputText, type PolicyVerdict } from "../../src/domain/policy.ts";
import type { Claims } from "../../src/domain/token.ts";
import { deny } from "../../src/kernel/pipeline.ts";
import type { Judged, Start } from "../../src/sts/facts.ts";
import { allowDraft, denyDraft } from "../../src/sts/ledger.ts";
import type { TokenRequest } from "../../src/sts/edge/request.ts";
import type { Application, Resource, ZoneSnapshot } from "../../src/sts/known/snapshot.ts";

const application: Application = {
  id: "app",
  secret_hash: "scrypt:secret",
  scopes: ["read"],
  traits: ["agent"],
  rate_limit_per_minute: undefined,
};
const resourceNamed = (id: string): Resource => ({
  id,
  identifier: `resource://${id}`,
  upstream_url: "http://u",
  scopes: ["read"],
});
const zone = {
  zone_id: "z",
  policy: { state: "active", policy_set_id: "set", policy_set_version_id: "v1", manifest_sha: "sha", members: [] },
} as unknown as ZoneSnapshot;

const start = (some: Partial<TokenRequest> = {}): Start => ({
  request: {
    zone_id: "z",
    caller: { kind: "gateway", nonce: undefined },
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    resources: ["resource://one"],
    scope: undefined,
    subject_token: "the.subject.token",
    subject_token_type: undefined,
    requested_token_type: undefined,
    session_id: undefined,
    ttl_seconds: undefined,
    method: "POST",
    path: '/a"b',
    unsupported: [],
    ...some,
  },
  request_id: "request",
  trace_id: "trace",
  now_ms: 1_800_000_000_000,
});

const asked = (resource: Resource): PolicyFacts => ({
  zone_id: "z",
  application,
  credential_type: "ambient_token",
  resource,
  use: "per_call",
  requested_scopes: ["read"],
  now_ms: 1_800_000_000_000,
  method: "POST",
  path: '/a"b',
  session_id: "session",
  subject_claims: { sub: "app" },
  trace_id: "trace",
});
const judged = (resource: Resource, decision: "allow" | "deny"): Judged => {
  const rest = {
    evaluation_status: "complete",
    determining_policies: [resource.id],
    diagnostics: [{ said: decision }],
  } as const;
  const verdict: PolicyVerdict =
    decision === "allow" ? { decision, ...rest } : { decision, reason: "policy_denied", ...rest };
  return {
    resource,
    scopes: ["read"],
    evaluation: { verdict, units: 7, input_json: policyInputText(asked(resource)), faults: [] },
  };
};
const claims: Claims = {
  iss: "i",
  sub: "app",
  aud: "resource://one",
  exp: 1_800_000_060,
  iat: 1_800_000_000,
  jti: "jti",
  zone_id: "z",
  client_id: "app",
  scope: "read",
  sid: "session",
  use: "per_call",
  sub_type: "application",
  target: ["resource://one"],
};
const [one, two] = [resourceNamed("one"), resourceNamed("two")];
const metadataOf = (draft: { readonly metadata_json?: string | null }): unknown =>
  JSON.parse(draft.metadata_json ?? "null");

describe("what the ledger is told", () => {
  const known = { zone, application, credential_type: "ambient_token", set_refusal: undefined } as const;

  it("of a mandate: its id and end, and the input that policy saw, each thing once", () => {
    const draft = allowDraft("token.exchange", {
      ...start(),
      ...known,
      resource: one,
      claims,
      judged: [judged(one, "allow")],
    });
    assert.deepEqual(metadataOf(draft), {
      reason: "allowed",
      jti: "jti",
      exp: 1_800_000_060,
      evaluations: [{ decision: "allow", units: 7, input: buildPolicyInput(asked(one)) }],
    });
    const { metadata_json: _, ...fields } = draft;
    assert.deepEqual(fields, {
      zone_id: "z",
      event_type: "token.exchange",
      request_id: "request",
      decision: "allow",
      client_id: "app",
      subject: "app",
      session_id: "session",
      resource_id: "one",
      policy_set_id: "set",
      policy_set_version_id: "v1",
      manifest_sha: "sha",
      evaluation_status: "complete",
      determining_policies_json: '["one"]',
      diagnostics_json: '[{"said":"allow"}]',
    });
  });

  it("of a scope that was asked for by name: its words", () => {
    const facts = { ...start({ scope: 'read "' }), ...known, resource: one, claims, judged: [judged(one, "allow")] };
    const { requested_scope } = metadataOf(allowDraft("token.exchange", facts)) as { requested_scope: string };
    assert.equal(requested_scope, 'read "');
  });

  it("of a refusal by policy: its step and input; of one before: all that was asked for", () => {
    const denied = denyDraft(
      "token.exchange",
      { ...start(), ...known, resource: one, subject: claims, judged: [judged(one, "deny")] },
      "policy_allows",
      deny("policy_denied"),
    );
    assert.deepEqual(metadataOf(denied), {
      reason: "policy_denied",
      step: "policy_allows",
      evaluations: [{ decision: "deny", units: 7, input: buildPolicyInput(asked(one)) }],
    });
    const early = denyDraft(
      "token.exchange",
      { ...start(), ...known },
      "resource",
      deny("resource_unknown", "no such"),
    );
    assert.deepEqual(metadataOf(early), {
      reason: "resource_unknown",
      step: "resource",
      detail: "no such",
      caller: "gateway",
      credential_type: "ambient_token",
      grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
      requested_resources: ["resource://one"],
      method: "POST",
      path: '/a"b',
      trace_id: "trace",
      evaluations: [],
    });
    assert.deepEqual([early.subject, early.session_id, early.policy_set_id], [null, null, null]);
  });

  it("of an ambient token for several resources: each verdict, since the event's fields hold them united", () => {
    const draft = allowDraft("token.issue", {
      ...start(),
      ...known,
      resources: [one, two],
      claims: { ...claims, use: "ambient" },
      judged: [judged(one, "allow"), judged(two, "deny")],
    });
    const { evaluations, scope, target } = metadataOf(draft) as {
      evaluations: Record<string, unknown>[];
      scope: string;
      target: string[];
    };
    assert.deepEqual([scope, target, draft.resource_id], ["read", ["resource://one"], null]);
    assert.deepEqual(
      evaluations.map((evaluation) => ({ ...evaluation, input: "as it was" })),
      [
        {
          decision: "allow",
          evaluation_status: "complete",
          determining_policies: ["one"],
          diagnostics: [{ said: "allow" }],
          units: 7,
          input: "as it was",
        },
        {
          decision: "deny",
          evaluation_status: "complete",
          determining_policies: ["two"],
          diagnostics: [{ said: "deny" }],
          units: 7,
          input: "as it was",
        },
      ],
    );
    assert.deepEqual(
      [draft.determining_policies_json, draft.diagnostics_json],
      ['["one","two"]', '[{"said":"allow"},{"said":"deny"}]'],
    );
  });

  it("of inputs that are too long together: which resource and scopes they were about", () => {
    const wide = judged(one, "allow");
    const long = { ...wide, evaluation: { ...wide.evaluation, input_json: JSON.stringify("x".repeat(60 * 1024)) } };
    const draft = allowDraft("token.issue", {
      ...start(),
      ...known,
      resources: [one, two],
      claims,
      judged: [long, long],
    });
    const { evaluations } = metadataOf(draft) as { evaluations: Record<string, unknown>[] };
    assert.equal(String(evaluations[0]?.["input"]).length, 60 * 1024);
    const { resource_id, scopes, input } = evaluations[1] ?? {};
    assert.deepEqual([resource_id, scopes, input], ["one", ["read"], "too large to keep"]);
  });

  it("never of a token or a secret", () => {
    const facts = {
      ...start({ caller: { kind: "client", client_id: "app", secret: "hunter2", address: "a" } }),
      ...known,
    };
    const texts = JSON.stringify([
      allowDraft("token.exchange", { ...facts, claims, judged: [judged(one, "allow")], access_token: "the.new.token" }),
      denyDraft("token.issue", facts, "scope", deny("scope_malformed")),
    ]);
    for (const secret of ["the.subject.token", "the.new.token", "hunter2", "scrypt:secret"])
      assert.ok(!texts.includes(secret), secret);
  });
});
