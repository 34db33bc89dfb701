import * as v from "valibot";
import { type AuditRow, MEMBER_TABLE, type MemberName, SYSTEM_ZONE } from "../domain/audit-event.ts";
import { isUuid } from "../kernel/ids.ts";
import type { ApiEndpoint } from "./api-access.ts";
import { MomentSchema, pageFields, pageOf, text, TimeSchema } from "./api-fields.ts";

/** The ledger also has the zone `system`: what concerns the deployment. It is for global tokens. */
const LedgerZoneSchema = v.pipe(
  v.string(),
  v.check((value) => value === SYSTEM_ZONE || isUuid(value), `must be a zone's id, or ${SYSTEM_ZONE}`),
);

type Entries = { readonly [M in MemberName]: v.GenericSchema<AuditRow[M]> };
const memberSchemas = Object.fromEntries(
  MEMBER_TABLE.map(({ name, kind, required }) => {
    const schema = kind === "number" || kind === "version" ? v.number() : v.string();
    return [name, required ? schema : v.nullable(schema)];
  }),
) as unknown as Entries;

/** A row of the ledger as it is kept: the `*_json` members and the time are the very text that was hashed. Hashes in hex. */
export const LedgerEventSchema = v.object({
  ...memberSchemas,
  chain_seq: v.number(),
  content_sha256: v.string(),
  chain_hmac: v.string(),
  key_id: v.string(),
  chained_at: TimeSchema,
});
export type LedgerEvent = v.InferOutput<typeof LedgerEventSchema>;

const isChainSeq = (key: string): boolean => /^[1-9][0-9]{0,15}$/.test(key) && Number.isSafeInteger(Number(key));

const LedgerQuerySchema = v.strictObject({
  ...pageFields(isChainSeq),
  decision: v.optional(v.picklist(["allow", "deny", "none"])),
  client_id: v.optional(text(512)),
  session_id: v.optional(text(512)),
  event_type: v.optional(text(128)),
  request_id: v.optional(text(128)),
  /** From this moment on. */
  from: v.optional(MomentSchema),
  /** Before this moment. */
  to: v.optional(MomentSchema),
});
export type LedgerQuery = v.InferOutput<typeof LedgerQuerySchema>;

const ByRequestQuerySchema = v.strictObject(pageFields(isChainSeq));
export type ByRequestQuery = v.InferOutput<typeof ByRequestQuerySchema>;

export const ledgerEndpoints = {
  listAudit: {
    method: "GET",
    path: "/v1/zones/{zone_id}/audit",
    summary: "The zone's ledger, newest first",
    reach: "zone",
    access: "read",
    archived_too: true,
    params: v.strictObject({ zone_id: LedgerZoneSchema }),
    query: LedgerQuerySchema,
    status: 200,
    response: pageOf(LedgerEventSchema),
  },
  listAuditByRequest: {
    method: "GET",
    path: "/v1/zones/{zone_id}/audit/by-request/{request_id}",
    summary: "What the ledger has of one request, in the order of the chain",
    reach: "zone",
    access: "read",
    archived_too: true,
    params: v.strictObject({
      zone_id: LedgerZoneSchema,
      request_id: v.pipe(v.string(), v.regex(/^[A-Za-z0-9.:-]{1,128}$/)),
    }),
    query: ByRequestQuerySchema,
    status: 200,
    response: pageOf(LedgerEventSchema),
  },
} as const satisfies Record<string, ApiEndpoint>;
