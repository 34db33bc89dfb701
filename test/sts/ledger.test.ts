import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import type { AuditDraft } from "../../src/domain/audit-event.ts";
import type { PolicyFacts } from "../../src/domain/policy-input.ts";
import { policyInputText } from "../../src/domain/policy-input-text.ts";
import type { PolicyVerdict } from "../../src/domain/policy-verdict.ts";
import { type InputRecord, rebuiltInput } from "../../src/domain/policy-input-record.ts";
import type { Claims } from "../../src/domain/token.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { deny } from "../../src/kernel/pipeline.ts";
import type { Judged, Start } from "../../src/sts/facts.ts";
import { allowDraft, denyDraft } from "../../src/sts/ledger.ts";
import type { TokenRequest } from "../../src/sts/edge/request.ts";
import type { Application, Resource, ZoneSnapshot } from "../../src/sts/known/snapshot.ts";

const SESSION = uuidv7();
const JTI = uuidv7(1_800_000_000_000);
const application: Application = {
  id: "app",
  secrets: [{ hash: "scrypt:secret", opens_until_ms: Number.POSITIVE_INFINITY }],
  scopes: ["read"],
  traits: ["agent"],
  rate_limit_per_minute: undefined,
  unbound_mandates: false,
  assertion_version: undefined,
};
const resourceNamed = (id: string): Resource => ({
  id,
  identifier: `resource://${id}`,
  upstream_url: "http://u",
  application_id: null,
  provider_id: null,
  scopes: ["read"],
  cost_units: 0,
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
    actor_token: undefined,
    actor_token_type: undefined,
    requested_token_type: undefined,
    session_id: undefined,
    agent_session_id: undefined,
    delegation_edge_id: undefined,
    ttl_seconds: undefined,
    method: "POST",
    path: '/a"b',
    challenge_id: undefined,
    challenge_response: undefined,
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
  session_id: SESSION,
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
    asked: asked(resource),
    evaluation: { verdict, units: 7, input_json: policyInputText(asked(resource)), faults: [] },
  };
};
const claims: Claims = {
  iss: "i",
  sub: "app",
  aud: "resource://one",
  exp: 1_800_000_060,
  iat: 1_800_000_000,
  jti: JTI,
  zone_id: "z",
  client_id: "app",
  scope: "read",
  sid: SESSION,
  use: "per_call",
  sub_type: "application",
  target: ["resource://one"],
};
const [one, two] = [resourceNamed("one"), resourceNamed("two")];
const metadataOf = (draft: { readonly metadata_json?: string | null }): unknown =>
  JSON.parse(draft.metadata_json ?? "null");

/** The input of a draft's first evaluation, out of what the ledger is given. */
const rebuilt = (draft: AuditDraft): string | undefined => {
  const { evaluations } = metadataOf(draft) as { evaluations: readonly { input: InputRecord }[] };
  const { id, event_type, session_id = null, agent_session_id = null } = draft;
  const documents = new Map(draft.documents?.map(({ name, text }) => [name, text]));
  const [first] = evaluations;
  assert.ok(first !== undefined);
  return rebuiltInput({ id, event_type, session_id, agent_session_id }, first.input, (name) => documents.get(name));
};

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
      exp: 1_800_000_060,
      evaluations: [
        {
          units: 7,
          input: {
            sha256: createHash("sha256")
              .update(policyInputText(asked(one)))
              .digest("base64url"),
            documents: draft.documents?.map(({ name }) => name),
            method: "POST",
            path: '/a"b',
            trace_id: "trace",
            scopes: ["read"],
          },
        },
      ],
    });
    assert.equal(rebuilt(draft), policyInputText(asked(one)));
    assert.deepEqual(JSON.parse(draft.documents?.[0]?.text ?? ""), {
      type: "PolicySet",
      policy_set_id: "set",
      policy_set_version_id: "v1",
      manifest_sha: "sha",
    });
    const { metadata_json: _, documents: __, ...fields } = draft;
    assert.deepEqual(fields, {
      id: JTI,
      zone_id: "z",
      event_type: "token.exchange",
      request_id: "request",
      decision: "allow",
      client_id: "app",
      subject: "app",
      session_id: SESSION,
      agent_session_id: null,
      delegation_edge_id: null,
      resource_id: "one",
      policy_set_id: null, // in a document
      policy_set_version_id: "v1",
      manifest_sha: null,
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
    assert.equal(rebuilt(denied), policyInputText(asked(one)));
    const { evaluations: _, ...said } = metadataOf(denied) as { evaluations: unknown };
    assert.deepEqual(said, { reason: "policy_denied", step: "policy_allows" });
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
    assert.equal(typeof (evaluations[0]?.["input"] as InputRecord | undefined)?.sha256, "string");
    const { resource_id, scopes, input } = evaluations[1] ?? {};
    assert.deepEqual([resource_id, scopes, input], ["one", ["read"], "too large to keep"]);
  });

  it("never of a token or a secret", () => {
    const facts = {
      ...start({
        caller: { kind: "client", client_id: "app", proof: { by: "secret", secret: "hunter2" }, address: "a" },
      }),
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
