import { QUOTA_LIMITS, type QuotaName } from "../../contracts/api-quotas.ts";
import type { Queryable, Transaction } from "../../ports/database.ts";

type Counted = keyof typeof QUOTA_LIMITS;

/** What is counted: live rows of the zone in the table of the quota's name, but for these. */
const rowsOf = (sql: Queryable, name: Counted) => {
  if (name === "registered_applications") {
    return sql`applications where registration_token_id is not null and archived_at is null`;
  }
  if (name === "admin_tokens") {
    return sql`admin_tokens where revoked_at is null and (expires_at is null or expires_at > now())`;
  }
  if (name === "policy_versions" || name === "policy_set_versions") return sql`${sql(name)} where true`;
  return sql`${sql(name)} where archived_at is null`;
};

const countOf = async (sql: Queryable, name: Counted, zone_id: string): Promise<number> => {
  const rows = await sql<[{ use: number }]>`
    select count(*)::float8 as use from ${rowsOf(sql, name)} and zone_id = ${zone_id}`;
  return rows[0].use;
};

const isCounted = (name: QuotaName): name is Counted => Object.hasOwn(QUOTA_LIMITS, name);

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
