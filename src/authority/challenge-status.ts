import { MAX_WRONG_ANSWERS } from "../domain/step-up.ts";
import type { Queryable } from "../ports/database.ts";

/** What a row of `step_up_challenges` is now (`ChallengeStatus`), as a fragment. One that died of wrong answers is `expired`. */
export const challengeStatus = (sql: Queryable) => sql`
  case
    when consumed_at is not null then 'consumed'
    when decision = 'rejected' then 'rejected'
    when expires_at <= now() or failures >= ${MAX_WRONG_ANSWERS} then 'expired'
    when decision = 'satisfied' then 'satisfied'
    else 'pending'
  end`;
