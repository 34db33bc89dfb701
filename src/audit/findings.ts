import type { Finding, FindingKind } from "../domain/audit-chain.ts";
import type { Log } from "../kernel/log.ts";
import type { Database } from "../ports/database.ts";
import { addFindings, inTransaction } from "./store.ts";

/** Places that are remembered as told, so that an hourly sweep does not tell them again. Beyond it, some are told twice. */
const MAX_TOLD = 10_000;

const MESSAGES: Readonly<Record<FindingKind, string>> = {
  chain_break: "chain_break: the ledger's chain is broken",
  hmac_mismatch: "hmac_mismatch: a ledger row is not what was written",
  audit_gap: "audit_gap: events that a producer numbered never came",
};

export type FindingsOptions = {
  readonly db: Database;
  readonly log: Log;
  readonly onFinding: (kind: FindingKind) => void;
};

export type Findings = {
  /** Logs and counts what is new to this process. */
  tell(findings: readonly Finding[]): void;
  /** Stores what is new to the ledger, once per place, then tells. */
  record(findings: readonly Finding[]): Promise<void>;
};

/** Where every finding goes: the log (the words that operators alert on), the metrics and the table. */
export const createFindings = ({ db, log, onFinding }: FindingsOptions): Findings => {
  const told = new Set<string>();
  const tell = (findings: readonly Finding[]): void => {
    for (const { kind, zone_id, chain_seq, detail } of findings) {
      const place = JSON.stringify(kind === "audit_gap" ? [kind, detail] : [kind, zone_id, chain_seq]);
      if (told.has(place)) continue;
      if (told.size >= MAX_TOLD) told.clear();
      told.add(place);
      onFinding(kind);
      log.error({ finding: kind, zone_id, chain_seq, detail }, MESSAGES[kind]);
    }
  };
  return {
    tell,
    async record(findings) {
      if (findings.length === 0) return;
      tell(findings); // first: a finding that can't be stored is told all the same
      await inTransaction(db.sql, (tx) => addFindings(tx, findings));
    },
  };
};
