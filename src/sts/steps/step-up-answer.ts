import { createHash } from "node:crypto";
import { sameBytes } from "../../domain/keyring.ts";
import { MAX_WRONG_ANSWERS } from "../../domain/step-up.ts";
import { isUuid } from "../../kernel/ids.ts";
import type { Log } from "../../kernel/log.ts";
import { deny, load } from "../../kernel/pipeline.ts";
import type { Turns } from "../../kernel/turns.ts";
import type { Database } from "../../ports/database.ts";
import type { Facts } from "../facts.ts";
import type { AnswerThrottle } from "../known/answer-throttle.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";
import { countWrongAnswer, readChallenge, type StoredChallenge } from "../store/challenges.ts";
import { challengeTold } from "./step-up-challenge.ts";

/** What came of a challenge here, for the metrics. */
export type StepUpEvent = "made" | "asked_again" | "wrong_answer" | "consumed";

export type StepUpPorts = {
  readonly db: Database;
  readonly throttle: AnswerThrottle;
  /** `CHALLENGE_TURNS`. */
  readonly turns: Turns;
  readonly log: Log;
  readonly onStepUp: (event: StepUpEvent) => void;
};

type Answered = Pick<Facts, "approval">;

/** What was decided on a challenge that was rightly answered: by its status. */
const OUTCOMES = {
  satisfied: ({ id, bound_sha256 }: StoredChallenge): Answered => ({ approval: { id, bound_sha256 } }),
  pending: (challenge: StoredChallenge) =>
    deny("challenge_pending", challenge.id, { challenge: challengeTold(challenge) }),
  rejected: ({ id }: StoredChallenge) => deny("challenge_rejected", id),
  consumed: ({ id }: StoredChallenge) => deny("challenge_consumed", id),
  expired: ({ id }: StoredChallenge) => deny("challenge_dead", id),
} as const;

const isAnswer = (response: string, { secret_sha256 }: StoredChallenge): boolean =>
  sameBytes(createHash("sha256").update(response).digest(), Buffer.from(secret_sha256, "hex"));

const NONE: Answered = { approval: undefined };

/**
 * The challenge that the request names: answered with its secret, and approved. A client that guesses is put off before anything
 * is asked. A wrong answer counts against the challenge too, at all replicas together; a challenge of another application is
 * none, and takes no harm. Asking while nobody has decided is no failure.
 */
export const stepUpAnswer = ({ db, throttle, log, onStepUp }: StepUpPorts) => {
  const judge = async (zone_id: string, application_id: string, id: string, response: string) => {
    const found = isUuid(id) ? await readChallenge(db.sql, { zone_id, application_id, id }) : undefined;
    if (found !== undefined && isAnswer(response, found)) return OUTCOMES[found.status](found);
    throttle.failed(zone_id, application_id);
    onStepUp("wrong_answer");
    if (found !== undefined) await countWrongAnswer(db.sql, zone_id, id);
    return deny("challenge_response_wrong", found?.id, {
      description: `There is no such challenge of this application, or challenge_response is not its secret. ${MAX_WRONG_ANSWERS} wrong answers end a challenge.`,
    });
  };
  return load("step_up_answer", (f: Pick<Facts, "request" | "application"> & { readonly zone: ZoneSnapshot }) => {
    const { challenge_id, challenge_response } = f.request;
    if (challenge_id === undefined || challenge_response === undefined) return NONE;
    const { zone_id } = f.zone;
    const wait_ms = throttle.wait_ms(zone_id, f.application.id);
    if (wait_ms > 0) return deny("challenge_throttled", undefined, { retry_after_s: Math.ceil(wait_ms / 1_000) });
    return judge(zone_id, f.application.id, challenge_id, challenge_response).catch((error: unknown) => {
      log.error({ err: error, zone_id }, "a challenge can't be read");
      return deny("challenge_unavailable");
    });
  });
};
