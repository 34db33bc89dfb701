import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A host that a zone names for its keys, and what it does when it is asked. */
export type KeysHost = {
  readonly url: string;
  /** Answers each path by this. */
  answer: (request: IncomingMessage, response: ServerResponse) => void;
  /** Paths that were asked for. */
  readonly asked: string[];
  close(): Promise<void>;
};

export const json =
  (body: unknown, status = 200) =>
  (_request: IncomingMessage, response: ServerResponse) =>
    void response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));

export const startKeysHost = async (): Promise<KeysHost> => {
  const server = createServer((request, response) => {
    host.asked.push(request.url ?? "");
    host.answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const host: KeysHost = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    answer: json({ keys: [] }),
    asked: [],
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
  return host;
};
