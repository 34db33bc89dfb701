import type { Queryable, Sql } from "../../ports/database.ts";

/** The live token of that hash, and its zone. */
export const findRegistrationToken = async (
  sql: Sql,
  token_sha256: string,
): Promise<{ readonly id: string; readonly zone_id: string } | undefined> => {
  const rows = await sql<{ id: string; zone_id: string }[]>`
    select t.id, t.zone_id from registration_tokens t join zones z on z.id = t.zone_id and z.archived_at is null
    where t.token_sha256 = ${token_sha256} and t.archived_at is null and t.expires_at > now()`;
  return rows[0];
};

/**
 * How many clients registered themselves in the zone since a second before this transaction began. Rows hold when their
 * transactions began, too: those that wait for each other count each other, however long they wait.
 */
export const registeredLately = async (sql: Queryable, zone_id: string): Promise<number> => {
  const rows = await sql<[{ lately: number }]>`
    select count(*)::float8 as lately from applications
    where zone_id = ${zone_id} and registration_token_id is not null
      and created_at > now() - interval '1 second'`;
  return rows[0].lately;
};
