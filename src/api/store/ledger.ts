import type { Page } from "../../contracts/api-fields.ts";
import type { ByRequestQuery, LedgerEvent, LedgerQuery } from "../../contracts/api-ledger.ts";
import { COLUMNS } from "../../domain/audit-event.ts";
import { isUuid } from "../../kernel/ids.ts";
import type { Sql } from "../../ports/database.ts";
import { iso, pageOfRows } from "./rows.ts";

type Row = Omit<LedgerEvent, "chained_at"> & { chained_at: Date };

const eventOf = (row: Row): LedgerEvent => ({ ...row, chained_at: iso(row.chained_at) });
const keyOf = (event: LedgerEvent): string => String(event.chain_seq);

const COLUMN_LIST = [
  ...COLUMNS.map(
    ({ name, type, text }) => `${type === "bigint" ? `${name}::float8` : type === "smallint" ? name : text} as ${name}`,
  ),
  "chain_seq::float8 as chain_seq",
  "encode(content_sha256, 'hex') as content_sha256",
  "encode(chain_hmac, 'hex') as chain_hmac",
  "key_id",
  "chained_at",
].join(", ");
const columns = (sql: Sql) => sql.unsafe(COLUMN_LIST);

const ANY = "00000000-0000-0000-0000-000000000000";
const moment = (ms: number): string => new Date(ms).toISOString();

/** Newest first. `occurred_at` is text of one form (UTC, milliseconds), so it is compared as text, byte by byte. */
export const listLedger = async (sql: Sql, zone_id: string, query: LedgerQuery): Promise<Page<LedgerEvent>> => {
  const { cursor, decision, client_id, session_id, event_type, request_id, from, to } = query;
  // An id of another form is in no row's column.
  if (!isUuid(client_id ?? ANY) || !isUuid(session_id ?? ANY)) return pageOfRows([], query.limit, eventOf, keyOf);
  const rows = await sql<Row[]>`
    select ${columns(sql)}
    from audit_events
    where zone_id = ${zone_id}
      ${cursor === undefined ? sql`` : sql`and chain_seq < ${cursor}::text::bigint`}
      ${decision === undefined ? sql`` : sql`and decision = ${decision}`}
      ${client_id === undefined ? sql`` : sql`and client_id = ${client_id}::text::uuid`}
      ${session_id === undefined ? sql`` : sql`and session_id = ${session_id}::text::uuid`}
      ${event_type === undefined ? sql`` : sql`and event_type = ${event_type}`}
      ${request_id === undefined ? sql`` : sql`and request_id = ${request_id}`}
      ${from === undefined ? sql`` : sql`and occurred_at collate "C" >= ${moment(from)}`}
      ${to === undefined ? sql`` : sql`and occurred_at collate "C" < ${moment(to)}`}
    order by audit_events.chain_seq desc
    limit ${query.limit + 1}`;
  return pageOfRows(rows, query.limit, eventOf, keyOf);
};

/** In the order of the chain: what happened first comes first. */
export const listLedgerByRequest = async (
  sql: Sql,
  zone_id: string,
  request_id: string,
  query: ByRequestQuery,
): Promise<Page<LedgerEvent>> => {
  const rows = await sql<Row[]>`
    select ${columns(sql)}
    from audit_events
    where zone_id = ${zone_id} and request_id = ${request_id}
      ${query.cursor === undefined ? sql`` : sql`and chain_seq > ${query.cursor}::text::bigint`}
    order by audit_events.chain_seq
    limit ${query.limit + 1}`;
  return pageOfRows(rows, query.limit, eventOf, keyOf);
};
