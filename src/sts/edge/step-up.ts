import { type ChallengeState, MAX_WAIT_S } from "../../contracts/sts.ts";
import { headersNamed } from "../../http/headers.ts";
import { type Arrival, nothingHere, type Route } from "../../http/router.ts";
import { type Clock, isoText } from "../../kernel/clock.ts";
import { isUuid } from "../../kernel/ids.ts";
import { Problem } from "../../kernel/problem.ts";
import type { Database } from "../../ports/database.ts";
import type { PipelinePorts } from "../exchange.ts";
import type { ChallengeWaits, Wait } from "../known/challenge-waits.ts";
import { problems } from "../problems.ts";
import { challengeReader } from "../step-up.ts";
import { readChallenge, type StoredChallenge } from "../store/challenges.ts";
import { requestOfGateway } from "./request.ts";
import { traceIdOf } from "./trace.ts";

export type StepUpOptions = PipelinePorts & {
  readonly db: Database;
  readonly waits: ChallengeWaits;
  readonly clock: Clock;
  /** A call that nobody of ours made. */
  readonly onUnauthenticated: (reason: string) => void;
};

const BEARER = /^bearer +([A-Za-z0-9._-]+) *$/i;
const SECONDS = /^\d{1,2}$/;
const NO_STORE = { "cache-control": "no-store" } as const;

const tokenOf = ({ request }: Arrival): string | undefined => {
  const [header, ...more] = headersNamed(request, "authorization");
  return header === undefined || more.length > 0 ? undefined : BEARER.exec(header)?.[1];
};

const waitOf = ({ search }: Arrival): number => {
  const [text = "0", ...more] = new URLSearchParams(search).getAll("wait");
  const wait_s = SECONDS.test(text) ? Number(text) : undefined;
  if (wait_s === undefined || wait_s > MAX_WAIT_S || more.length > 0)
    throw new Problem(
      400,
      "invalid_request",
      `wait must be a whole number of seconds from 0 to ${MAX_WAIT_S}, sent once.`,
    );
  return wait_s;
};

const stateOf = ({ id, kind, status, expires_at_ms }: StoredChallenge): ChallengeState => ({
  challenge_id: id,
  challenge_type: kind,
  status,
  challenge_expires_at: isoText(expires_at_ms),
});

const TOO_MANY = {
  client: "The application waits for as many challenges here as it may. Try again.",
  zone: "The zone waits for as many challenges here as it may. Try again.",
  process: "As many wait for challenges here as may. Try again.",
} as const;

/**
 * `GET /step-up/{id}?wait=`: what became of a challenge, told to the application that it was made for; at once where it was decided, else
 * when it is, or the wait is over. A message that was lost costs the rest of the wait: the row is read again at its end.
 */
export const createStepUpState = (options: StepUpOptions): Route["answer"] => {
  const { db, waits, clock } = options;
  const reader = challengeReader(options);

  /** Who asks, or the refusal: in the general shape, since a bearer is no client of an OAuth endpoint. */
  const readerOf = async (arrival: Arrival) => {
    const token = tokenOf(arrival);
    const presented = token === undefined ? undefined : options.tokens.read(token);
    if (token === undefined || presented === undefined) {
      options.onUnauthenticated("subject_token_malformed");
      throw new Problem(401, "invalid_token", "Send one Authorization: Bearer with an ambient token.");
    }
    const zone_id = presented.kind === "verified" ? presented.claims.zone_id : presented.decoded.zone_id;
    const traceparent = arrival.request.headers["traceparent"];
    // As the Gateway asks: for the application of the token, which is all that the caller brings.
    const asked = { zone_id, subject_token: token, resource: "", method: "GET", path: "/", traceparent: "" };
    const outcome = await reader.run({
      request: requestOfGateway({ ...asked, request_id: arrival.request_id }, undefined),
      request_id: arrival.request_id,
      trace_id: traceIdOf(traceparent),
      now_ms: clock.now_ms(),
    });
    if (outcome.denial === undefined) return { zone_id, application_id: outcome.facts.application.id };
    const { reason, extra } = outcome.denial;
    options.onUnauthenticated(reason);
    const { status, error, description } = problems[reason];
    const retry = extra?.retry_after_s === undefined ? {} : { retry_after_s: extra.retry_after_s };
    if (status === 429 || status === 503) throw new Problem(status, error, description, { reason, ...retry });
    throw new Problem(401, "invalid_token", description, { reason });
  };

  /** Reads until the challenge is decided, whenever somebody says that it may be. */
  const untilDecided = async (
    read: () => Promise<StoredChallenge>,
    wait: Wait,
    until_ms: number,
  ): Promise<StoredChallenge> => {
    for (;;) {
      const challenge = await read();
      const left_ms = Math.min(until_ms - clock.monotonic_ms(), challenge.left_ms);
      if (challenge.status !== "pending" || left_ms <= 0) return challenge;
      if (!(await wait.woken(left_ms))) return challenge; // the caller went away, or the process drains
    }
  };

  return async (arrival, response) => {
    const wait_s = waitOf(arrival);
    const { zone_id, application_id } = await readerOf(arrival);
    const { id = "" } = arrival.params;
    if (!isUuid(id)) throw nothingHere();
    const read = async (): Promise<StoredChallenge> => {
      const found = await readChallenge(db.sql, { zone_id, application_id, id });
      if (found === undefined) throw nothingHere();
      return found;
    };
    if (wait_s === 0) return { status: 200, headers: NO_STORE, body: stateOf(await read()) };
    const wait = waits.wait(zone_id, application_id, id);
    if (!wait.ok) throw new Problem(429, "temporarily_unavailable", TOO_MANY[wait.bound], { reason: "too_many_waits" });
    const leave = (): void => wait.leave();
    const { socket } = arrival.request;
    const silent_ms = socket.timeout ?? 0;
    socket.setTimeout(silent_ms + wait_s * 1_000); // the connection is silent for as long as we are
    response.once("close", leave);
    if (response.destroyed) leave();
    try {
      const until_ms = clock.monotonic_ms() + wait_s * 1_000;
      return { status: 200, headers: NO_STORE, body: stateOf(await untilDecided(read, wait, until_ms)) };
    } finally {
      response.off("close", leave);
      socket.setTimeout(silent_ms);
      leave();
    }
  };
};
