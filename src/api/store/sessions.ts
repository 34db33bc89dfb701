import type { Page } from "../../contracts/api-fields.ts";
import type { Session, SessionQuery } from "../../contracts/api-sessions.ts";
import type { RevocationEvent } from "../../domain/revocation.ts";
import { LEEWAY_S } from "../../domain/token.ts";
import type { Queryable, Sql, Transaction } from "../../ports/database.ts";
import { iso, isoOrNull, pageOfRows } from "./rows.ts";

type Row = Omit<Session, "created_at" | "expires_at" | "revoked_at"> & {
  created_at: Date;
  expires_at: Date;
  revoked_at: Date | null;
};

const sessionOf = (row: Row): Session => ({
  ...row,
  created_at: iso(row.created_at),
  expires_at: iso(row.expires_at),
  revoked_at: isoOrNull(row.revoked_at),
});

/** Newest first: an operator looks for what runs now. */
export const listSessions = async (sql: Sql, zone_id: string, query: SessionQuery): Promise<Page<Session>> => {
  const rows = await sql<Row[]>`
    select * from (
      select id, zone_id, client_id, subject, sub_type, created_at, expires_at, revoked_at,
             case when revoked_at is not null then 'revoked' when expires_at <= now() then 'expired' else 'active' end as status
      from sessions
      where zone_id = ${zone_id}
        ${query.subject === undefined ? sql`` : sql`and subject = ${query.subject}`}
        ${query.client_id === undefined ? sql`` : sql`and client_id = ${query.client_id}`}
        ${query.cursor === undefined ? sql`` : sql`and id < ${query.cursor}`}
    ) as all_of_them
    where true ${query.status === undefined ? sql`` : sql`and status = ${query.status}`}
    order by id desc
    limit ${query.limit + 1}`;
  return pageOfRows(rows, query.limit, sessionOf, (session) => session.id);
};

export const findSession = async (sql: Sql, zone_id: string, id: string): Promise<Session | undefined> => {
  const rows = await sql<Row[]>`
    select id, zone_id, client_id, subject, sub_type, created_at, expires_at, revoked_at,
           case when revoked_at is not null then 'revoked' when expires_at <= now() then 'expired' else 'active' end as status
    from sessions
    where zone_id = ${zone_id} and id = ${id}`;
  return rows[0] === undefined ? undefined : sessionOf(rows[0]);
};

/** Which of a zone's sessions: one, a subject's, an application's, or all of them. */
export type Those =
  | { readonly id: string }
  | { readonly subject: string }
  | { readonly client_id: string }
  | { readonly all: true };

/**
 * Ends up to `limit` of those sessions whose tokens some clock may still take, and tells which they were. Rows are locked in
 * the order of their ids, so that two calls that meet wait and do not deadlock.
 */
export const revokeSessions = async (
  tx: Transaction,
  zone_id: string,
  those: Those,
  limit: number,
): Promise<readonly RevocationEvent[]> => {
  const rows = await tx<{ id: string; expires_at_s: number }[]>`
    with ended as (
      select id from sessions
      where zone_id = ${zone_id} and revoked_at is null and expires_at > now() - make_interval(secs => ${LEEWAY_S}::integer)
        ${"id" in those ? tx`and id = ${those.id}` : tx``}
        ${"subject" in those ? tx`and subject = ${those.subject}` : tx``}
        ${"client_id" in those ? tx`and client_id = ${those.client_id}` : tx``}
      order by id
      limit ${limit}
      for update
    )
    update sessions set revoked_at = now()
    from ended
    where sessions.zone_id = ${zone_id} and sessions.id = ended.id
    returning sessions.id, ceil(extract(epoch from sessions.expires_at))::float8 as expires_at_s`;
  return rows.map((row) => ({
    op: "revoke",
    kind: "session",
    zone_id,
    id: row.id,
    expires_at: row.expires_at_s + LEEWAY_S,
  }));
};

/** How long an ended session can still be looked at, in days. */
const KEEP_ENDED_DAYS = 7;

/** Forgets sessions that ended long ago, `limit` at most; resolves to how many. Two that sweep at once take others each. */
export const deleteEndedSessions = async (sql: Queryable, limit: number): Promise<number> => {
  const { count } = await sql`
    delete from sessions using (
      select zone_id, id from sessions
      where expires_at < now() - make_interval(days => ${KEEP_ENDED_DAYS}::integer)
      order by expires_at limit ${limit} for update skip locked
    ) ended
    where sessions.zone_id = ended.zone_id and sessions.id = ended.id`;
  return count;
};
