import type { AuditDraft } from "../domain/audit-event.ts";
import type { Denial } from "../kernel/pipeline.ts";
import type { Facts, Judged, Start } from "./facts.ts";

export type EventType = "token.issue" | "token.exchange";

/** What an allow knows at the least. */
export type Decided = Start & Pick<Facts, "application" | "claims" | "judged"> & Partial<Facts>;

/** Inputs of all resources together; an event must fit into an entry of the stream with others. */
const MAX_INPUT_CHARS = 192 * 1024;

type Verdicts = Pick<AuditDraft, "evaluation_status" | "determining_policies_json" | "diagnostics_json">;
type Policy = Pick<AuditDraft, "policy_set_id" | "policy_set_version_id" | "manifest_sha">;

const NO_VERDICTS: Verdicts = {};
const NO_POLICY: Policy = {};

/** JSON text of all statements, each once. A verdict's own list holds each once already. */
const union = (lists: readonly (readonly unknown[])[]): string => {
  const [only] = lists;
  if (only !== undefined && lists.length === 1) return JSON.stringify(only);
  return `[${[...new Set(lists.flat().map((one) => JSON.stringify(one)))].join(",")}]`;
};

const verdictsOf = (facts: Partial<Facts>): Verdicts => {
  const verdicts =
    facts.set_refusal === undefined ? (facts.judged ?? []).map((one) => one.evaluation) : [facts.set_refusal];
  if (verdicts.length === 0) return NO_VERDICTS;
  const failed = verdicts.find((verdict) => verdict.evaluation_status !== "complete");
  return {
    evaluation_status: (failed ?? verdicts[0])?.evaluation_status ?? null,
    determining_policies_json: union(verdicts.map((verdict) => verdict.determining_policies)),
    diagnostics_json: union(verdicts.map((verdict) => verdict.diagnostics)),
  };
};

/** Each evaluation with the very input that policy saw, so that it can be judged again. */
const evaluationsText = (judged: readonly Judged[]): string => {
  let left = MAX_INPUT_CHARS;
  const texts = judged.map(({ resource, scopes, evaluation }) => {
    const { decision, evaluation_status, determining_policies, diagnostics, units, input_json } = evaluation;
    const head = {
      resource_id: resource.id,
      scopes,
      decision,
      evaluation_status,
      determining_policies,
      diagnostics,
      units,
    };
    left -= input_json.length;
    // Past the bound the input's hash would help nobody: the ids of resource, set version and session remain.
    return `${JSON.stringify(head).slice(0, -1)},"input":${left >= 0 ? input_json : '"too large to keep"'}}`;
  });
  return `[${texts.join(",")}]`;
};

const policyOf = (facts: Partial<Facts>): Policy => {
  const policy = facts.zone?.policy;
  return policy?.state !== "active" || facts.judged === undefined ? NO_POLICY : policy;
};

/** What both kinds of decision say of the policy: fields by name, since a spread in mid-object costs more than all of them. */
const judgedBy = (facts: Partial<Facts>): Verdicts & Policy => {
  const { policy_set_id, policy_set_version_id, manifest_sha } = policyOf(facts);
  const { evaluation_status, determining_policies_json, diagnostics_json } = verdictsOf(facts);
  return {
    policy_set_id: policy_set_id ?? null,
    policy_set_version_id: policy_set_version_id ?? null,
    manifest_sha: manifest_sha ?? null,
    evaluation_status: evaluation_status ?? null,
    determining_policies_json: determining_policies_json ?? null,
    diagnostics_json: diagnostics_json ?? null,
  };
};

/** The text of `metadata_json`, in one fixed order. No token, no secret: what came of them is here, not they themselves. */
const metadataOf = (facts: Start & Partial<Facts>, outcome: object): string => {
  const { request } = facts;
  const head = JSON.stringify({
    ...outcome,
    caller: request.caller.kind,
    credential_type: facts.credential_type ?? null,
    grant_type: request.grant_type,
    requested_resources: request.resources.slice(0, 17).map((one) => one.slice(0, 512)),
    requested_scope: request.scope?.slice(0, 4096) ?? null,
    method: request.method?.slice(0, 64) ?? null,
    path: request.path?.slice(0, 4096) ?? null,
    trace_id: facts.trace_id ?? null,
  });
  return `${head.slice(0, -1)},"evaluations":${evaluationsText(facts.judged ?? [])}}`;
};

/** One resource has its id in the event; several have theirs in the evaluations. */
const resourceOf = (facts: Partial<Facts>): string | null => {
  if (facts.resource !== undefined) return facts.resource.id;
  const [only, another] = facts.resources ?? [];
  return only !== undefined && another === undefined ? only.id : null;
};

export const allowDraft = (event_type: EventType, facts: Decided): AuditDraft => {
  const { claims } = facts;
  const { jti, use, exp, scope, target, sid, sub } = claims;
  return {
    ...judgedBy(facts),
    zone_id: claims.zone_id,
    event_type,
    request_id: facts.request_id,
    decision: "allow",
    client_id: claims.client_id,
    subject: sub,
    session_id: sid,
    resource_id: resourceOf(facts),
    metadata_json: metadataOf(facts, { reason: "allowed", jti, use, exp, scope, target, via: claims.via ?? null }),
  };
};

/**
 * A refusal to somebody whom we know. Who the subject and its session are is the token's word, and believed only once its
 * signature was verified.
 */
export const denyDraft = (
  event_type: EventType,
  facts: Start & Partial<Facts> & Pick<Facts, "application">,
  step: string,
  denial: Denial,
): AuditDraft => ({
  ...judgedBy(facts),
  zone_id: facts.request.zone_id,
  event_type,
  request_id: facts.request_id,
  decision: "deny",
  client_id: facts.application.id,
  subject: facts.subject?.sub ?? (event_type === "token.issue" ? facts.application.id : null),
  session_id: facts.subject?.sid ?? null,
  resource_id: resourceOf(facts),
  metadata_json: metadataOf(facts, { reason: denial.reason, step, detail: denial.detail ?? null }),
});
