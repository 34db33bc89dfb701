import type { ledgerEndpoints } from "../contracts/api-ledger.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { listLedger, listLedgerByRequest } from "./store/ledger.ts";

export const ledgerVerbs = ({ db }: Parts): Pick<ControlPlane, keyof typeof ledgerEndpoints> => ({
  listAudit: ({ params, query }) => listLedger(db.sql, params.zone_id, query),
  listAuditByRequest: ({ params, query }) => listLedgerByRequest(db.sql, params.zone_id, params.request_id, query),
});
