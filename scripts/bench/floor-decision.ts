import { generateKeyPairSync, hash, type KeyObject } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createPolicyCompiler } from "../../src/adapters/opa/compiler.ts";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";
import { type AuditEvent, valuesOf } from "../../src/domain/audit-event.ts";
import { policyInputText } from "../../src/domain/policy-input-text.ts";
import type { Evaluation } from "../../src/domain/policy-module.ts";
import { issuerOf, signPayload } from "../../src/domain/token.ts";
import { newTraceparent } from "../../src/gateway/edge/trace.ts";
import { isoText } from "../../src/kernel/clock.ts";
import { randomSecret, uuidv7 } from "../../src/kernel/ids.ts";
import { constant } from "../../src/kernel/json-text.ts";
import type { Log } from "../../src/kernel/log.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";
import { fittedText } from "../../src/ledger/entry.ts";

const POLICY = join(packageRoot, "config", "policies", "demo.rego");
const ISSUER_URL = "http://issuer.localhost";
const RESOURCE = "resource://demo";
const SCOPE = "tools:call";
/** As the program's own default. */
const BUDGET_UNITS = 50_000;
const MANDATE_TTL_S = 60;
const SESSION_TTL_S = 3_600;

/** A call that policy allowed. `form`: its event, to be durable before a mandate is signed. `mandate_json`: the claims. */
export type Allowed = {
  readonly began_ms: number;
  readonly request_id: string;
  readonly event_id: string;
  readonly form: string;
  readonly mandate_json: string;
};

/** What is made of a call, in texts as long as the program's. Forms are numbered: they must be sent in their order. */
export type Decisions = {
  /** One evaluation of the demo's policy, and the event of its exchange. Throws where policy does not allow. */
  allow(): Allowed;
  /** The one signature of a call: its mandate. */
  sign(allowed: Allowed): string;
  /** The form of the event that tells what came of the call. */
  outcome(allowed: Allowed, status: number, bytes: number): string;
};

const isAllow = (evaluation: Evaluation): boolean =>
  evaluation.status === "result" &&
  (evaluation.result as { readonly decision?: unknown } | undefined)?.decision === "allow";

const newSigner = (): { readonly key: KeyObject; readonly kid: string } => ({
  key: generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey,
  kid: randomSecret(), // as long as the thumbprint that the program names its keys by
});

/**
 * Compiles the demo's policy, and makes up one caller of one zone: only time and ids vary from call to call. Rejects where
 * there is no compiler.
 */
export const createDecisions = async (zone_id: string, producer: string, log: Log): Promise<Decisions> => {
  const compiled = await createPolicyCompiler({ log }).compile(readFileSync(POLICY, "utf8"), zone_id);
  if (!compiled.ok) throw new Error(`the demo's policy can't be compiled: ${JSON.stringify(compiled.issues)}`);
  const policy = await createPolicyEngine({ budget_units: BUDGET_UNITS }).load(compiled.policy.wasm, zone_id);
  const { key, kid } = newSigner();

  const client_id = uuidv7();
  const session_id = uuidv7();
  const resource_id = uuidv7();
  const iss = issuerOf(ISSUER_URL, zone_id);
  const now_s = Math.floor(Date.now() / 1_000);
  const auth_exp = now_s + SESSION_TTL_S;
  const who = { zone_id, client_id, scope: SCOPE, sid: session_id };
  // Constant, so that their part of the policy's input is written once, as it is for a token that is used again and again.
  const application = constant({ id: client_id, traits: ["demo-agent"] });
  const resource = constant({ id: resource_id, identifier: RESOURCE, scopes: [SCOPE] });
  const requested_scopes = constant([SCOPE]);
  const times = { exp: auth_exp, iat: now_s, jti: uuidv7() };
  const kind = { use: "ambient", sub_type: "application", target: [] };
  const subject_claims = constant({ iss, sub: client_id, aud: iss, ...times, ...who, ...kind });

  const inputText = (now_ms: number): string =>
    policyInputText({
      zone_id,
      application,
      credential_type: "ambient_token",
      resource,
      use: "per_call",
      requested_scopes,
      now_ms,
      method: "GET",
      path: "/",
      session_id,
      subject_claims,
      trace_id: newTraceparent().slice(3, 35),
    });

  // A mandate's claims around those that vary.
  const claims_head = JSON.stringify({ iss, sub: client_id, aud: RESOURCE }).slice(0, -1);
  const mandate_kind = { use: "per_call", sub_type: "application", target: [RESOURCE], auth_exp, via: "gateway" };
  const claims_tail = JSON.stringify({ ...who, ...mandate_kind }).slice(1);

  const policy_set_version_id = uuidv7();
  const name = (): string => uuidv7().replaceAll("-", "").slice(-22);
  // As long as the names of documents and what changes from call to call; the documents themselves come once.
  const input_names = `"documents":["${name()}","${name()}","${name()}","${name()}"],"method":"POST","path":"/mcp","trace_id":"${uuidv7().replaceAll("-", "")}","scopes":["tools:call"]`;
  let producer_seq = 0;
  const formOf = (
    event: Pick<AuditEvent, "id" | "event_type" | "request_id" | "decision" | "metadata_json">,
    now_ms: number,
  ): string => {
    const judged = event.decision === "allow";
    producer_seq += 1;
    const values = valuesOf({
      id: event.id,
      zone_id,
      event_type: event.event_type,
      request_id: event.request_id,
      decision: event.decision,
      client_id: judged ? client_id : null,
      subject: judged ? client_id : null,
      session_id,
      agent_session_id: null,
      delegation_edge_id: null,
      resource_id: judged ? resource_id : null,
      producer,
      producer_seq,
      policy_set_id: null,
      policy_set_version_id: judged ? policy_set_version_id : null,
      manifest_sha: null,
      evaluation_status: judged ? "complete" : null,
      determining_policies_json: judged ? '["demo"]' : null,
      diagnostics_json: judged ? "[]" : null,
      metadata_json: event.metadata_json,
      occurred_at: isoText(now_ms),
    });
    return fittedText(values);
  };

  return {
    allow() {
      const now_ms = Date.now();
      const input_json = inputText(now_ms);
      const evaluation = policy.evaluate(input_json);
      if (!isAllow(evaluation)) throw new Error(`policy did not allow: ${JSON.stringify(evaluation)}`);
      const iat = Math.floor(now_ms / 1_000);
      const exp = iat + MANDATE_TTL_S;
      const jti = uuidv7(now_ms);
      const id = jti;
      const request_id = uuidv7(now_ms);
      const sha256 = hash("sha256", input_json, "base64url");
      const metadata_json = `{"exp":${exp},"evaluations":[{"units":${evaluation.units},"input":{"sha256":"${sha256}",${input_names}}}]}`;
      return {
        began_ms: now_ms,
        request_id,
        event_id: id,
        form: formOf({ id, event_type: "token.exchange", request_id, decision: "allow", metadata_json }, now_ms),
        mandate_json: `${claims_head},"exp":${exp},"iat":${iat},"jti":"${jti}",${claims_tail}`,
      };
    },
    sign: ({ mandate_json }) => signPayload(key, kid, mandate_json),
    outcome({ began_ms, request_id, event_id }, status, bytes) {
      const now_ms = Date.now();
      const metadata_json = `{"decision_id":"${event_id}","status":${status},"bytes":${bytes},"duration_ms":${now_ms - began_ms},"cut":false}`;
      const id = uuidv7(now_ms);
      return formOf({ id, event_type: "gateway.outcome", request_id, decision: "none", metadata_json }, now_ms);
    },
  };
};
