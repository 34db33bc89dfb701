import type { AuditDraft } from "../domain/audit-event.ts";
import { type Clock, isoText } from "../kernel/clock.ts";

/** A denial with its reason: only these are summed up. */
export type Denied = AuditDraft & { readonly decision: "deny"; readonly reason: string };

/** For how long denials of one kind are summed up in one event. */
const WINDOW_MS = 1000;
/**
 * Kinds of one zone that are told apart at once, by client, resource and reason. Beyond it a zone's denials are told apart by
 * reason alone: reasons are words of our own, so that no caller makes many.
 */
const MAX_KINDS_PER_ZONE = 128;
/** What policy said of a denial tells it from others, where it is no longer. */
const MAX_VERDICT_CHARS = 1024;

/** On whose behalf: a sum says it where all that it counts have the same, so that a session's denials are found by its id. */
type Behalf = Readonly<Record<"subject" | "session_id" | "agent_session_id" | "delegation_edge_id", string | null>>;

type Kind = {
  readonly key: string;
  /** What the denials of the kind have in common. */
  readonly common: Denied;
  /** That of the denials that are counted so far. */
  behalf: Behalf;
  /** The event that was written for the first of them. */
  readonly first_id: string;
  ends_ms: number;
  count: number;
  first_at_ms: number;
  last_at_ms: number;
};

/**
 * Denials that were met within the last second. Of one kind (zone, event type, client, resource, reason, what policy said) the first is an
 * event of its own, at once; those that follow are one event a second with their number, for as long as they keep coming. So
 * neither the ledger nor this memory is filled by a caller who is refused, however often.
 */
export type RepeatedDenials = {
  /** Whether it is counted, and will be in an event of `due`; otherwise it is the first, and to be written under `id`. */
  counted(draft: Denied, id: string, now_ms: number): boolean;
  /** The sums of those kinds whose second is over. */
  due(): AuditDraft[];
  /** All sums, whether their second is over or not. */
  all(): AuditDraft[];
  /** Kinds that are remembered. */
  readonly size: number;
};

/** What the event of a sum says: no value in it is of one denial alone. */
const sumOf = ({ common, behalf, first_id, count, first_at_ms, last_at_ms }: Kind): AuditDraft => ({
  ...common,
  ...behalf,
  metadata_json: JSON.stringify({
    reason: common.reason,
    count,
    first_at: isoText(first_at_ms),
    last_at: isoText(last_at_ms),
    like: first_id,
  }),
});

const short = (text: string | null | undefined): string | null =>
  text === undefined || text === null || text.length > MAX_VERDICT_CHARS ? null : text;

/** By reason alone: what is left to tell denials of a crowded zone apart. */
const crowdOf = ({ zone_id, event_type, decision, reason }: Denied): Denied => ({
  zone_id,
  event_type,
  decision,
  reason,
});

const commonOf = (draft: Denied): Denied => ({
  ...crowdOf(draft),
  client_id: draft.client_id ?? null,
  resource_id: draft.resource_id ?? null,
  evaluation_status: draft.evaluation_status ?? null,
  determining_policies_json: short(draft.determining_policies_json),
  diagnostics_json: short(draft.diagnostics_json),
});

const behalfOf = (draft: Denied): Behalf => ({
  subject: draft.subject ?? null,
  session_id: draft.session_id ?? null,
  agent_session_id: draft.agent_session_id ?? null,
  delegation_edge_id: draft.delegation_edge_id ?? null,
});

const sharedBy = (one: Behalf, other: Behalf): Behalf => ({
  subject: one.subject === other.subject ? one.subject : null,
  session_id: one.session_id === other.session_id ? one.session_id : null,
  agent_session_id: one.agent_session_id === other.agent_session_id ? one.agent_session_id : null,
  delegation_edge_id: one.delegation_edge_id === other.delegation_edge_id ? one.delegation_edge_id : null,
});

const keyOf = (common: Denied): string => Object.values(common).join("\0");

export const createRepeatedDenials = (clock: Clock): RepeatedDenials => {
  /** In the order of `ends_ms`: who is given another second goes to the end. */
  const kinds = new Map<string, Kind>();
  const kinds_of_zone = new Map<string, number>();

  const forget = ({ key, common }: Kind): void => {
    kinds.delete(key);
    const left = (kinds_of_zone.get(common.zone_id) ?? 0) - 1;
    if (left > 0) kinds_of_zone.set(common.zone_id, left);
    else kinds_of_zone.delete(common.zone_id);
  };

  const take = (kind: Kind): AuditDraft => {
    const sum = sumOf(kind);
    kind.count = 0;
    return sum;
  };

  return {
    counted(draft, id, now_ms) {
      let common = commonOf(draft);
      let key = keyOf(common);
      let kind = kinds.get(key);
      const open = kinds_of_zone.get(draft.zone_id) ?? 0;
      if (kind === undefined && open >= MAX_KINDS_PER_ZONE) {
        common = crowdOf(draft);
        key = keyOf(common);
        kind = kinds.get(key);
      }
      const behalf = behalfOf(draft);
      if (kind === undefined) {
        const ends_ms = clock.monotonic_ms() + WINDOW_MS;
        kinds.set(key, {
          key,
          common,
          behalf,
          first_id: id,
          ends_ms,
          count: 0,
          first_at_ms: now_ms,
          last_at_ms: now_ms,
        });
        kinds_of_zone.set(draft.zone_id, open + 1);
        return false;
      }
      if (kind.count === 0) kind.first_at_ms = now_ms;
      kind.behalf = kind.count === 0 ? behalf : sharedBy(kind.behalf, behalf);
      kind.last_at_ms = now_ms;
      kind.count += 1;
      return true;
    },
    due() {
      const now_ms = clock.monotonic_ms();
      const sums: AuditDraft[] = [];
      for (const kind of kinds.values()) {
        if (kind.ends_ms > now_ms) break;
        if (kind.count === 0) {
          forget(kind);
          continue;
        }
        sums.push(take(kind));
        kind.ends_ms = now_ms + WINDOW_MS;
        kinds.delete(kind.key);
        kinds.set(kind.key, kind); // behind the others; this round comes to it again, and ends there
      }
      return sums;
    },
    all: () => [...kinds.values()].filter((kind) => kind.count > 0).map(take),
    get size() {
      return kinds.size;
    },
  };
};
