import type { ServerResponse } from "node:http";
import { HashingBusy } from "../domain/secret-hash.ts";
import type { FailureLog } from "../kernel/failure-log.ts";
import type { Log } from "../kernel/log.ts";
import { Problem } from "../kernel/problem.ts";
import { isConflict, isUnavailable } from "../ports/database.ts";
import { Unavailable } from "../ports/streams.ts";

/** How long a caller waits before it tries again where we can't know better, in seconds. */
const RETRY_AFTER_S = 1;

/** The shape of every error but those of the STS's OAuth endpoints. */
export type ErrorBody = {
  readonly error: string;
  readonly message: string;
  readonly requestId: string;
  readonly reason?: string;
  readonly diagnostics?: readonly unknown[];
  readonly issues?: readonly { readonly path: string; readonly message: string }[];
};

/** What of a problem goes outside. The cause stays. */
export const problemBody = (problem: Problem, request_id: string): ErrorBody => ({
  error: problem.code,
  message: problem.description,
  requestId: request_id,
  ...(problem.reason === undefined ? {} : { reason: problem.reason }),
  ...(problem.diagnostics === undefined ? {} : { diagnostics: problem.diagnostics }),
  ...(problem.issues === undefined ? {} : { issues: problem.issues }),
});

/** The headers that a problem's status calls for: 401 `WWW-Authenticate` (RFC 6750, 3), 429 and 503 `Retry-After`. */
export const problemHeaders = (problem: Problem): Record<string, string> => ({
  "cache-control": "no-store",
  ...(problem.status === 401 ? { "www-authenticate": 'Bearer error="invalid_token"' } : {}),
  ...(problem.status === 429 || problem.status === 503
    ? { "retry-after": String(problem.retry_after_s ?? RETRY_AFTER_S) }
    : {}),
});

/** A conflict that went on after the retries may pass when all is asked again. */
const isAway = (error: unknown): boolean =>
  error instanceof Unavailable || error instanceof HashingBusy || isUnavailable(error) || isConflict(error);

/**
 * Anything that was thrown → a Problem. What we did not foresee is a 500 that says nothing, and a log line that says
 * everything; parts that are away are a 503.
 */
export const toProblem = (error: unknown, log: Log, failures: FailureLog, request_id: string): Problem => {
  if (error instanceof Problem) {
    if (error.status >= 500) failures("error", error.code, { err: error, request_id }, "request failed");
    return error;
  }
  if (isAway(error)) {
    failures("warn", "away", { err: error, request_id }, "a part that the request needs is unavailable");
    return new Problem(503, "temporarily_unavailable", "A part that this request needs is unavailable. Try again.", {
      retry_after_s: RETRY_AFTER_S,
      cause: error,
    });
  }
  log.error({ err: error, request_id }, "request failed unexpectedly");
  return new Problem(
    500,
    "internal_error",
    "The request failed for a reason on our side. The log has it under this requestId.",
    {
      cause: error,
    },
  );
};

/** Sends an answer whole: an object as JSON, a text that is JSON already, or none. Does nothing where it has begun already. */
export const sendJson = (
  response: ServerResponse,
  status: number,
  headers: Readonly<Record<string, string>>,
  body: object | string | undefined,
): void => {
  if (response.headersSent || response.destroyed) return;
  if (body === undefined) {
    response.writeHead(status, headers).end();
    return;
  }
  const text = typeof body === "string" ? body : JSON.stringify(body);
  response.writeHead(status, {
    ...headers,
    "content-type": "application/json; charset=utf-8",
    "content-length": String(Buffer.byteLength(text)),
  });
  response.end(text);
};

/** Sends a problem in the general shape, with the request's id in header and body. */
export const sendProblem = (response: ServerResponse, problem: Problem, request_id: string): void =>
  sendJson(
    response,
    problem.status,
    { ...problemHeaders(problem), "x-request-id": request_id },
    problemBody(problem, request_id),
  );
