import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { createConnection, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** What a unix socket's address holds at most on the systems that we run on (104 on some, 108 on Linux), with the zero. */
const MAX_SOCKET_PATH = 100;

const addressOf = (path: string): string =>
  Buffer.byteLength(path) <= MAX_SOCKET_PATH
    ? path
    : join(tmpdir(), `caracal-${createHash("sha256").update(path).digest("hex").slice(0, 24)}.lock`);

const listen = (address: string): Promise<Server> =>
  new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", reject);
    server.listen(address, () => resolve(server));
  });

const answers = (address: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = createConnection(address);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });

/**
 * A listening socket as a lock: it ends with its process, however that ended, so a dead owner's is seen to be dead; a
 * file with a process id could name another process by now. Resolves to undefined where another process holds it.
 */
export const lock = async (path: string): Promise<(() => Promise<void>) | undefined> => {
  const address = addressOf(path);
  for (let attempt = 0; attempt < 2; attempt += 1) {
    try {
      const server = await listen(address);
      server.unref();
      return () => new Promise((resolve) => server.close(() => resolve()));
    } catch (error) {
      if (!(error instanceof Error) || !("code" in error) || error.code !== "EADDRINUSE") throw error;
      if (await answers(address)) return undefined;
      await rm(address, { force: true });
    }
  }
  return undefined;
};
