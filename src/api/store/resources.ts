import type { Page, PageQuery } from "../../contracts/api-fields.ts";
import type { NewResource, Resource, ResourceChanges } from "../../contracts/api-resources.ts";
import type { Sql, Transaction } from "../../ports/database.ts";
import { asJson, iso, pageOfRows } from "./rows.ts";

type Row = Omit<Resource, "created_at" | "updated_at"> & { created_at: Date; updated_at: Date };

const resourceOf = (row: Row): Resource => ({
  ...row,
  created_at: iso(row.created_at),
  updated_at: iso(row.updated_at),
});

export const insertResource = async (
  tx: Transaction,
  zone_id: string,
  id: string,
  resource: NewResource,
): Promise<Resource> => {
  const rows = await tx<[Row]>`
    insert into resources (zone_id, id, identifier, name, upstream_url, scopes, application_id)
    values (${zone_id}, ${id}, ${resource.identifier}, ${resource.name}, ${resource.upstream_url},
            array(select jsonb_array_elements_text(${asJson(resource.scopes)}::text::jsonb)), ${resource.application_id})
    returning id, zone_id, identifier, name, upstream_url, to_json(scopes) as scopes, application_id, created_at, updated_at`;
  return resourceOf(rows[0]);
};

/** A live resource. */
export const findResource = async (sql: Sql, zone_id: string, id: string): Promise<Resource | undefined> => {
  const rows = await sql<Row[]>`
    select id, zone_id, identifier, name, upstream_url, to_json(scopes) as scopes, application_id, created_at, updated_at
    from resources
    where zone_id = ${zone_id} and id = ${id} and archived_at is null`;
  return rows[0] === undefined ? undefined : resourceOf(rows[0]);
};

export const listResources = async (sql: Sql, zone_id: string, page: PageQuery): Promise<Page<Resource>> => {
  const rows = await sql<Row[]>`
    select id, zone_id, identifier, name, upstream_url, to_json(scopes) as scopes, application_id, created_at, updated_at
    from resources
    where zone_id = ${zone_id} and archived_at is null
      ${page.cursor === undefined ? sql`` : sql`and id > ${page.cursor}`}
    order by id
    limit ${page.limit + 1}`;
  return pageOfRows(rows, page.limit, resourceOf, (resource) => resource.id);
};

export const updateResource = async (
  tx: Transaction,
  zone_id: string,
  id: string,
  changes: ResourceChanges,
): Promise<Resource | undefined> => {
  const { scopes, application_id } = changes;
  const rows = await tx<Row[]>`
    update resources set
      identifier = coalesce(${changes.identifier ?? null}::text, identifier),
      name = coalesce(${changes.name ?? null}::text, name),
      upstream_url = coalesce(${changes.upstream_url ?? null}::text, upstream_url),
      ${scopes === undefined ? tx`` : tx`scopes = array(select jsonb_array_elements_text(${asJson(scopes)}::text::jsonb)),`}
      ${application_id === undefined ? tx`` : tx`application_id = ${application_id}::text,`}
      updated_at = now()
    where zone_id = ${zone_id} and id = ${id} and archived_at is null
    returning id, zone_id, identifier, name, upstream_url, to_json(scopes) as scopes, application_id, created_at, updated_at`;
  return rows[0] === undefined ? undefined : resourceOf(rows[0]);
};

/** False where there is no live resource of that id. */
export const archiveResource = async (tx: Transaction, zone_id: string, id: string): Promise<boolean> =>
  (
    await tx`
      update resources set archived_at = now(), updated_at = now()
      where zone_id = ${zone_id} and id = ${id} and archived_at is null
      returning 1`
  ).length > 0;
