import type { IncomingMessage, ServerResponse } from "node:http";
import type { Dispatcher, Pool } from "undici";

/** What of headers ends at a hop, as far as the benchmark's calls have it. */
export const HOP_BY_HOP: ReadonlySet<string> = new Set(["connection", "keep-alive", "transfer-encoding", "host"]);

/** Raw headers without those that are left out. */
export const passable = (raw: readonly (string | Buffer)[], left_out: ReadonlySet<string>): string[] => {
  const kept: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = String(raw[i]);
    if (!left_out.has(name.toLowerCase())) kept.push(name, String(raw[i + 1]));
  }
  return kept;
};

/**
 * The least that a reverse proxy does: the call goes on with these headers, bodies go through, and it ends with its client.
 * `done`: once the whole answer was passed on, with its status and the bytes of its body.
 */
export const forward = (
  pool: Pool,
  request: IncomingMessage,
  response: ServerResponse,
  headers: string[],
  done: (status: number, bytes: number) => void,
): void => {
  const has_body =
    request.headers["content-length"] !== undefined || request.headers["transfer-encoding"] !== undefined;
  let status = 0;
  let bytes = 0;
  let ended = false;
  let abort = (): void => undefined;
  // Without this an upstream connection stays paused for ever behind each client that went away in mid-answer.
  response.once("close", () => {
    if (!ended) abort();
  });
  pool.dispatch(
    {
      method: request.method as Dispatcher.HttpMethod,
      path: request.url ?? "/",
      headers,
      body: has_body ? request : null,
    },
    {
      onConnect(cancel) {
        abort = cancel;
      },
      onHeaders(code, raw, resume) {
        status = code;
        response.writeHead(code, passable(raw, HOP_BY_HOP));
        response.on("drain", resume);
        return true;
      },
      onData(chunk) {
        bytes += chunk.length;
        return response.write(chunk);
      },
      onComplete() {
        ended = true;
        response.end();
        done(status, bytes);
      },
      onError() {
        ended = true;
        response.destroy();
      },
    },
  );
};
