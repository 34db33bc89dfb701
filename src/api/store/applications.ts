import type { Application, ApplicationChanges, NewApplication } from "../../contracts/api-applications.ts";
import type { Page, PageQuery } from "../../contracts/api-fields.ts";
import type { Sql, Transaction } from "../../ports/database.ts";
import { asJson, iso, pageOfRows } from "./rows.ts";

type Row = Omit<Application, "created_at" | "updated_at"> & { created_at: Date; updated_at: Date };

const applicationOf = (row: Row): Application => ({
  ...row,
  created_at: iso(row.created_at),
  updated_at: iso(row.updated_at),
});

export const insertApplication = async (
  tx: Transaction,
  zone_id: string,
  id: string,
  application: NewApplication,
  secret_hash: string | null,
): Promise<Application> => {
  const rows = await tx<[Row]>`
    insert into applications (zone_id, id, name, kind, secret_hash, scopes, traits, rate_limit_per_minute)
    values (${zone_id}, ${id}, ${application.name}, ${application.kind}, ${secret_hash},
            array(select jsonb_array_elements_text(${asJson(application.scopes)}::text::jsonb)),
            array(select jsonb_array_elements_text(${asJson(application.traits)}::text::jsonb)),
            ${application.rate_limit_per_minute})
    returning id, zone_id, name, kind, to_json(scopes) as scopes, to_json(traits) as traits, rate_limit_per_minute,
              created_at, updated_at`;
  return applicationOf(rows[0]);
};

/** A live application. */
export const findApplication = async (sql: Sql, zone_id: string, id: string): Promise<Application | undefined> => {
  const rows = await sql<Row[]>`
    select id, zone_id, name, kind, to_json(scopes) as scopes, to_json(traits) as traits, rate_limit_per_minute,
           created_at, updated_at
    from applications
    where zone_id = ${zone_id} and id = ${id} and archived_at is null`;
  return rows[0] === undefined ? undefined : applicationOf(rows[0]);
};

/** Whether the application is live, and keeps it so until the commit. */
export const holdApplication = async (tx: Transaction, zone_id: string, id: string): Promise<boolean> =>
  (await tx`select 1 from applications where zone_id = ${zone_id} and id = ${id} and archived_at is null for share`)
    .length > 0;

export const listApplications = async (sql: Sql, zone_id: string, page: PageQuery): Promise<Page<Application>> => {
  const rows = await sql<Row[]>`
    select id, zone_id, name, kind, to_json(scopes) as scopes, to_json(traits) as traits, rate_limit_per_minute,
           created_at, updated_at
    from applications
    where zone_id = ${zone_id} and archived_at is null
      ${page.cursor === undefined ? sql`` : sql`and id > ${page.cursor}`}
    order by id
    limit ${page.limit + 1}`;
  return pageOfRows(rows, page.limit, applicationOf, (application) => application.id);
};

export const updateApplication = async (
  tx: Transaction,
  zone_id: string,
  id: string,
  changes: ApplicationChanges,
): Promise<Application | undefined> => {
  const { scopes, traits, rate_limit_per_minute } = changes;
  const rows = await tx<Row[]>`
    update applications set
      name = coalesce(${changes.name ?? null}::text, name),
      ${scopes === undefined ? tx`` : tx`scopes = array(select jsonb_array_elements_text(${asJson(scopes)}::text::jsonb)),`}
      ${traits === undefined ? tx`` : tx`traits = array(select jsonb_array_elements_text(${asJson(traits)}::text::jsonb)),`}
      ${rate_limit_per_minute === undefined ? tx`` : tx`rate_limit_per_minute = ${rate_limit_per_minute}::integer,`}
      updated_at = now()
    where zone_id = ${zone_id} and id = ${id} and archived_at is null
    returning id, zone_id, name, kind, to_json(scopes) as scopes, to_json(traits) as traits, rate_limit_per_minute,
              created_at, updated_at`;
  return rows[0] === undefined ? undefined : applicationOf(rows[0]);
};

/** False where there is no live, confidential application of that id. */
export const replaceSecretHash = async (
  tx: Transaction,
  zone_id: string,
  id: string,
  secret_hash: string,
): Promise<boolean> =>
  (
    await tx`
      update applications set secret_hash = ${secret_hash}, updated_at = now()
      where zone_id = ${zone_id} and id = ${id} and archived_at is null and kind = 'confidential'
      returning 1`
  ).length > 0;

/** Whether this call archived it: false where it was archived before, undefined where there is none. */
export const archiveApplication = async (
  tx: Transaction,
  zone_id: string,
  id: string,
): Promise<boolean | undefined> => {
  const rows = await tx<{ archived_at: Date | null }[]>`
    select archived_at from applications where zone_id = ${zone_id} and id = ${id} for update`;
  if (rows[0] === undefined) return undefined;
  if (rows[0].archived_at !== null) return false;
  await tx`update applications set archived_at = now(), updated_at = now() where zone_id = ${zone_id} and id = ${id}`;
  return true;
};
