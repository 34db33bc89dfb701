import { challengeStatus } from "../../authority/challenge-status.ts";
import { CHALLENGE_TTL_S, type ChallengeStatus, MAX_WRONG_ANSWERS, type StepUpKind } from "../../domain/step-up.ts";
import type { Database, Queryable } from "../../ports/database.ts";

/** A challenge, as far as its caller is told of it. Times in milliseconds since the epoch, by the database's clock. */
export type Challenge = {
  readonly id: string;
  readonly kind: StepUpKind;
  readonly status: ChallengeStatus;
  readonly expires_at_ms: number;
};

/** With what an answer is judged by, and how long it has left. SHA-256 in hex. */
export type StoredChallenge = Challenge & {
  readonly secret_sha256: string;
  readonly bound_sha256: string;
  readonly left_ms: number;
};

const told = (sql: Queryable) => sql`
  id, kind, ${challengeStatus(sql)} as status, floor(extract(epoch from expires_at) * 1000)::float8 as expires_at_ms`;

/** Another application's is none. */
export const readChallenge = async (
  sql: Queryable,
  of: { readonly zone_id: string; readonly application_id: string; readonly id: string },
): Promise<StoredChallenge | undefined> => {
  const rows = await sql<StoredChallenge[]>`
    select ${told(sql)}, secret_sha256, bound_sha256,
      ceil(extract(epoch from expires_at - now()) * 1000)::float8 as left_ms
    from step_up_challenges
    where zone_id = ${of.zone_id} and id = ${of.id} and application_id = ${of.application_id}`;
  return rows[0];
};

/** One more, by whichever replica it came. */
export const countWrongAnswer = async (sql: Queryable, zone_id: string, id: string): Promise<void> => {
  await sql`
    update step_up_challenges set failures = failures + 1
    where zone_id = ${zone_id} and id = ${id} and failures < ${MAX_WRONG_ANSWERS}`;
};

/** Uses an approval up. false where it was used, or is none any more: of many at the same time one hears true. */
export const consumeChallenge = async (sql: Queryable, zone_id: string, id: string): Promise<boolean> => {
  const result = await sql`
    update step_up_challenges set consumed_at = now()
    where zone_id = ${zone_id} and id = ${id} and consumed_at is null and decision = 'satisfied' and expires_at > now()
      and failures < ${MAX_WRONG_ANSWERS}`;
  return result.count === 1;
};

/** What an approver is shown, and what an approval is for. */
export type BoundCall = {
  readonly application_id: string;
  readonly subject: string;
  readonly session_id: string;
  readonly resource_id: string;
  readonly scopes: readonly string[];
  readonly method: string | null;
  readonly path: string | null;
  /** Who acts, who runs, and by whose authority: in the digest alone. */
  readonly actor: string | null;
  readonly agent_session_id: string | null;
  readonly delegation_edge_id: string | null;
  readonly policy_set_version_id: string;
};

export type NewChallenge = {
  readonly zone_id: string;
  readonly id: string;
  readonly kind: StepUpKind;
  readonly secret_sha256: string;
  readonly bound: BoundCall;
  readonly bound_sha256: string;
};

/** How many may be pending: of an application's subject, and of the zone. */
export type ChallengeLimits = { readonly principal: number; readonly zone: number };

/** `made`: this very one was written. Else one of the same call that is pending, or was rejected and has not ended. */
export type Opened = (Challenge & { readonly made: boolean }) | "principal_full" | "zone_full";

/**
 * Writes a challenge, unless the same call has one already or too many are pending. Both are asked under the zone's lock, and
 * only the commit gives it back: two that ask at the same time, at two replicas, make one.
 */
export const openChallenge = (db: Database, challenge: NewChallenge, limits: ChallengeLimits): Promise<Opened> =>
  db.sql.begin(async (tx) => {
    const { zone_id, id, bound } = challenge;
    await tx`select pg_advisory_xact_lock(hashtextextended(${`step-up challenges ${zone_id}`}, 0))`;
    const [known] = await tx<Challenge[]>`
      select ${told(tx)} from step_up_challenges
      where zone_id = ${zone_id} and expires_at > now() and bound_sha256 = ${challenge.bound_sha256}
        and kind = ${challenge.kind} and (decision is null or decision = 'rejected') and failures < ${MAX_WRONG_ANSWERS}
      order by id desc limit 1`;
    if (known !== undefined) return { ...known, made: false };
    const [pending] = await tx<{ principal: number; zone: number }[]>`
      select count(*)::int as zone,
        (count(*) filter (where application_id = ${bound.application_id} and subject = ${bound.subject}))::int as principal
      from step_up_challenges
      where zone_id = ${zone_id} and expires_at > now() and decision is null`;
    if (pending === undefined) throw new Error("the database did not count the challenges");
    if (pending.principal >= limits.principal) return "principal_full";
    if (pending.zone >= limits.zone) return "zone_full";
    const [made] = await tx<Challenge[]>`
      insert into step_up_challenges (zone_id, id, kind, secret_sha256, bound_sha256, application_id, subject, session_id,
        resource_id, scopes, method, path, policy_set_version_id, expires_at)
      values (${zone_id}, ${id}, ${challenge.kind}, ${challenge.secret_sha256}, ${challenge.bound_sha256},
        ${bound.application_id}, ${bound.subject}, ${bound.session_id}, ${bound.resource_id},
        array(select json_array_elements_text(${JSON.stringify(bound.scopes)}::text::json)),
        ${bound.method}, ${bound.path}, ${bound.policy_set_version_id},
        now() + make_interval(secs => ${CHALLENGE_TTL_S}::integer))
      returning ${told(tx)}`;
    if (made === undefined) throw new Error("the database wrote no challenge");
    return { ...made, made: true };
  });
