import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

/** Bounds on what one client may hold open. A slow client is closed, not waited for. */
export type Limits = {
  /** From a connection's beginning to the end of its TLS handshake. */
  readonly handshake_ms: number;
  /** Connections without a request yet; `newcomers_of_one`: of one address. */
  readonly newcomers: number;
  readonly newcomers_of_one: number;
  /** From a connection's beginning, or the end of the request before, to the end of the headers. */
  readonly headers_ms: number;
  /** The whole request, its body included; long answers are not bounded by it. */
  readonly request_ms: number;
  /** Between two requests. */
  readonly keep_alive_ms: number;
  /** How often the first two are looked at. */
  readonly check_ms: number;
  /** No byte in either direction while an answer is due or on its way: a client that does not read it. */
  readonly silent_ms: number;
  /** What is left of a body behind its answer, and what a client still sends behind a refusal. */
  readonly unread_ms: number;
  /** How long a drain goes on answering, each time with `Connection: close`, before connections are closed as idle. */
  readonly last_words_ms: number;
  /** Requests of one connection that wait for their answers. */
  readonly unanswered: number;
};

export const LIMITS: Limits = {
  handshake_ms: 10_000,
  newcomers: 2_048,
  newcomers_of_one: 512,
  headers_ms: 10_000,
  request_ms: 300_000,
  keep_alive_ms: 65_000,
  check_ms: 5_000,
  silent_ms: 60_000,
  unread_ms: 1_000,
  last_words_ms: 300,
  unanswered: 32,
};

/** Ends a connection for a client that does not: half of it closed, it would stay for as long as the client likes. */
export const closeLater = (socket: Duplex, wait_ms: number, unless: () => boolean = () => false): void => {
  if (socket.destroyed) return;
  const timer = setTimeout(() => {
    if (!unless()) socket.destroy();
  }, wait_ms);
  timer.unref();
};

/** Connections that have not sent a whole request yet. */
export type Newcomers = {
  came(socket: Socket): void;
  /** Its first request is here. `socket`: the connection's own, or TLS's over it. */
  spoke(socket: Socket): void;
};

/**
 * Whoever opens connections and says nothing (or a handshake or a header a byte at a time) is to take nobody else's: where
 * there are too many newcomers, of one address or in all, the oldest of them is closed. An honest client's first request
 * comes a moment after its connection, so the oldest is never its. To refuse the newest would be the attacker's wish.
 */
export const createNewcomers = (limits: Limits): Newcomers => {
  const all = new Map<string, Socket>();
  const by_address = new Map<string, Map<string, Socket>>();
  /** TLS's socket and the connection below it are two objects with the same other end. */
  const nameOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`;

  const forget = (name: string, address: string): void => {
    all.delete(name);
    const of_one = by_address.get(address);
    of_one?.delete(name);
    if (of_one?.size === 0) by_address.delete(address);
  };
  const closeOldest = (of: ReadonlyMap<string, Socket>): void => {
    for (const [name, socket] of of) {
      socket.destroy();
      forget(name, name.slice(0, name.lastIndexOf(" ")));
      return;
    }
  };

  return {
    came(socket) {
      const { remoteAddress: address } = socket;
      if (address === undefined) return; // gone already
      const name = nameOf(socket);
      const of_one = by_address.get(address) ?? new Map<string, Socket>();
      if (of_one.size >= limits.newcomers_of_one) closeOldest(of_one);
      else if (all.size >= limits.newcomers) closeOldest(all);
      by_address.set(address, of_one);
      of_one.set(name, socket);
      all.set(name, socket);
      socket.once("close", () => {
        if (all.get(name) === socket) forget(name, address);
      });
    },
    spoke(socket) {
      const { remoteAddress: address } = socket;
      if (address !== undefined) forget(nameOf(socket), address);
    },
  };
};

/** What a connection is in the middle of, when what comes next on it can't be read. */
export type Standing =
  /** Nothing, or a request that waits for its body and has no answer yet: an answer belongs to what can't be read. */
  | "open"
  /** The answer was given, and only the rest of its request was bad. */
  | "answered"
  /** Answers are due or on their way: one of ours would be taken for another's, or for a part of it. */
  | "busy";

export type Admission = {
  /**
   * Whether a request is to be served. Node's parser hands over every request of what it has read at once (1 500 in one
   * piece of 64 KiB) and holds all their answers until the first is read: a client that pipelines and does not read
   * would turn each piece into a hundred megabytes. Beyond the limit the connection is broken off (RFC 9112, 9.3.2: a
   * client must be ready for that). Also ends a connection whose request was answered before its body came, when it does
   * not come.
   */
  admits(request: IncomingMessage, response: ServerResponse): boolean;
  standing(socket: Socket): Standing;
};

/** `last`: the request that was read last, as long as it or its answer is not over. */
type State = { unanswered: number; last: ServerResponse | undefined };

export const createAdmission = (limits: Limits, newcomers: Newcomers): Admission => {
  const states = new WeakMap<Socket, State>();
  /** One for all responses: a closure for each would hold all that its call held. */
  function onClose(this: ServerResponse): void {
    const request = this.req;
    const { socket } = request;
    const state = states.get(socket);
    if (state === undefined) return;
    state.unanswered -= 1;
    if (!request.complete) closeLater(socket, limits.unread_ms, () => request.complete);
    else if (state.last === this) state.last = undefined; // an idle connection holds nothing of its last call
  }
  return {
    admits(request, response) {
      const { socket } = request;
      if (socket.destroyed) return false; // broken off below; what was read with the last request still comes
      let state = states.get(socket);
      if (state === undefined) {
        state = { unanswered: 0, last: undefined };
        states.set(socket, state);
        newcomers.spoke(socket);
      }
      if (state.unanswered === limits.unanswered) {
        socket.destroy();
        return false;
      }
      state.unanswered += 1;
      state.last = response;
      response.on("close", onClose);
      return true;
    },
    standing(socket) {
      const state = states.get(socket);
      if (state?.last === undefined) return "open";
      const { last: response } = state;
      const request = response.req;
      if (state.unanswered === 0) return request.complete ? "open" : "answered";
      if (state.unanswered > 1 || request.complete) return "busy";
      if (!response.headersSent) return "open";
      return response.writableFinished ? "answered" : "busy";
    },
  };
};
