import type { AdminAuditEntry, AdminAuditQuery } from "../../contracts/api-admin.ts";
import { encodeCursor, type Page } from "../../contracts/api-fields.ts";
import type { Sql } from "../../ports/database.ts";
import { iso, pageOfRows } from "./rows.ts";

type Row = Omit<AdminAuditEntry, "detail" | "occurred_at"> & { detail_json: string; occurred_at: Date };

const entryOf = ({ detail_json, ...row }: Row): AdminAuditEntry => ({
  ...row,
  detail: JSON.parse(detail_json) as Record<string, unknown>,
  occurred_at: iso(row.occurred_at),
});

/** How many rows a filtered page looks at: no filter of one caller reads a table of years. */
const LOOKED_AT = 10_000;

/**
 * Newest first. `zone_id` undefined: of every zone. A filtered page ends after so many rows that were looked at, with what it
 * found and a cursor to go on from.
 */
export const listAdminAudit = async (
  sql: Sql,
  zone_id: string | undefined,
  query: AdminAuditQuery,
): Promise<Page<AdminAuditEntry>> => {
  const { limit, cursor, ...filters } = query;
  const asked = Object.entries(filters).flatMap(([name, value]) => (value === undefined ? [] : [{ name, value }]));
  const older = sql`
    true
    ${zone_id === undefined ? sql`` : sql`and zone_id = ${zone_id}`}
    ${cursor === undefined ? sql`` : sql`and id < ${cursor}`}`;
  const fits = asked.reduce((all, { name, value }) => sql`${all} and ${sql(name)} = ${value}`, sql`true`);
  const rows = await sql<Row[]>`
    select id, zone_id, actor, action, object_kind, object_id, request_id, detail_json, occurred_at
    from (
      select * from admin_audit where ${older} order by id desc
      limit ${asked.length === 0 ? limit + 1 : LOOKED_AT}) looked_at
    where ${fits}
    order by id desc
    limit ${limit + 1}`;
  const page = pageOfRows(rows, limit, entryOf, (entry) => entry.id);
  if (asked.length === 0 || page.next_cursor !== undefined) return page;
  const [last] = await sql<{ id: string }[]>`
    select id from admin_audit where ${older} order by id desc offset ${LOOKED_AT - 1} limit 1`;
  return last === undefined ? page : { ...page, next_cursor: encodeCursor(last.id) };
};
