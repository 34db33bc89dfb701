import type { Page, PageQuery } from "../../contracts/api-fields.ts";
import type { Named } from "../../contracts/api-policies.ts";
import type { Sql, Transaction } from "../../ports/database.ts";
import { iso, pageOfRows } from "./rows.ts";

/** Two tables of one shape: a name, unique among the live ones of the zone, that holds versions. */
export type NamedTable = "policies" | "policy_sets";

type Row = Omit<Named, "created_at" | "updated_at"> & { created_at: Date; updated_at: Date };

const namedOf = (row: Row): Named => ({ ...row, created_at: iso(row.created_at), updated_at: iso(row.updated_at) });

export const insertNamed = async (
  tx: Transaction,
  table: NamedTable,
  zone_id: string,
  id: string,
  name: string,
): Promise<Named> => {
  const rows = await tx<[Row]>`
    insert into ${tx(table)} (zone_id, id, name) values (${zone_id}, ${id}, ${name})
    returning id, zone_id, name, created_at, updated_at`;
  return namedOf(rows[0]);
};

/** A live one. */
export const findNamed = async (
  sql: Sql,
  table: NamedTable,
  zone_id: string,
  id: string,
): Promise<Named | undefined> => {
  const rows = await sql<Row[]>`
    select id, zone_id, name, created_at, updated_at from ${sql(table)}
    where zone_id = ${zone_id} and id = ${id} and archived_at is null`;
  return rows[0] === undefined ? undefined : namedOf(rows[0]);
};

/** Whether it is live; nobody else changes it or counts its versions until the commit. */
export const lockNamed = async (tx: Transaction, table: NamedTable, zone_id: string, id: string): Promise<boolean> =>
  (
    await tx`
      select 1 from ${tx(table)}
      where zone_id = ${zone_id} and id = ${id} and archived_at is null
      for no key update`
  ).length > 0;

export const listNamed = async (
  sql: Sql,
  table: NamedTable,
  zone_id: string,
  page: PageQuery,
): Promise<Page<Named>> => {
  const rows = await sql<Row[]>`
    select id, zone_id, name, created_at, updated_at from ${sql(table)}
    where zone_id = ${zone_id} and archived_at is null
      ${page.cursor === undefined ? sql`` : sql`and id > ${page.cursor}`}
    order by id
    limit ${page.limit + 1}`;
  return pageOfRows(rows, page.limit, namedOf, (named) => named.id);
};

export const renameNamed = async (
  tx: Transaction,
  table: NamedTable,
  zone_id: string,
  id: string,
  name: string | undefined,
): Promise<Named | undefined> => {
  const rows = await tx<Row[]>`
    update ${tx(table)} set name = coalesce(${name ?? null}::text, name), updated_at = now()
    where zone_id = ${zone_id} and id = ${id} and archived_at is null
    returning id, zone_id, name, created_at, updated_at`;
  return rows[0] === undefined ? undefined : namedOf(rows[0]);
};

export const archiveNamed = async (tx: Transaction, table: NamedTable, zone_id: string, id: string): Promise<void> => {
  await tx`update ${tx(table)} set archived_at = now(), updated_at = now() where zone_id = ${zone_id} and id = ${id}`;
};
