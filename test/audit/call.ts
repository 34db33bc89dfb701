import type { AuditDraft } from "../../src/domain/audit-event.ts";
import type { PolicyFacts } from "../../src/domain/policy-input.ts";
import { policyInputText } from "../../src/domain/policy-input-text.ts";
import type { Claims } from "../../src/domain/token.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { constant } from "../../src/kernel/json-text.ts";
import { allowDraft } from "../../src/sts/ledger.ts";
import type { Binding, Inbound } from "../../src/gateway/facts.ts";
import { createLedger } from "../../src/gateway/ledger.ts";
import type { ZoneSnapshot } from "../../src/sts/known/snapshot.ts";

/** What the ledger is told of an ordinary call. */
export type OrdinaryCall = {
  readonly decision: AuditDraft;
  /** Of the Gateway, after it. */
  readonly outcome: AuditDraft;
  /** The very input that policy saw. */
  readonly input_json: string;
};

/** Calls of one application's token to one resource of one zone. */
export const ordinaryCalls = (zone_id: string): (() => OrdinaryCall) => {
  const application = constant({
    id: uuidv7(),
    secrets: [],
    scopes: ["tools:call", "tools:list"],
    traits: ["agent", "team:support"],
    rate_limit_per_minute: undefined,
    unbound_mandates: false,
    assertion_version: undefined,
  });
  const resource = constant({
    id: uuidv7(),
    identifier: "resource://tools",
    upstream_url: "http://upstream.test/",
    application_id: null,
    provider_id: null,
    scopes: ["tools:call", "tools:list"],
    cost_units: 0,
  });
  const policy = {
    state: "active",
    policy_set_id: uuidv7(),
    policy_set_version_id: uuidv7(),
    manifest_sha: "ab".repeat(32),
    members: [],
  } as const;
  // Its keys are nothing that the ledger looks at.
  const zone = { zone_id, policy } as unknown as ZoneSnapshot;
  const sid = uuidv7();
  const iss = `http://issuer.test/zones/${zone_id}`;
  const began_s = Math.floor(Date.now() / 1_000);
  const subject: Claims = constant({
    iss,
    sub: application.id,
    aud: iss,
    exp: began_s + 900,
    iat: began_s,
    jti: uuidv7(),
    zone_id,
    client_id: application.id,
    scope: "tools:call tools:list",
    sid,
    use: "ambient",
    sub_type: "application",
    target: [resource.identifier],
  });
  const determining_policies = constant([policy.policy_set_id]);
  const requested_scopes = constant(["tools:call"]);
  const diagnostics = constant([]);
  return () => {
    const jti = uuidv7();
    const now_ms = Number.parseInt(jti.slice(0, 8) + jti.slice(9, 13), 16);
    const request_id = uuidv7();
    const trace_id = uuidv7().replaceAll("-", "");
    const asked: PolicyFacts = {
      zone_id,
      application,
      credential_type: "ambient_token",
      resource,
      use: "per_call",
      requested_scopes,
      now_ms,
      method: "POST",
      path: "/mcp",
      session_id: sid,
      subject_claims: subject,
      trace_id,
    };
    const input_json = policyInputText(asked);
    const decision = allowDraft("token.exchange", {
      request: {
        zone_id,
        caller: { kind: "gateway", nonce: undefined },
        grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
        resources: [resource.identifier],
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
        path: "/mcp",
        challenge_id: undefined,
        challenge_response: undefined,
        unsupported: [],
      },
      request_id,
      trace_id,
      now_ms,
      zone,
      application,
      credential_type: "ambient_token",
      set_refusal: undefined,
      resource,
      subject,
      judged: [
        {
          resource,
          scopes: ["tools:call"],
          asked,
          evaluation: {
            verdict: {
              decision: "allow",
              evaluation_status: "complete",
              determining_policies,
              diagnostics,
            },
            units: 1234,
            input_json,
            faults: [],
          },
        },
      ],
      claims: { ...subject, jti, exp: began_s + 60, use: "per_call", scope: "tools:call", aud: resource.identifier },
    });
    let outcome: AuditDraft | undefined;
    const gateway = createLedger({
      append: () => Promise.resolve(""),
      record(draft) {
        outcome = draft;
        return "";
      },
      flush: () => Promise.resolve(),
    });
    const inbound = { request_id, method: "POST" } as unknown as Inbound;
    const binding = { resource_id: resource.id } as unknown as Binding;
    gateway.outcome(inbound, subject, binding, {
      decision_id: jti,
      status: 200,
      bytes: 12_345,
      duration_ms: 123,
      cut: false,
    });
    return { decision, outcome: outcome as AuditDraft, input_json };
  };
};
