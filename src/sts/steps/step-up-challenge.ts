import { createHash } from "node:crypto";
import { isoText } from "../../kernel/clock.ts";
import { randomSecret, uuidv7 } from "../../kernel/ids.ts";
import type { Log } from "../../kernel/log.ts";
import { commit, type Denial, deny } from "../../kernel/pipeline.ts";
import { Problem } from "../../kernel/problem.ts";
import type { TurnOptions, Turns } from "../../kernel/turns.ts";
import type { Database } from "../../ports/database.ts";
import type { Facts } from "../facts.ts";
import { type Challenge, type ChallengeLimits, openChallenge } from "../store/challenges.ts";
import { boundOf, boundSha256, type Call } from "./step-up-bound.ts";

const LIMITS: ChallengeLimits = { principal: 20, zone: 500 };

/** Of the database's time for this: an agent that asks without end has a share of one connection, and no more. */
export const CHALLENGE_TURNS = {
  running_max: 4,
  zone_waiting_max: 64,
  zones_max: 10_000,
  zone_ms_per_minute: 20_000,
  names: { waiting: "challenges_waiting", seconds: "challenge_seconds_per_minute", busy: "challenges_busy" },
} as const satisfies Omit<TurnOptions, "clock">;

/** As the caller is told of it. The secret only where it was made just now. */
export const challengeTold = (
  { id, kind, expires_at_ms }: Challenge,
  secret?: string,
): Readonly<Record<string, string>> => ({
  id,
  type: kind,
  ...(secret === undefined ? {} : { secret }),
  expires_at: isoText(expires_at_ms),
});

const FULL = {
  principal_full: "challenges_of_principal",
  zone_full: "challenges_of_zone",
} as const;

/** When one of those that are pending may have ended; nobody knows better. */
const FULL_RETRY_S = 30;

type Refusal =
  | "step_up_required"
  | "challenge_rejected"
  | "challenge_unavailable"
  | "challenge_busy"
  | (typeof FULL)[keyof typeof FULL];

/**
 * Policy refused the call, and said what would lift that: the challenge is written in the commit of the refusal, or the one that the
 * same call has already is told. Crash after this line: a challenge is pending whose secret nobody has, and ends by itself.
 */
export const stepUpChallenge = (ports: {
  readonly db: Database;
  readonly turns: Turns;
  readonly log: Log;
  readonly onStepUp: (event: "made" | "asked_again") => void;
}) => {
  const { db, turns, log, onStepUp } = ports;

  const failed = (error: unknown, zone_id: string): Denial<Refusal> => {
    if (error instanceof Problem && error.status === 429)
      return deny("challenge_busy", error.description, { retry_after_s: error.retry_after_s ?? 1 });
    log.error({ err: error, zone_id }, "a challenge can't be written");
    return deny("challenge_unavailable");
  };

  return commit<Call & Pick<Facts, "judged" | "now_ms">, object, Refusal>("step_up_challenge", async (f) => {
    const { zone_id } = f.zone;
    const [verdict] = f.judged.map((one) => one.evaluation.verdict);
    // The check before this found it there.
    if (verdict?.decision !== "deny" || verdict.step_up === undefined) return deny("challenge_unavailable");
    const secret = randomSecret();
    const bound = boundOf(f);
    const challenge = {
      zone_id,
      id: uuidv7(f.now_ms),
      kind: verdict.step_up,
      secret_sha256: createHash("sha256").update(secret).digest("hex"),
      bound,
      bound_sha256: boundSha256(zone_id, bound),
    };
    try {
      const opened = await turns.take(zone_id, {}, () => openChallenge(db, challenge, LIMITS));
      if (typeof opened === "string") return deny(FULL[opened], undefined, { retry_after_s: FULL_RETRY_S });
      if (opened.status === "rejected") return deny("challenge_rejected", opened.id);
      onStepUp(opened.made ? "made" : "asked_again");
      return deny("step_up_required", undefined, {
        diagnostics: verdict.diagnostics,
        challenge: challengeTold(opened, opened.made ? secret : undefined),
      });
    } catch (error) {
      return failed(error, zone_id);
    }
  });
};
