import type { Queryable, Transaction } from "../../ports/database.ts";

/** Every column that holds sealed values. `row`: the column whose value the seal names as its row. */
export const SEALED_COLUMNS = [
  { table: "zone_keys", row: "kid", column: "sealed_private" },
  { table: "providers", row: "id", column: "sealed_client_secret" },
  { table: "providers", row: "id", column: "sealed_api_key" },
  { table: "grants", row: "id", column: "sealed_access_token" },
  { table: "grants", row: "id", column: "sealed_refresh_token" },
] as const;
export type SealedColumn = (typeof SEALED_COLUMNS)[number];

export type SealedValue = { readonly zone_id: string; readonly row: string; readonly sealed: string };

/** Of a seal's text, what says that it is under the key of that id. */
const under = (key_id: string): string => `v1.${key_id}.%`;

export const countSealedUnderOthers = async (
  sql: Queryable,
  { table, column }: SealedColumn,
  key_id: string,
): Promise<number> => {
  const rows = await sql<[{ others: number }]>`
    select count(*)::float8 as others from ${sql(table)}
    where ${sql(column)} is not null and ${sql(column)} not like ${under(key_id)}`;
  return rows[0].others;
};

/** The next values that are under another key, behind the last one that was seen, in the order of the primary key. */
export const listSealedUnderOthers = (
  sql: Queryable,
  { table, row, column }: SealedColumn,
  key_id: string,
  last: SealedValue | undefined,
  limit: number,
): Promise<readonly SealedValue[]> => sql<SealedValue[]>`
  select zone_id, ${sql(row)} as row, ${sql(column)} as sealed from ${sql(table)}
  where ${sql(column)} is not null and ${sql(column)} not like ${under(key_id)}
    ${last === undefined ? sql`` : sql`and (zone_id, ${sql(row)}) > (${last.zone_id}, ${last.row})`}
  order by zone_id, ${sql(row)}
  limit ${limit}`;

/** Whether it was still the value that was read: one that was written meanwhile is newer, and stays. */
export const replaceSealed = async (
  tx: Transaction,
  { table, row, column }: SealedColumn,
  before: SealedValue,
  sealed: string,
): Promise<boolean> => {
  const { count } = await tx`
    update ${tx(table)} set ${tx(column)} = ${sealed}
    where zone_id = ${before.zone_id} and ${tx(row)} = ${before.row} and ${tx(column)} = ${before.sealed}`;
  return count === 1;
};
