import type { Queryable, Transaction } from "../../ports/database.ts";

type Kept = { readonly fingerprint: string; readonly answer_json: string };

/** Undefined: this transaction claimed the key. Otherwise: its first use. A racing claim waits for the first to commit. */
export const claimKey = async (
  tx: Transaction,
  actor: string,
  key: string,
  fingerprint: string,
): Promise<Kept | undefined> => {
  const claimed = await tx`
    insert into idempotency_keys (actor, key, fingerprint) values (${actor}, ${key}, ${fingerprint})
    on conflict do nothing returning 1`;
  if (claimed.length > 0) return undefined;
  const rows = await tx<Kept[]>`
    select fingerprint, answer_json from idempotency_keys where actor = ${actor} and key = ${key}`;
  return rows[0];
};

export const keepAnswer = async (tx: Transaction, actor: string, key: string, answer_json: string): Promise<void> => {
  await tx`update idempotency_keys set answer_json = ${answer_json} where actor = ${actor} and key = ${key}`;
};

const KEEP_DAYS = 7;

/** Forgets keys that are older than seven days, `limit` at most. */
export const deleteOldKeys = async (sql: Queryable, limit: number): Promise<void> => {
  await sql`
    delete from idempotency_keys where (actor, key) in (
      select actor, key from idempotency_keys
      where created_at < now() - make_interval(days => ${KEEP_DAYS}::integer)
      order by created_at limit ${limit} for update skip locked)`;
};
