import type { AdminAuditEntry } from "../../contracts/api-admin.ts";
import type { Page, PageQuery } from "../../contracts/api-fields.ts";
import type { Sql } from "../../ports/database.ts";
import { iso, pageOfRows } from "./rows.ts";

type Row = Omit<AdminAuditEntry, "detail" | "occurred_at"> & { detail_json: string; occurred_at: Date };

const entryOf = ({ detail_json, ...row }: Row): AdminAuditEntry => ({
  ...row,
  detail: JSON.parse(detail_json) as Record<string, unknown>,
  occurred_at: iso(row.occurred_at),
});

/** Newest first. `zone_id` undefined: of every zone. */
export const listAdminAudit = async (
  sql: Sql,
  zone_id: string | undefined,
  page: PageQuery,
): Promise<Page<AdminAuditEntry>> => {
  const rows = await sql<Row[]>`
    select id, zone_id, actor, action, object_kind, object_id, request_id, detail_json, occurred_at
    from admin_audit
    where true
      ${zone_id === undefined ? sql`` : sql`and zone_id = ${zone_id}`}
      ${page.cursor === undefined ? sql`` : sql`and id < ${page.cursor}`}
    order by id desc
    limit ${page.limit + 1}`;
  return pageOfRows(rows, page.limit, entryOf, (entry) => entry.id);
};
