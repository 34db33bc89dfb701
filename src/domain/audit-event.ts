import { Unavailable } from "../ports/streams.ts";

export const DECISIONS = ["allow", "deny", "none"] as const;
export type Decision = (typeof DECISIONS)[number];

/**
 * One row of the ledger before it is chained, as its producer made it: text and integers only, so that what is hashed
 * is what is kept. `*_json` is canonical text made once by the producer. `occurred_at`: RFC 3339 in UTC with milliseconds.
 */
export type AuditEvent = {
  readonly id: string;
  readonly zone_id: string;
  readonly event_type: string;
  readonly request_id: string | null;
  readonly decision: Decision;
  readonly client_id: string | null;
  readonly subject: string | null;
  readonly session_id: string | null;
  readonly agent_session_id: string | null;
  readonly delegation_edge_id: string | null;
  readonly resource_id: string | null;
  /** `{role}:{instance}`: who numbered it. */
  readonly producer: string;
  /** 1, 2, 3, … per producer, a safe integer: a hole is a finding. */
  readonly producer_seq: number;
  readonly policy_set_id: string | null;
  readonly policy_set_version_id: string | null;
  readonly manifest_sha: string | null;
  readonly evaluation_status: string | null;
  readonly determining_policies_json: string | null;
  readonly diagnostics_json: string | null;
  readonly metadata_json: string | null;
  readonly occurred_at: string;
};

/** The event types that roles write. `_denied` is in the decision, not in the type. */
const EVENT_TYPES = [
  "token.issue",
  "token.exchange",
  "gateway.call",
  "gateway.outcome",
  "unauthenticated.summary",
  "stream.anomaly",
] as const;

/**
 * What a role fills in; the writer adds the id where there is none, the producer, its number and the time. `reason`, of a
 * denial: one of our own words, by which repeated ones are summed up. It stands in `metadata_json`, too.
 */
export type AuditDraft = Partial<Omit<AuditEvent, "producer" | "producer_seq" | "occurred_at">> &
  Pick<AuditEvent, "zone_id" | "decision"> & {
    readonly event_type: (typeof EVENT_TYPES)[number];
    readonly reason?: string;
  };

/** The zone of what concerns no zone: anomalies of the deployment, sums of unauthenticated calls. */
export const SYSTEM_ZONE = "system";

/** The audit stream is near full, and this zone has filled more than its share of it: its calls are refused before others'. */
export class LedgerShare extends Unavailable {
  constructor() {
    super("the ledger's share of this zone");
  }
}

/**
 * The way into the ledger. `append` resolves once the event is durable outside this process's memory, and rejects with
 * `Unavailable` where it can't be: the caller then refuses what it was about to allow (the event is journaled as a deny
 * under the same id and number, so that no hole appears), with `LedgerShare` where that is the zone's own doing. `record` never fails the caller: a denial or an outcome that can't be
 * written goes to the journal and follows later; it may wait for the next append, at most 50 ms. A denial with a `reason`
 * that repeats one of the last second has no event of its own: it is counted in one of the next second.
 */
export type AuditWriter = {
  append(draft: AuditDraft): Promise<string>;
  record(draft: AuditDraft): string;
  /** Everything that was recorded is written or journaled. */
  flush(): Promise<void>;
};
