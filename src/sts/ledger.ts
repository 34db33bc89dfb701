import type { AuditDocument } from "../domain/audit-document.ts";
import type { AuditDraft, AuditEvent } from "../domain/audit-event.ts";
import type { SetEvaluation } from "../domain/policy-evaluation.ts";
import { type InputEvent, inputRecordOf, type JudgingSet } from "../domain/policy-input-record.ts";
import type { Claims } from "../domain/token.ts";
import { jsonText } from "../kernel/json-text.ts";
import type { Denial } from "../kernel/pipeline.ts";
import type { Facts, Judged, Start } from "./facts.ts";

export type EventType = "token.issue" | "token.exchange";

/** What an allow knows at the least. */
export type Decided = Start & Pick<Facts, "application" | "claims" | "judged"> & Partial<Facts>;

/**
 * Inputs of all resources together, in bytes: more than the longest that policy reads, so that an exchange's is always kept,
 * and few enough that an event has room for the rest (`MAX_EVENT_BYTES`), which would lose all of them otherwise.
 */
const MAX_INPUTS_BYTES = 80 * 1024;

/** Of a text that a caller chose. */
const MAX_TEXT = 4_096;

type Verdicts = Pick<AuditEvent, "evaluation_status" | "determining_policies_json" | "diagnostics_json">;

const NO_VERDICTS: Verdicts = { evaluation_status: null, determining_policies_json: null, diagnostics_json: null };

/** JSON text of all statements, each once. */
const union = (lists: readonly (readonly unknown[])[]): string =>
  `[${[...new Set(lists.flat().map((one) => JSON.stringify(one)))].join(",")}]`;

/** A verdict's own list holds each statement once already. */
const verdictsOf = (facts: Partial<Facts>): Verdicts => {
  const { set_refusal, judged = [] } = facts;
  const [first] = judged;
  const only = set_refusal ?? (judged.length === 1 ? first?.evaluation.verdict : undefined);
  if (only !== undefined) {
    return {
      evaluation_status: only.evaluation_status,
      determining_policies_json: jsonText(only.determining_policies),
      diagnostics_json: jsonText(only.diagnostics),
    };
  }
  if (first === undefined) return NO_VERDICTS;
  const verdicts = judged.map((one) => one.evaluation.verdict);
  const failed = verdicts.find((verdict) => verdict.evaluation_status !== "complete");
  return {
    evaluation_status: (failed ?? first.evaluation.verdict).evaluation_status,
    determining_policies_json: union(verdicts.map((verdict) => verdict.determining_policies)),
    diagnostics_json: union(verdicts.map((verdict) => verdict.diagnostics)),
  };
};

/** What a verdict of several said on its own account; that of the only one stands in the event's fields. */
const verdictText = ({ verdict }: SetEvaluation): string =>
  `"evaluation_status":"${verdict.evaluation_status}","determining_policies":${jsonText(verdict.determining_policies)},"diagnostics":${jsonText(verdict.diagnostics)},`;

/**
 * Each evaluation with what its input can be rebuilt from to the byte, so that it can be judged again. `decision` is
 * left out where it is the event's.
 */
const evaluationsOf = (
  event: InputEvent & Pick<AuditEvent, "decision">,
  set: JudgingSet | undefined,
  judged: readonly Judged[],
): { readonly text: string; readonly documents: readonly AuditDocument[] } => {
  let left = MAX_INPUTS_BYTES;
  const documents: AuditDocument[] = [];
  const texts = judged.map(({ resource, scopes, asked, evaluation }) => {
    const { verdict, units, input_json } = evaluation;
    left -= Buffer.byteLength(input_json);
    // Past the bound the input's hash would help nobody: the ids of resource, set version and session remain.
    let input = `"resource_id":${JSON.stringify(resource.id)},"scopes":${jsonText(scopes)},"input":"too large to keep"`;
    if (left >= 0 && set !== undefined) {
      const record = inputRecordOf(event, set, asked, input_json);
      documents.push(...record.documents);
      input = `"input":${record.record_json}`;
    }
    const said = judged.length === 1 && verdict.decision === event.decision ? "" : `"decision":"${verdict.decision}",`;
    return `{${said}${judged.length === 1 ? "" : verdictText(evaluation)}"units":${units},${input}}`;
  });
  return { text: `[${texts.join(",")}]`, documents };
};

const policyOf = (facts: Partial<Facts>) => {
  const policy = facts.zone?.policy;
  return policy?.state !== "active" || facts.judged === undefined ? undefined : policy;
};

/** What was asked for, as far as it is not in an input that policy saw. */
const requestOf = ({ request, credential_type, trace_id }: Start & Partial<Facts>) => ({
  caller: request.caller.kind,
  credential_type,
  grant_type: request.grant_type,
  requested_resources: request.resources.slice(0, 17).map((one) => one.slice(0, 512)),
  requested_scope: request.scope?.slice(0, MAX_TEXT),
  method: request.method?.slice(0, 64),
  path: request.path?.slice(0, MAX_TEXT),
  trace_id,
});

