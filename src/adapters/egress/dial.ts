import { isIP } from "node:net";
import { buildConnector } from "undici";
import type { EgressTarget } from "../../ports/egress.ts";

export type DialOptions = {
  /** For all addresses together, TLS included. */
  readonly connect_timeout_ms: number;
  /** Trusted in place of the system's, in PEM. */
  readonly ca: string | undefined;
  /** Whether a connection is still of any use. */
  readonly wanted: () => boolean;
};

/** Addresses that one connection tries. */
const MAX_TRIES = 6;
const MIN_TRY_MS = 100;

/** undici's own word for it: who waits for the connection is told by it. */
class ConnectTimeout extends Error {
  readonly code = "UND_ERR_CONNECT_TIMEOUT";
}

/**
 * Makes connections to a target: to one of the addresses that were checked, and no other, under the target's own name for
 * TLS. Where an address fails, nothing of the call was sent, and the next one is tried; each has an even part of the time
 * that is left, so that one which leads nowhere leaves some for the others. The address that answered last comes first.
 */
export const createDial = (target: EgressTarget, options: DialOptions): buildConnector.connector => {
  const { addresses } = target;
  const servername = isIP(target.hostname) === 0 ? target.hostname : undefined;
  const connect = buildConnector({
    timeout: 0, // ours, below: undici's is a second coarse
    rejectUnauthorized: true,
    minVersion: "TLSv1.2",
    ...(options.ca === undefined ? {} : { ca: options.ca }),
  });
  let first = 0;

  return (to, done) => {
    const until_ms = performance.now() + options.connect_timeout_ms;
    const from = first;
    const tries = Math.min(addresses.length, MAX_TRIES);
    const attempt = (nth: number): void => {
      const at = (from + nth) % addresses.length;
      const left_ms = until_ms - performance.now();
      const address = addresses[at] as string;
      const named = { ...to, hostname: address, ...(servername === undefined ? {} : { servername }) };
      // It gives the socket back, whatever its type says: the one thing to end an attempt by.
      const socket = connect(named, (error, made) => {
        clearTimeout(timer);
        if (error === null) {
          first = at;
          done(null, made);
        } else if (options.wanted() && nth + 1 < tries && until_ms - performance.now() > MIN_TRY_MS) attempt(nth + 1);
        else done(error, null);
      }) as unknown as { destroy(error: Error): void };
      const timer = setTimeout(
        () => socket.destroy(new ConnectTimeout(`no connection to ${address} in time`)),
        Math.max(left_ms / (tries - nth), MIN_TRY_MS),
      );
    };
    attempt(0);
  };
};
