import type { Sql } from "../../ports/database.ts";

/** Whether the zone is live, archived (its ledger outlives it), or neither. */
export const zoneState = async (sql: Sql, id: string): Promise<"live" | "archived" | undefined> => {
  const rows = await sql<{ state: "live" | "archived" }[]>`
    select case when archived_at is null then 'live' else 'archived' end as state from zones where id = ${id}`;
  return rows[0]?.state;
};
