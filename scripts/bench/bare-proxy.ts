import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type Dispatcher, Pool } from "undici";
import { answer, partOptions } from "./parts.ts";

const HOP_BY_HOP = new Set(["connection", "keep-alive", "transfer-encoding", "host"]);

const passable = (raw: readonly (string | Buffer)[]): string[] => {
  const kept: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = String(raw[i]);
    if (!HOP_BY_HOP.has(name.toLowerCase())) kept.push(name, String(raw[i + 1]));
  }
  return kept;
};

/** The least that a reverse proxy does: headers on, bodies through, a call ends with its client, undici's pool behind. No
 * check, no ledger, no limits. */
export const run = (): void => {
  const { upstream_url } = partOptions<{ readonly upstream_url: string }>();
  const pool = new Pool(upstream_url, { connections: 256, pipelining: 1 });
  const server = createServer({ keepAliveTimeout: 65_000 }, (request, response) => {
    const has_body =
      request.headers["content-length"] !== undefined || request.headers["transfer-encoding"] !== undefined;
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
        headers: passable(request.rawHeaders),
        body: has_body ? request : null,
      },
      {
        onConnect(cancel) {
          abort = cancel;
        },
        onHeaders(status, raw, resume) {
          response.writeHead(status, passable(raw));
          response.on("drain", resume);
          return true;
        },
        onData: (chunk) => response.write(chunk),
        onComplete() {
          ended = true;
          response.end();
        },
        onError() {
          ended = true;
          response.destroy();
        },
      },
    );
  });
  server.listen(0, "127.0.0.1", () => answer({ port: (server.address() as AddressInfo).port }));
};
