import type { AdminToken, AdminTokenQuery } from "../../contracts/api-admin.ts";
import type { Page } from "../../contracts/api-fields.ts";
import type { Sql, Transaction } from "../../ports/database.ts";
import { actorOfToken } from "../caller.ts";
import { iso, isoOrNull, pageOfRows } from "./rows.ts";

type Row = Omit<AdminToken, "created_at" | "expires_at" | "last_used_at"> & {
  created_at: Date;
  expires_at: Date | null;
  last_used_at: Date | null;
};

const tokenOf = (row: Row): AdminToken => ({
  ...row,
  created_at: iso(row.created_at),
  expires_at: isoOrNull(row.expires_at),
  last_used_at: isoOrNull(row.last_used_at),
});

export type TokenRow = {
  readonly id: string;
  readonly zone_id: string | null;
  readonly token_sha256: string;
  readonly label: string;
  readonly access: "full" | "read";
  readonly created_by: string | null;
  /** The admin token that makes it, where one does. */
  readonly maker_id: string | null;
  readonly expires_in_s: number | null;
};

export const insertAdminToken = async (tx: Transaction, token: TokenRow): Promise<AdminToken> => {
  const rows = await tx<[Row]>`
    insert into admin_tokens (id, zone_id, token_sha256, label, access, created_by, expires_at)
    values (${token.id}, ${token.zone_id}, ${token.token_sha256}, ${token.label}, ${token.access}, ${token.created_by},
            -- Not past the end of the token that makes it: who may act for a minute can't make it for ever. least() skips nulls.
            least(now() + make_interval(secs => ${token.expires_in_s}::integer),
                  (select maker.expires_at from admin_tokens maker where maker.id = ${token.maker_id}::text)))
    returning id, zone_id, label, access, created_by, created_at, expires_at, last_used_at`;
  return tokenOf(rows[0]);
};

/** How old `last_used_at` may get before a use is written again, in seconds. */
const USE_IS_KNOWN_TO_S = 60;

export type UsableToken = {
  readonly id: string;
  readonly zone_id: string | null;
  readonly access: "full" | "read";
  /** The last use that is written down is older than a minute. */
  readonly use_is_news: boolean;
};

/** The token of that hash, where it can be used now: not revoked, not expired, its zone not archived. */
export const findUsableToken = async (sql: Sql, token_sha256: string): Promise<UsableToken | undefined> => {
  const rows = await sql<UsableToken[]>`
    select t.id, t.zone_id, t.access,
           coalesce(t.last_used_at < now() - make_interval(secs => ${USE_IS_KNOWN_TO_S}::integer), true) as use_is_news
    from admin_tokens t
    left join zones z on z.id = t.zone_id
    where t.token_sha256 = ${token_sha256}
      and t.revoked_at is null
      and (t.expires_at is null or t.expires_at > now())
      and (t.zone_id is null or z.archived_at is null)`;
  return rows[0];
};

/**
 * Whether the token can be used now, and keeps it so until the commit: its revocation waits for what it is making, and
 * then finds it.
 */
export const holdAdminToken = async (tx: Transaction, id: string): Promise<boolean> => {
  const held = await tx`
    select 1 from admin_tokens t
    where t.id = ${id} and t.revoked_at is null
      and (t.expires_at is null or t.expires_at > now())
      and (t.zone_id is null or exists (select 1 from zones z where z.id = t.zone_id and z.archived_at is null))
    for share of t`;
  return held.length > 0;
};

/** Writes a use down; of several at once the first does. */
export const touchAdminToken = async (sql: Sql, id: string): Promise<void> => {
  await sql`
    update admin_tokens set last_used_at = now()
    where id = ${id}
      and coalesce(last_used_at < now() - make_interval(secs => ${USE_IS_KNOWN_TO_S}::integer), true)`;
};

/** Those that are not revoked. `only`: the one zone that a bounded caller may see. */
export const listAdminTokens = async (
  sql: Sql,
  only: string | null,
  query: AdminTokenQuery,
): Promise<Page<AdminToken>> => {
  const rows = await sql<Row[]>`
    select id, zone_id, label, access, created_by, created_at, expires_at, last_used_at
    from admin_tokens
    where revoked_at is null
      ${only === null ? sql`` : sql`and zone_id = ${only}`}
      ${query.zone_id === undefined ? sql`` : sql`and zone_id = ${query.zone_id}`}
      ${query.cursor === undefined ? sql`` : sql`and id > ${query.cursor}`}
    order by id
    limit ${query.limit + 1}`;
  return pageOfRows(rows, query.limit, tokenOf, (token) => token.id);
};

export const findAdminToken = async (sql: Sql, only: string | null, id: string): Promise<AdminToken | undefined> => {
  const rows = await sql<Row[]>`
    select id, zone_id, label, access, created_by, created_at, expires_at, last_used_at
    from admin_tokens
    where id = ${id} and revoked_at is null
      ${only === null ? sql`` : sql`and zone_id = ${only}`}`;
  return rows[0] === undefined ? undefined : tokenOf(rows[0]);
};

/**
 * Revokes a token with all that it made, that these made, and so on. undefined where there was none to revoke. One
 * generation a statement: each waits for the changes that its tokens are making (`holdAdminToken`), and the next sees
 * what these made. A generation that was revoked before is passed through, for its children may live.
 */
export const revokeAdminToken = async (
  tx: Transaction,
  only: string | null,
  id: string,
): Promise<{ readonly zone_id: string | null; readonly descendants: readonly string[] } | undefined> => {
  const rows = await tx<{ zone_id: string | null }[]>`
    update admin_tokens set revoked_at = now()
    where id = ${id} and revoked_at is null
      ${only === null ? tx`` : tx`and zone_id = ${only}`}
    returning zone_id`;
  const [root] = rows;
  if (root === undefined) return undefined;
  const descendants: string[] = [];
  for (let makers: readonly string[] = [id]; makers.length > 0;) {
    const children = await tx<{ id: string; ended: boolean }[]>`
      with made as (
        select t.id from admin_tokens t
        -- as values that the planner sees: where one token made most of the others it would read them all
        where t.created_by = any(string_to_array(${makers.map(actorOfToken).join(",")}, ','))
      ), ended as (
        update admin_tokens t set revoked_at = now() from made
        where t.id = made.id and t.revoked_at is null
        returning t.id
      )
      select made.id, ended.id is not null as ended from made left join ended on ended.id = made.id`;
    descendants.push(...children.filter((child) => child.ended).map((child) => child.id));
    makers = children.map((child) => child.id);
  }
  return { zone_id: root.zone_id, descendants };
};

/** Revokes every token of the zone; resolves to how many. */
export const revokeAdminTokensOf = async (tx: Transaction, zone_id: string): Promise<number> =>
  (await tx`update admin_tokens set revoked_at = now() where zone_id = ${zone_id} and revoked_at is null returning 1`)
    .length;

/**
 * Whether the bootstrap was used. Whoever asks holds a lock until the end of its transaction, so that of two that race the
 * second asks after the first has committed.
 */
export const bootstrapWasUsed = async (tx: Transaction): Promise<boolean> => {
  await tx`select pg_advisory_xact_lock(hashtext('caracal bootstrap'))`;
  return (await tx`select 1 from bootstrap_use`).length > 0;
};

export const insertBootstrapUse = async (tx: Transaction, zone_id: string): Promise<void> => {
  await tx`insert into bootstrap_use (zone_id) values (${zone_id})`;
};
