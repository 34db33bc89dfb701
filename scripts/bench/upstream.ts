import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { answer } from "./parts.ts";

const BODY = Buffer.from(
  JSON.stringify({ jsonrpc: "2.0", id: 1, result: { content: [{ type: "text", text: "pong" }] } }),
);
const TICK_MS = 20;

const stream = (response: ServerResponse): void => {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  response.write("data: 0\n\n");
  const ticking = setInterval(() => response.write("data: tick\n\n"), TICK_MS);
  response.on("close", () => clearInterval(ticking));
};

/** The upstream of every measurement: a small JSON answer at once, and at `/stream` events that never end. */
export const run = (): void => {
  const server = createServer({ keepAliveTimeout: 65_000 }, (request, response) => {
    if (request.url === "/stream") {
      stream(response);
      return;
    }
    response.writeHead(200, { "content-type": "application/json", "content-length": BODY.byteLength });
    response.end(BODY);
  });
  server.listen(0, "127.0.0.1", () => answer({ port: (server.address() as AddressInfo).port }));
};
