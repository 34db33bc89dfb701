import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { countable } from "./address.ts";

/** How many connections a port has; `…_of_one`: of one address. `newcomers`: without a request yet. */
export type CrowdLimits = {
  readonly connections: number;
  readonly connections_of_one: number;
  readonly newcomers: number;
  readonly newcomers_of_one: number;
};

/** A connection to the port, from its beginning to its end. */
export type Connection = {
  /** TCP's own, also where TLS is spoken over it. */
  readonly socket: Socket;
  readonly name: string;
  readonly holder: Holder;
  /** Its place in the order in which connections began to wait for their clients. */
  since: number;
  /** Requests that wait for their answers. */
  unanswered: number;
  /** To the request that was read last, as long as that or its answer is not over. */
  last: ServerResponse | undefined;
};

/** Whoever is at one address. `newcomers`: of its connections, those without a whole request yet. Both oldest first. */
type Holder = { readonly address: string; readonly held: Set<Connection>; readonly newcomers: Set<Connection> };

/** All connections to a port, by who holds them. */
export type Crowd = {
  /** A new one: kept or closed, and others may be closed for it. */
  came(socket: Socket): void;
  /** Its first request is here. `socket`: the connection's own, or TLS's over it. Undefined where it was closed meanwhile. */
  spoke(socket: Socket): Connection | undefined;
  /** All its answers are given: it waits for its client again. */
  quiet(connection: Connection): void;
};

/** Of those that wait this part is closed at once: whoever holds thousands must not cost a look at all of them for each new one. */
const CLOSED_PART = 64;

/** Nothing is due to the client: it has asked nothing, or not to its end. */
const waits = ({ unanswered, last }: Connection): boolean =>
  unanswered === 0 || (last !== undefined && !last.headersSent && !last.req.complete);

const oldestOf = (connections: ReadonlySet<Connection>): Connection | undefined => {
  for (const connection of connections) return connection;
  return undefined;
};

/** TLS's socket and the connection below it are two objects with the same other end. */
const nameOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`;

/**
 * Whoever opens connections and keeps them open is to take nobody else's, whether it says nothing, asks once and stays, or
 * sends a body a byte at a time. Where there are too many (newcomers, or all; of one address, or of the port) those that
 * have waited longest for their client are closed: of the address that is over its share, or that has most of them.
 * An honest client's request comes a moment after its connection, so the longest wait is never its. To refuse the newest
 * would be the attacker's wish; that is done only where nothing waits.
 */
export const createCrowd = (limits: CrowdLimits): Crowd => {
  const all = new Map<string, Connection>();
  const holders = new Map<string, Holder>();
  const newcomers = new Set<Connection>();
  let turn = 0;

  const forget = (connection: Connection): void => {
    const { name, holder } = connection;
    if (all.get(name) === connection) all.delete(name);
    newcomers.delete(connection);
    holder.newcomers.delete(connection);
    holder.held.delete(connection);
    if (holder.held.size === 0 && holders.get(holder.address) === holder) holders.delete(holder.address);
  };
  const close = (connection: Connection | undefined): void => {
    if (connection === undefined) return;
    connection.socket.destroy();
    forget(connection);
  };
  const waitingOf = ({ held }: Holder): Connection[] => [...held].filter(waits);
  const most = (): Connection[] => {
    let found: Connection[] = [];
    for (const holder of holders.values()) {
      if (holder.held.size <= found.length) continue;
      const waiting = waitingOf(holder);
      if (waiting.length > found.length) found = waiting;
    }
    return found;
  };
  /** Whether there is room afterwards. */
  const makeRoom = (waiting: readonly Connection[]): boolean => {
    const at_once = Math.ceil(waiting.length / CLOSED_PART);
    for (const one of waiting.toSorted((a, b) => a.since - b.since).slice(0, at_once)) close(one);
    return waiting.length > 0;
  };
  const hasRoom = (holder: Holder): boolean => {
    if (holder.held.size >= limits.connections_of_one) return makeRoom(waitingOf(holder));
    return all.size < limits.connections || makeRoom(most());
  };

  return {
    came(socket) {
      const { remoteAddress } = socket;
      if (remoteAddress === undefined) return; // gone already
      const address = countable(remoteAddress);
      const holder = holders.get(address) ?? { address, held: new Set(), newcomers: new Set() };
      if (holder.newcomers.size >= limits.newcomers_of_one) close(oldestOf(holder.newcomers));
      else if (newcomers.size >= limits.newcomers) close(oldestOf(newcomers));
      if (!hasRoom(holder)) {
        socket.destroy();
        return;
      }
      turn += 1;
      const name = nameOf(socket);
      const connection: Connection = { socket, name, holder, since: turn, unanswered: 0, last: undefined };
      holders.set(address, holder);
      all.set(name, connection);
      newcomers.add(connection);
      holder.newcomers.add(connection);
      holder.held.add(connection);
      socket.once("close", () => forget(connection));
    },
    spoke(socket) {
      const connection = all.get(nameOf(socket));
      if (connection === undefined) return undefined;
      newcomers.delete(connection);
      connection.holder.newcomers.delete(connection);
      return connection;
    },
    quiet(connection) {
      turn += 1;
      connection.since = turn;
    },
  };
};
