import { type AuditWriter, LedgerShare } from "../../domain/audit-event.ts";
import type { Log } from "../../kernel/log.ts";
import { commit, deny } from "../../kernel/pipeline.ts";
import { allowDraft, type Decided, type EventType } from "../ledger.ts";

/**
 * The decision becomes durable outside this process. Where it can't, the token that was signed is thrown away: what is not
 * in the ledger did not happen. (A crash behind this line leaves an allow whose token nobody got.)
 */
export const ledger = (audit: AuditWriter, log: Log, event_type: EventType) =>
  commit("ledger", async (f: Decided) => {
    try {
      return { decision_id: await audit.append(allowDraft(event_type, f)) };
    } catch (error) {
      if (error instanceof LedgerShare) return deny("ledger_share");
      log.error(
        { err: error, zone_id: f.request.zone_id, request_id: f.request_id },
        "a decision can't be written to the ledger",
      );
      return deny("audit_unavailable");
    }
  });
