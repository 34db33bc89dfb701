import type { Page } from "../../contracts/api-fields.ts";
import type { Session, SessionQuery } from "../../contracts/api-sessions.ts";
import type { Queryable, Sql } from "../../ports/database.ts";
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
