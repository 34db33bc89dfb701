import { QUOTA_LIMITS, type QuotaName } from "../../contracts/api-quotas.ts";
import type { Queryable, Transaction } from "../../ports/database.ts";

/** What is counted: live rows of the zone. A token that has expired takes no room. */
const countOf = async (sql: Queryable, name: keyof typeof QUOTA_LIMITS, zone_id: string): Promise<number> => {
  const rows = await sql<[{ use: number }]>`
    select count(*)::float8 as use from ${sql(name)}
    where zone_id = ${zone_id}
      ${name === "admin_tokens" ? sql`and revoked_at is null and (expires_at is null or expires_at > now())` : sql`and archived_at is null`}`;
  return rows[0].use;
};

const isCounted = (name: QuotaName): name is keyof typeof QUOTA_LIMITS => Object.hasOwn(QUOTA_LIMITS, name);

/** What the zone has; null where nothing is counted. */
export const useOf = async (sql: Queryable, name: QuotaName, zone_id: string): Promise<number | null> =>
  isCounted(name) ? countOf(sql, name, zone_id) : null;

/** What a global admin set for the zone, by name. */
export const readLimits = async (sql: Queryable, zone_id: string): Promise<ReadonlyMap<string, number>> => {
  const rows = await sql<{ name: string; max: number }[]>`select name, max from quotas where zone_id = ${zone_id}`;
  return new Map(rows.map(({ name, max }) => [name, max]));
};

/** Of the transactions that count the same things of a zone, one goes on at a time: none counts what another is adding. */
export const lockQuota = async (tx: Transaction, name: QuotaName, zone_id: string): Promise<void> => {
  await tx`select pg_advisory_xact_lock(hashtextextended(${`quota ${name} ${zone_id}`}, 0))`;
};

/** null: no figure of its own. */
export const writeLimit = async (
  tx: Transaction,
  zone_id: string,
  name: QuotaName,
  max: number | null,
): Promise<void> => {
  if (max === null) await tx`delete from quotas where zone_id = ${zone_id} and name = ${name}`;
  else {
    await tx`
      insert into quotas (zone_id, name, max) values (${zone_id}, ${name}, ${max})
      on conflict (zone_id, name) do update set max = excluded.max, updated_at = now()`;
  }
};
