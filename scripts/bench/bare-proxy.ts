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

/** The least that a reverse proxy does: headers on, bodies through, undici's pool behind. No check, no ledger, no limits. */
export const run = (): void => {
  const { upstream_url } = partOptions<{ readonly upstream_url: string }>();
  const pool = new Pool(upstream_url, { connections: 256, pipelining: 1 });
  const server = createServer({ keepAliveTimeout: 65_000 }, (request, response) => {
    const has_body =
      request.headers["content-length"] !== undefined || request.headers["transfer-encoding"] !== undefined;
    pool.dispatch(
      {
        method: request.method as Dispatcher.HttpMethod,
        path: request.url ?? "/",
        headers: passable(request.rawHeaders),
        body: has_body ? request : null,
      },
      {
        onConnect: () => undefined,
        onHeaders(status, raw, resume) {
          response.writeHead(status, passable(raw));
          response.on("drain", resume);
          return true;
        },
        onData: (chunk) => response.write(chunk),
        onComplete: () => void response.end(),
        onError: () => void response.destroy(),
      },
    );
  });
  server.listen(0, "127.0.0.1", () => answer({ port: (server.address() as AddressInfo).port }));
};