/**
 * The text of `metadata_json`. No token, no secret: what came of them is here, not they themselves. `head`: JSON text of
 * its first members. What the event's own fields say is not said again, nor, where the one question of an exchange was put
 * to policy, what its input says: who called and how, resource, method, path, scopes, session and trace.
 */
const metadataOf = (
  event_type: EventType,
  facts: Start & Partial<Facts>,
  head: string,
  evaluations_json: string,
): string => {
  const evaluations = `"evaluations":${evaluations_json}`;
  if (event_type === "token.exchange" && facts.judged?.length === 1) {
    const scope =
      facts.request.scope === undefined
        ? ""
        : `"requested_scope":${JSON.stringify(facts.request.scope.slice(0, MAX_TEXT))},`;
    return `{${head},${scope}${evaluations}}`;
  }
  return `{${head},${JSON.stringify(requestOf(facts)).slice(1, -1)},${evaluations}}`;
};

/** One resource has its id in the event; several have theirs in the evaluations. */
const resourceOf = (facts: Partial<Facts>): string | null => {
  if (facts.resource !== undefined) return facts.resource.id;
  const [only, another] = facts.resources ?? [];
  return only !== undefined && another === undefined ? only.id : null;
};

/** Fields by name, all of them, in one place: a spread in mid-object costs more than the rest of an event. */
const draftOf = (
  event_type: EventType,
  facts: Start & Partial<Facts>,
  is: Pick<AuditEvent, "decision" | "zone_id" | "client_id" | "subject" | "session_id"> & { readonly id?: string },
  head: string,
): AuditDraft => {
  const policy = policyOf(facts);
  const agent_session_id = facts.agent_session?.id ?? facts.subject?.agent_session_id ?? null;
  const event = { id: is.id, event_type, session_id: is.session_id, agent_session_id, decision: is.decision };
  const evaluations = evaluationsOf(event, policy, facts.judged ?? []);
  // What the version's id implies stands in the document that the evaluations name, if there is one.
  const implied = evaluations.documents.length > 0 ? undefined : policy;
  const verdicts = verdictsOf(facts);
  return {
    zone_id: is.zone_id,
    event_type,
    request_id: facts.request_id,
    decision: is.decision,
    client_id: is.client_id,
    subject: is.subject,
    session_id: is.session_id,
    agent_session_id,
    delegation_edge_id: facts.delegation?.last.id ?? facts.subject?.delegation_edge_id ?? null,
    resource_id: resourceOf(facts),
    policy_set_id: implied?.policy_set_id ?? null,
    policy_set_version_id: policy?.policy_set_version_id ?? null,
    manifest_sha: implied?.manifest_sha ?? null,
    evaluation_status: verdicts.evaluation_status,
    determining_policies_json: verdicts.determining_policies_json,
    diagnostics_json: verdicts.diagnostics_json,
    metadata_json: metadataOf(event_type, facts, head, evaluations.text),
    documents: evaluations.documents,
    ...(is.id === undefined ? {} : { id: is.id }),
  };
};

/**
 * The token's id is the event's. The scope of a mandate is the one that policy was asked about, and its target that resource;
 * an ambient token's are chosen.
 */
const issuedText = (event_type: EventType, { exp, scope, target }: Claims, approval: Facts["approval"]): string =>
  `"exp":${exp}${approval === undefined ? "" : `,"challenge_id":${JSON.stringify(approval.id)}`}${event_type === "token.exchange" ? "" : `,"scope":${JSON.stringify(scope)},"target":${JSON.stringify(target)}`}`;

export const allowDraft = (event_type: EventType, facts: Decided): AuditDraft => {
  const { claims } = facts;
  const is = {
    id: claims.jti,
    decision: "allow",
    zone_id: claims.zone_id,
    client_id: claims.client_id,
    subject: claims.sub,
    session_id: claims.sid,
  } as const;
  return draftOf(event_type, facts, is, issuedText(event_type, claims, facts.approval));
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
): AuditDraft => {
  const is = {
    decision: "deny",
    zone_id: facts.request.zone_id,
    client_id: facts.application.id,
    subject: facts.subject?.sub ?? (event_type === "token.issue" ? facts.application.id : null),
    session_id: facts.subject?.sid ?? null,
  } as const;
  const { reason, detail, extra } = denial;
  const challenge_id = extra?.challenge?.["id"] ?? facts.approval?.id;
  const draft = draftOf(event_type, facts, is, JSON.stringify({ reason, step, detail, challenge_id }).slice(1, -1));
  // A challenge that was made has a row of its own, however many others were: their number is bounded already.
  return extra?.challenge?.["secret"] === undefined ? { ...draft, reason } : draft;
};
