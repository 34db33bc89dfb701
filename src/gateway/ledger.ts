import type { AuditDraft, AuditWriter } from "../domain/audit-event.ts";
import { SYSTEM_ZONE } from "../domain/audit-event.ts";
import type { Claims } from "../domain/token.ts";
import { type Worker, worker } from "../kernel/service.ts";
import type { Binding, Inbound } from "./facts.ts";

/** How an answer ended: whole, or cut by what. `drain`: this process stopped; `stale`: the revocation state was too old for too long. */
export type Cut =
  | false
  | "revoked"
  | "stale"
  | "expired"
  | "idle"
  | "max"
  | "client"
  | "upstream"
  | "too_large"
  | "drain";

/** What came of a call that was let through. `status`: the upstream's, or ours where it gave none. */
export type CallOutcome = {
  readonly decision_id: string | undefined;
  readonly status: number;
  readonly bytes: number;
  readonly duration_ms: number;
  readonly cut: Cut;
};

/** The Gateway's hand in the ledger. */
export type Ledger = {
  /** A presented mandate passes; resolves to the event's id once it is durable. */
  allowed(inbound: Inbound, claims: Claims, binding: Binding, path: string): Promise<string>;
  denied(inbound: Inbound, claims: Claims, binding: Binding | undefined, denial: Refused): void;
  outcome(inbound: Inbound, claims: Claims, binding: Binding, outcome: CallOutcome): void;
  /** A call by nobody: counted, and summed up once a minute, so that a flood does not fill the ledger. */
  unauthenticated(reason: string): void;
  readonly worker: Worker;
};

export type Refused = {
  readonly step: string;
  readonly reason: string;
  readonly detail: string | undefined;
  readonly path: string;
};

const SUMMARY_MS = 60_000;
const MAX_PATH = 2_048;

type Kind = Pick<AuditDraft, "event_type" | "decision">;

const draftOf = (
  inbound: Inbound,
  claims: Claims,
  binding: Binding | undefined,
  event_type: Kind["event_type"],
  decision: Kind["decision"],
  metadata_json: string,
): AuditDraft => ({
  zone_id: claims.zone_id,
  event_type,
  decision,
  request_id: inbound.request_id,
  client_id: claims.client_id,
  subject: claims.sub,
  session_id: claims.sid,
  agent_session_id: claims.agent_session_id ?? null,
  delegation_edge_id: claims.delegation_edge_id ?? null,
  resource_id: binding?.resource_id ?? null,
  metadata_json,
});

/** As JSON.stringify writes it, at a quarter of its cost: of all that is in it only the id could need an escape. */
const outcomeText = ({ decision_id, status, bytes, duration_ms, cut }: CallOutcome): string => {
  const id = decision_id === undefined ? "" : `"decision_id":${JSON.stringify(decision_id)},`;
  const how = cut === false ? "false" : `"${cut}"`;
  return `{${id}"status":${status},"bytes":${bytes},"duration_ms":${duration_ms},"cut":${how}}`;
};

const IN_THE_DECISION = {
  client_id: null,
  subject: null,
  agent_session_id: null,
  delegation_edge_id: null,
  resource_id: null,
} as const;

export const createLedger = (audit: AuditWriter): Ledger => {
  let counts = new Map<string, number>();

  const sumUp = (): void => {
    if (counts.size === 0) return;
    const by_reason = Object.fromEntries(counts);
    counts = new Map();
    audit.record({
      zone_id: SYSTEM_ZONE,
      event_type: "unauthenticated.summary",
      decision: "deny",
      metadata_json: JSON.stringify({ role: "gateway", by_reason }),
    });
  };

  return {
    allowed: (inbound, claims, binding, path) =>
      audit.append(
        draftOf(
          inbound,
          claims,
          binding,
          "gateway.call",
          "allow",
          JSON.stringify({
            use: claims.use,
            jti: claims.jti,
            method: inbound.method,
            path: path.slice(0, MAX_PATH),
          }),
        ),
      ),
    denied(inbound, claims, binding, { step, reason, detail, path }) {
      const metadata_json = JSON.stringify({
        step,
        reason,
        ...(detail === undefined ? {} : { detail }),
        use: claims.use,
        jti: claims.jti,
        method: inbound.method,
        path: path.slice(0, MAX_PATH),
      });
      audit.record({ ...draftOf(inbound, claims, binding, "gateway.call", "deny", metadata_json), reason });
    },
    outcome(inbound, claims, binding, outcome) {
      const draft = draftOf(inbound, claims, binding, "gateway.outcome", "none", outcomeText(outcome));
      // The decision's row says who and what. Session and request stay, so that either finds the outcome by itself.
      audit.record(outcome.decision_id === undefined ? draft : { ...draft, ...IN_THE_DECISION });
    },
    unauthenticated(reason) {
      counts.set(reason, (counts.get(reason) ?? 0) + 1);
    },
    worker: worker({
      name: "gateway-summary",
      every_ms: SUMMARY_MS,
      tick: async () => sumUp(),
      onError: () => undefined,
      onStop: async () => sumUp(),
    }),
  };
};
