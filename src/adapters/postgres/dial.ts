import { connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { connect as secure, type TLSSocket } from "node:tls";
import { DatabaseUnreachable } from "../../ports/database.ts";
import type { Address } from "./address.ts";
import { STARTUP } from "./messages.ts";

/** So that a peer that vanished under an idle connection is noticed by the kernel. */
const KEEP_ALIVE_MS = 15_000;
const YES = 0x53; // "S"

const settled = (socket: Socket | TLSSocket, event: string): Promise<void> =>
  new Promise((resolve, reject) => {
    socket.once(event, resolve);
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("it was closed")));
  });

/** Asks for TLS. One byte comes back; anything behind it was put there by somebody else (CVE-2021-23222). */
const askForTls = async (socket: Socket): Promise<void> => {
  const request = Buffer.alloc(8);
  request.writeInt32BE(8, 0);
  request.writeInt32BE(STARTUP.tls, 4);
  const answer = new Promise<Buffer>((resolve, reject) => {
    socket.once("data", resolve);
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("it was closed")));
  });
  socket.write(request);
  const bytes = await answer;
  if (bytes.length !== 1 || bytes[0] !== YES)
    throw new Error("the server does not speak TLS, which the URL's sslmode asks for");
};

const forget = (socket: Socket): void => {
  socket.removeAllListeners("error");
  socket.removeAllListeners("close");
  socket.on("error", () => {});
};

/** Where an address leads, for a person: never a user or a password. */
export const placeOf = (address: Address): string => address.socket_path ?? `${address.host}:${address.port}`;

/** A connection to `address`, with TLS where it asks for it. Gives up after `timeout_ms`. */
export const dial = async (address: Address, timeout_ms: number): Promise<Duplex> => {
  const path = address.socket_path;
  const socket = path === undefined ? connect({ host: address.host, port: address.port }) : connect({ path });
  const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${timeout_ms} ms`)), timeout_ms);
  try {
    await settled(socket, "connect");
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    if (address.tls === undefined) {
      forget(socket);
      return socket;
    }
    await askForTls(socket);
    forget(socket);
    // `host` is the name that the certificate is verified against.
    const tls = secure({ ...address.tls, socket, host: address.host });
    await settled(tls, "secureConnect");
    forget(tls);
    return tls;
  } catch (error) {
    socket.destroy();
    const why =
      error instanceof Error ? error.message || String(("code" in error && error.code) || error.name) : String(error);
    throw new DatabaseUnreachable(`the database at ${placeOf(address)} can't be reached: ${why}`, error);
  } finally {
    clearTimeout(timer);
  }
};
