import type { SealedZoneKey } from "../../domain/zone-key.ts";
import type { Sql, Transaction } from "../../ports/database.ts";

/** A zone's first key signs at once: nobody has cached the zone's keys before there were any. */
export const insertZoneKey = async (tx: Transaction, zone_id: string, key: SealedZoneKey): Promise<void> => {
  await tx`
    insert into zone_keys (zone_id, kid, public_jwk, sealed_private)
    values (${zone_id}, ${key.kid}, ${key.public_jwk}, ${key.sealed_private})`;
};

/** Whether the zone is live, archived (its ledger outlives it), or neither. */
export const zoneState = async (sql: Sql, id: string): Promise<"live" | "archived" | undefined> => {
  const rows = await sql<{ state: "live" | "archived" }[]>`
    select case when archived_at is null then 'live' else 'archived' end as state from zones where id = ${id}`;
  return rows[0]?.state;
};
