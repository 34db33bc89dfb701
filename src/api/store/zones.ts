import type { Page, PageQuery } from "../../contracts/api-fields.ts";
import type { NewZone, Zone, ZoneChanges } from "../../contracts/api-zones.ts";
import type { SealedZoneKey } from "../../domain/zone-key.ts";
import type { Sql, Transaction } from "../../ports/database.ts";
import { iso, pageOfRows } from "./rows.ts";

type Row = Omit<Zone, "created_at" | "updated_at"> & { created_at: Date; updated_at: Date };

const zoneOf = (row: Row): Zone => ({ ...row, created_at: iso(row.created_at), updated_at: iso(row.updated_at) });

export const insertZone = async (tx: Transaction, id: string, zone: NewZone): Promise<Zone> => {
  const rows = await tx<[Row]>`
    insert into zones (id, slug, name) values (${id}, ${zone.slug}, ${zone.name})
    returning id, slug, name, created_at, updated_at`;
  return zoneOf(rows[0]);
};

/** A zone's first key signs at once: nobody has cached the zone's keys before there were any. */
export const insertZoneKey = async (tx: Transaction, zone_id: string, key: SealedZoneKey): Promise<void> => {
  await tx`
    insert into zone_keys (zone_id, kid, public_jwk, sealed_private)
    values (${zone_id}, ${key.kid}, ${key.public_jwk}, ${key.sealed_private})`;
};

/** A live zone. */
export const findZone = async (sql: Sql, id: string): Promise<Zone | undefined> => {
  const rows = await sql<Row[]>`
    select id, slug, name, created_at, updated_at from zones where id = ${id} and archived_at is null`;
  return rows[0] === undefined ? undefined : zoneOf(rows[0]);
};

/** Whether the zone is live, archived (its ledger outlives it), or neither. */
export const zoneState = async (sql: Sql, id: string): Promise<"live" | "archived" | undefined> => {
  const rows = await sql<{ state: "live" | "archived" }[]>`
    select case when archived_at is null then 'live' else 'archived' end as state from zones where id = ${id}`;
  return rows[0]?.state;
};

/** Whether the zone is live, and keeps it so until the commit: nothing is made in a zone while it is being archived. */
export const holdZone = async (tx: Transaction, id: string): Promise<boolean> =>
  (await tx`select 1 from zones where id = ${id} and archived_at is null for share`).length > 0;

/** `only`: the one zone that a bounded caller may see. */
export const listZones = async (sql: Sql, only: string | null, page: PageQuery): Promise<Page<Zone>> => {
  const rows = await sql<Row[]>`
    select id, slug, name, created_at, updated_at from zones
    where archived_at is null
      ${only === null ? sql`` : sql`and id = ${only}`}
      ${page.cursor === undefined ? sql`` : sql`and id > ${page.cursor}`}
    order by id
    limit ${page.limit + 1}`;
  return pageOfRows(rows, page.limit, zoneOf, (zone) => zone.id);
};

export const updateZone = async (tx: Transaction, id: string, changes: ZoneChanges): Promise<Zone | undefined> => {
  const rows = await tx<Row[]>`
    update zones set
      slug = coalesce(${changes.slug ?? null}::text, slug),
      name = coalesce(${changes.name ?? null}::text, name),
      updated_at = now()
    where id = ${id} and archived_at is null
    returning id, slug, name, created_at, updated_at`;
  return rows[0] === undefined ? undefined : zoneOf(rows[0]);
};

/** Whether this call archived it: false where it was archived before, undefined where there is none. */
export const archiveZone = async (tx: Transaction, id: string): Promise<boolean | undefined> => {
  const rows = await tx<{ archived_at: Date | null }[]>`select archived_at from zones where id = ${id} for update`;
  if (rows[0] === undefined) return undefined;
  if (rows[0].archived_at !== null) return false;
  await tx`update zones set archived_at = now(), updated_at = now() where id = ${id}`;
  return true;
};
