import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Pool } from "undici";
import { forward, HOP_BY_HOP, passable } from "./forward.ts";
import { answer, partOptions } from "./parts.ts";

const ignore = (): void => undefined;

/** The least that a reverse proxy does, and nothing else: no check, no ledger, no limits. */
export const run = (): void => {
  const { upstream_url } = partOptions<{ readonly upstream_url: string }>();
  const pool = new Pool(upstream_url, { connections: 256, pipelining: 1 });
  const server = createServer({ keepAliveTimeout: 65_000 }, (request, response) => {
    forward(pool, request, response, passable(request.rawHeaders, HOP_BY_HOP), ignore);
  });
  server.listen(0, "127.0.0.1", () => answer({ port: (server.address() as AddressInfo).port }));
};
