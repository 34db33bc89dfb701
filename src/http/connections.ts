import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Connection, Crowd, CrowdLimits } from "./crowd.ts";

/** Bounds on what one client may hold open. A slow client is closed, not waited for. */
export type Limits = CrowdLimits & {
  /** From a connection's beginning to the end of its TLS handshake. */
  readonly handshake_ms: number;
  /** From a connection's beginning, or the end of the request before, to the end of the headers. */
  readonly headers_ms: number;
  /** The whole request, its body included; long answers are not bounded by it. */
  readonly request_ms: number;
  /** Between two requests. */
  readonly keep_alive_ms: number;
  /** How often `headers_ms` and `request_ms` are looked at. */
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
  connections: 10_000,
  connections_of_one: 7_500,
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

export const createAdmission = (limits: Limits, crowd: Crowd): Admission => {
  const states = new WeakMap<Socket, Connection>();
  /** One for all responses: a closure for each would hold all that its call held. */
  function onClose(this: ServerResponse): void {
    const request = this.req;
    const { socket } = request;
    const state = states.get(socket);
    if (state === undefined) return;
    state.unanswered -= 1;
    if (state.unanswered === 0) crowd.quiet(state);
    if (!request.complete) closeLater(socket, limits.unread_ms, () => request.complete);
    else if (state.last === this) state.last = undefined; // an idle connection holds nothing of its last call
  }
  return {
    admits(request, response) {
      const { socket } = request;
      if (socket.destroyed) return false; // broken off below; what was read with the last request still comes
      let state = states.get(socket);
      if (state === undefined) {
        state = crowd.spoke(socket);
        if (state === undefined) return false; // closed for another's sake
        states.set(socket, state);
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
