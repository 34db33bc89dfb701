import type { IncomingMessage, ServerResponse } from "node:http";
import type { DenialExtra } from "../../kernel/pipeline.ts";
import { type GatewayProblem, problems, type Reason } from "../problems.ts";

/** How long a caller waits where nobody knows better, in seconds. */
const RETRY_AFTER_S = 1;
/** A body up to this is read to its end behind a refusal, so that the connection can be used again. */
const READ_ON_BYTES = 64 * 1024;
/** And of a longer one so much, so that a caller that is still writing gets to read its answer; then it is closed. */
const LINGER_BYTES = 512 * 1024;
const LINGER_MS = 1_000;
/** What a chunk counts at least: one byte in a chunk of its own is a hundred times the work. */
const CHUNK_BYTES = 64;

const bodyOf = (problem: GatewayProblem, reason: Reason, request_id: string, extra: DenialExtra | undefined): string =>
  JSON.stringify({
    error: problem.error,
    message: extra?.description ?? problem.message,
    requestId: request_id,
    reason: extra?.public_reason ?? reason,
    ...(extra?.diagnostics === undefined ? {} : { diagnostics: extra.diagnostics }),
    ...(extra?.challenge === undefined ? {} : { challenge: extra.challenge }),
  });

const headersOf = (
  problem: GatewayProblem,
  request_id: string,
  length: number,
  extra: DenialExtra | undefined,
): string[] => {
  const headers = [
    "Content-Type",
    "application/json; charset=utf-8",
    "Content-Length",
    String(length),
    "Cache-Control",
    "no-store",
    "X-Content-Type-Options",
    "nosniff",
    "X-Request-Id",
    request_id,
  ];
  if (problem.status === 401) headers.push("WWW-Authenticate", 'Bearer error="invalid_token"'); // RFC 6750, 3
  if (problem.status === 405) headers.push("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
  if (problem.status === 429 || problem.status === 503)
    headers.push("Retry-After", String(extra?.retry_after_s ?? RETRY_AFTER_S));
  return headers;
};

/** What of the request's body is still to come: nothing, little, or more than we care to read. */
const toCome = (request: IncomingMessage): "nothing" | "little" | "much" => {
  if (request.complete) return "nothing";
  const { "transfer-encoding": encoding, "content-length": length, expect } = request.headers;
  if (encoding === undefined && (length === undefined || length === "0")) return "nothing";
  if (encoding !== undefined || expect !== undefined) return "much"; // a client that waits for a 100 may send the body or not
  return Number(length) <= READ_ON_BYTES ? "little" : "much";
};

/**
 * Ends the answer after the caller had the chance to read it: a connection that is closed while it still writes is reset,
 * and takes the answer along. Bounded in bytes and in time.
 */
const endLingering = (request: IncomingMessage, response: ServerResponse): void => {
  let left = LINGER_BYTES;
  const timer = setTimeout(() => end(), LINGER_MS);
  const end = (): void => {
    clearTimeout(timer);
    request.off("data", count);
    if (!response.writableEnded) response.end();
  };
  const count = (chunk: Buffer): void => {
    left -= Math.max(chunk.byteLength, CHUNK_BYTES);
    if (left < 0) end();
  };
  request.on("data", count);
  request.once("end", end);
  response.once("close", end);
};

/**
 * A refusal in the general shape `{error, message, requestId, reason, diagnostics?, challenge?}`: JSON always, nothing of the
 * inside. Does nothing where an answer has begun or the caller is gone.
 */
export const refuse = (
  request: IncomingMessage,
  response: ServerResponse,
  reason: Reason,
  request_id: string,
  extra?: DenialExtra,
): void => {
  if (response.headersSent || response.destroyed) return;
  const problem = problems[reason];
  const body = bodyOf(problem, reason, request_id, extra);
  const headers = headersOf(problem, request_id, Buffer.byteLength(body), extra);
  const left = toCome(request);
  if (left !== "much") {
    response.writeHead(problem.status, headers);
    response.end(body); // Node reads what is left of a little body by itself
    return;
  }
  headers.push("Connection", "close");
  response.writeHead(problem.status, headers);
  response.write(body);
  if (request.destroyed || request.headers.expect !== undefined) response.end();
  else endLingering(request, response);
};
