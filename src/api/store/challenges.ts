import { challengeStatus } from "../../authority/challenge-status.ts";
import type { Challenge, ChallengeQuery } from "../../contracts/api-challenges.ts";
import type { Page } from "../../contracts/api-fields.ts";
import { MAX_WRONG_ANSWERS } from "../../domain/step-up.ts";
import type { Queryable, Sql, Transaction } from "../../ports/database.ts";
import { iso, isoOrNull, pageOfRows } from "./rows.ts";

type Times = "created_at" | "expires_at" | "decided_at" | "consumed_at";
type Row = Omit<Challenge, Times> & {
  created_at: Date;
  expires_at: Date;
  decided_at: Date | null;
  consumed_at: Date | null;
};

const challengeOf = (row: Row): Challenge => ({
  ...row,
  created_at: iso(row.created_at),
  expires_at: iso(row.expires_at),
  decided_at: isoOrNull(row.decided_at),
  consumed_at: isoOrNull(row.consumed_at),
});

/** Never the secret's hash. */
const shown = (sql: Queryable) => sql`
  id, zone_id, kind,
  ${challengeStatus(sql)} as status,
  application_id, subject, session_id, resource_id, to_json(scopes) as scopes, method, path, body_sha256, body_json,
  policy_set_version_id, created_at, expires_at, decided_by, decided_at, consumed_at`;

/** Newest first. */
export const listChallenges = async (sql: Sql, zone_id: string, query: ChallengeQuery): Promise<Page<Challenge>> => {
  const { cursor, status, application_id } = query;
  const rows = await sql<Row[]>`
    select * from (select ${shown(sql)} from step_up_challenges where zone_id = ${zone_id}) as all_of_them
    where true
      ${cursor === undefined ? sql`` : sql`and id < ${cursor}`}
      ${status === undefined ? sql`` : sql`and status = ${status}`}
      ${application_id === undefined ? sql`` : sql`and application_id = ${application_id}`}
    order by id desc
    limit ${query.limit + 1}`;
  return pageOfRows(rows, query.limit, challengeOf, (challenge) => challenge.id);
};

export const findChallenge = async (sql: Queryable, zone_id: string, id: string): Promise<Challenge | undefined> => {
  const rows = await sql<Row[]>`select ${shown(sql)} from step_up_challenges where zone_id = ${zone_id} and id = ${id}`;
  return rows[0] === undefined ? undefined : challengeOf(rows[0]);
};

/** undefined where it does not wait for a decision any more: of two that decide, the first has. */
export const decideChallenge = async (
  tx: Transaction,
  zone_id: string,
  id: string,
  decision: "satisfied" | "rejected",
  decided_by: string,
): Promise<Challenge | undefined> => {
  const rows = await tx<Row[]>`
    update step_up_challenges set decision = ${decision}, decided_by = ${decided_by}, decided_at = now()
    where zone_id = ${zone_id} and id = ${id} and decision is null and expires_at > now() and failures < ${MAX_WRONG_ANSWERS}
    returning ${shown(tx)}`;
  return rows[0] === undefined ? undefined : challengeOf(rows[0]);
};

const KEEP_DAYS = 7;
const KEEP_UNDECIDED_HOURS = 1;

/**
 * Forgets challenges that ended more than seven days ago, and an hour after their end those that nobody decided, of which an
 * agent makes as many as it likes; `limit` at most. The admin audit keeps who decided.
 */
export const deleteOldChallenges = async (sql: Queryable, limit: number): Promise<void> => {
  await sql`
    delete from step_up_challenges where (zone_id, id) in (
      select zone_id, id from step_up_challenges
      where expires_at < now() - make_interval(hours => ${KEEP_UNDECIDED_HOURS}::integer)
        and (decision is null or expires_at < now() - make_interval(days => ${KEEP_DAYS}::integer))
      order by expires_at limit ${limit})`;
};
