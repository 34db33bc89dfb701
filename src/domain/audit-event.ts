import * as v from "valibot";

const text = v.string();
const optionalText = v.nullable(v.string());

/**
 * One row of the ledger before it is chained, as its producer made it: text and integers only, so that what is hashed
 * is what is kept. `*_json` is canonical text made once by the producer. `occurred_at`: RFC 3339 in UTC with milliseconds.
 */
export const AuditEventSchema = v.strictObject({
  id: text,
  zone_id: text,
  event_type: text,
  request_id: optionalText,
  decision: v.picklist(["allow", "deny", "none"]),
  client_id: optionalText,
  subject: optionalText,
  session_id: optionalText,
  agent_session_id: optionalText,
  delegation_edge_id: optionalText,
  resource_id: optionalText,
  /** `{role}:{instance}`: who numbered it. */
  producer: text,
  /** 1, 2, 3, … per producer: a hole is a finding. */
  producer_seq: v.pipe(v.number(), v.safeInteger(), v.minValue(1)),
  policy_set_id: optionalText,
  policy_set_version_id: optionalText,
  manifest_sha: optionalText,
  evaluation_status: optionalText,
  determining_policies_json: optionalText,
  diagnostics_json: optionalText,
  metadata_json: optionalText,
  occurred_at: text,
});
export type AuditEvent = v.InferOutput<typeof AuditEventSchema>;

/** The event types that roles write. `_denied` is in the decision, not in the type. */
const EVENT_TYPES = [
  "token.issue",
  "token.exchange",
  "gateway.call",
  "gateway.outcome",
  "unauthenticated.summary",
  "stream.anomaly",
] as const;

/** What a role fills in; the writer adds the id where there is none, the producer, its number and the time. */
export type AuditDraft = Partial<Omit<AuditEvent, "producer" | "producer_seq" | "occurred_at">> &
  Pick<AuditEvent, "zone_id" | "decision"> & { readonly event_type: (typeof EVENT_TYPES)[number] };

/** The zone of what concerns no zone: anomalies of the deployment, sums of unauthenticated calls. */
export const SYSTEM_ZONE = "system";

/**
 * The way into the ledger. `append` resolves once the event is durable outside this process's memory, and rejects with
 * `Unavailable` where it can't be: the caller then refuses what it was about to allow (the event is journaled as a deny
 * under the same id and number, so that no hole appears). `record` never fails the caller: a denial or an outcome that can't be
 * written goes to the journal and follows later; it may wait for the next append, at most 50 ms.
 */
export type AuditWriter = {
  append(draft: AuditDraft): Promise<string>;
  record(draft: AuditDraft): string;
  /** Everything that was recorded is written or journaled. */
  flush(): Promise<void>;
};
