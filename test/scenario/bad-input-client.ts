import assert from "node:assert/strict";
import { openRaw, type RawAnswer } from "../support/raw-http.ts";

/** A client that sends whatever bytes it likes, and what every answer to it must be like. */

const ANSWER_WITHIN_MS = 5_000;

/** What a stack trace, a driver's words or a path of ours would look like in an answer. */
const LEAKS =
  /\n\s+at |node:internal|node_modules|\.[jt]s:\d+|\/src\/|postgres|ioredis|pglite|ECONN|HPE_|SELECT |INSERT |violates|syntax error at/i;

/** The demo's upstream, to whatever is no POST. */
const UPSTREAM_SAYS = "POST a JSON-RPC message.";

export type Outcome = { readonly answers: readonly RawAnswer[] };

export type SendOptions = {
  /** Our side ends behind the bytes, as a client that broke off would. */
  readonly breaks_off?: boolean;
  readonly head_only?: boolean;
};

/** Sends the bytes on a connection of their own; every answer until the connection's end. Rejects where it hangs. */
export const send = async (url: string, bytes: string | Buffer, options: SendOptions = {}): Promise<Outcome> => {
  const connection = await openRaw(url, { head_only: options.head_only === true });
  try {
    connection.write(bytes);
    if (options.breaks_off === true) connection.end();
    const answers: RawAnswer[] = [];
    const first = await connection.answer(ANSWER_WITHIN_MS);
    if (first === undefined) return { answers };
    answers.push(first);
    connection.end();
    for (;;) {
      const next = await connection.answer(ANSWER_WITHIN_MS);
      if (next === undefined) return { answers };
      answers.push(next);
    }
  } finally {
    connection.destroy();
  }
};

/**
 * A clear 4xx in JSON (or, where the bytes were good after all, a success) or a close: never a 5xx, a stack, a word of the
 * inside. `head_only`: there is no body to look at.
 */
export const judge = (name: string, { answers }: Outcome, head_only = false): void => {
  for (const answer of answers) {
    const shown = `${name}: ${answer.status} ${JSON.stringify(answer.headers)} ${answer.body.slice(0, 500)}`;
    assert.ok(answer.status >= 200 && answer.status < 500, shown);
    assert.ok(answer.complete, `${shown} (not whole)`);
    assert.doesNotMatch(answer.body, LEAKS, shown);
    assert.equal(answer.headers["x-powered-by"], undefined, shown);
    if (answer.status < 400 || head_only) continue;
    assert.match(answer.headers["content-type"] ?? "", /^application\/json/, shown);
    const body = JSON.parse(answer.body) as Record<string, unknown>;
    if ("jsonrpc" in body || body["message"] === UPSTREAM_SAYS) continue; // the upstream's own words, passed on
    assert.equal(typeof body["error"], "string", shown);
    assert.ok(typeof body["message"] === "string" || typeof body["error_description"] === "string", shown);
    if (body["error"] !== "invalid_token" || "requestId" in body)
      assert.equal(typeof body["requestId"], "string", shown);
  }
};

/** Sends and judges. Gives back the statuses, for what must be refused in one way only. */
export const swept = async (
  name: string,
  url: string,
  bytes: string | Buffer,
  options: SendOptions = {},
): Promise<readonly number[]> => {
  const outcome = await send(url, bytes, options).catch((error: unknown) => assert.fail(`${name}: ${String(error)}`));
  judge(name, outcome, options.head_only);
  return outcome.answers.map((answer) => answer.status);
};
