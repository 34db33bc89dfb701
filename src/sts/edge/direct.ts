import type { ExchangeAnswer } from "../../contracts/exchange.ts";
import type { Cancellation } from "../../kernel/cancel.ts";
import type { Clock } from "../../kernel/clock.ts";
import { type Sts, StsTimeout } from "../../ports/sts.ts";
import { Unavailable } from "../../ports/streams.ts";
import type { PublicState } from "./public-state.ts";
import { requestOfGateway } from "./request.ts";
import type { TokenEndpoint } from "./token-endpoint.ts";

const gaveUp = (signal: Cancellation): Error =>
  signal.reason instanceof DOMException && signal.reason.name === "TimeoutError"
    ? new StsTimeout()
    : new Unavailable("sts", signal.reason);

/** The answer, or that the caller gave up waiting for it. The work goes on to its end either way: a decision is written down. */
const unlessAborted = (work: Promise<ExchangeAnswer>, signal: Cancellation): Promise<ExchangeAnswer> =>
  new Promise((resolve, reject) => {
    const onAbort = (): void => reject(gaveUp(signal));
    signal.addEventListener("abort", onAbort, { once: true });
    const settle = (answer: ExchangeAnswer): void => {
      signal.removeEventListener("abort", onAbort);
      resolve(answer);
    };
    work.then(settle, reject);
  });

const orUnavailable = async <T>(work: Promise<T>): Promise<T> => {
  try {
    return await work;
  } catch (error) {
    throw error instanceof Unavailable ? error : new Unavailable("sts", error);
  }
};

/** The STS for a Gateway of the same process: the same pipeline, with no HTTP between and nothing to sign. */
export const createDirect = (tokens: TokenEndpoint, state: PublicState, clock: Clock): Sts => ({
  exchange(exchange, signal) {
    if (signal.aborted) return Promise.reject(gaveUp(signal));
    const trace_id = exchange.traceparent.split("-")[1];
    const request = requestOfGateway(exchange, undefined);
    const start = { request, request_id: exchange.request_id, trace_id, now_ms: clock.now_ms() };
    return unlessAborted(tokens.exchange(start), signal);
  },
  bindings: (query) => orUnavailable(state.bindings(query)),
  revocations: (cursor) => orUnavailable(state.revocations(cursor)),
  jwks: (zone_id) => orUnavailable(state.jwks(zone_id)),
});
