import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { Readable } from "node:stream";
import type { Revocations } from "../domain/revocation.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import type { UpstreamEvents, UpstreamFailure, Upstreams } from "../ports/egress.ts";
import { refuse } from "./answers.ts";
import { REVOCATION_MAX_AGE_MS, revokedBy } from "./authority.ts";
import { createRunningCalls, type RunningCall } from "./calls.ts";
import type { Counters } from "./counters.ts";
import type { Decision } from "./decide.ts";
import type { Cut, Ledger } from "./ledger.ts";
import { type AnswerPlace, answerHeaders, outgoingBody, passableTrailers, requestHeaders } from "./outbound.ts";
import { upstreamPath } from "./path.ts";
import { problems, type Reason } from "./problems.ts";

export type ForwardDeps = {
  readonly upstreams: Upstreams;
  readonly revocations: Revocations;
  readonly ledger: Ledger;
  readonly counters: Counters;
  readonly clock: Clock;
  readonly log: Log;
  readonly max_request_bytes: number;
  /** To the upstream's headers, or without progress of the request's body. */
  readonly upstream_timeout_ms: number;
  /** Without a byte of the answer. */
  readonly stream_idle_timeout_ms: number;
  readonly stream_max_ms: number;
};

/** Takes decided calls to their upstreams and the answers back. */
export type Forwarder = {
  /** `began_ms`: when the request came, monotonic. */
  pass(request: IncomingMessage, response: ServerResponse, decision: Decision, began_ms: number): void;
  /** Ends the answers that would not end by themselves; those that will go on. */
  drain(): void;
  readonly running: number;
};

/** The answer is checked against the revocation state at least this often, in bytes. */
const CHECK_BYTES = 4 * 1024;
/** How often answers that wait for a fresh revocation state look whether it is. */
const HELD_CHECK_MS = 100;
/** How long a client may take to read the trailer that says why its answer ends. */
const TRAILER_MS = 2_000;
const REVOKED_TRAILER = "X-Caracal-Revoked";

const FAILURES: Readonly<Record<Exclude<UpstreamFailure, "aborted">, Reason>> = {
  timeout: "upstream_timeout",
  busy: "upstream_busy",
  failed: "upstream_failed",
};

/**
 * Long waits in whole seconds, never longer than what is left: Node keeps a list per length of time, and each call would
 * have one of its own. What is left then is waited for to the millisecond.
 */
const timerFor = (left_ms: number): number =>
  left_ms > 2_000 ? Math.floor(left_ms / 1_000) * 1_000 : Math.ceil(left_ms);

/** Answers that have no body whatever their headers say (RFC 9110, 6.4.1). */
const bodiless = (method: string, status: number): boolean => method === "HEAD" || status === 204 || status === 304;

/**
 * Breaks the connection off in a way that can't be taken for an end. An answer with a length or chunks shows that it was
 * cut; one that ends with the connection does so only if that is reset.
 */
const breakOff = (request: IncomingMessage, response: ServerResponse, self_delimited: boolean): void => {
  const socket: Socket = request.socket;
  if (self_delimited || "encrypted" in socket) socket.destroy(); // TLS shows it itself: there is no close_notify
  else socket.resetAndDestroy();
  response.destroy();
};

export const createForwarder = (deps: ForwardDeps): Forwarder => {
  const { upstreams, revocations, ledger, counters, clock, log } = deps;
  const running = createRunningCalls(revocations);
  const streams = new Set<() => void>();
  const stale = (): boolean => revocations.age_ms() > REVOCATION_MAX_AGE_MS;

  /** Answers that wait until the revocation state is fresh again: a byte that may be of a revoked session is not sent. */
  const held = new Set<() => void>();
  let held_timer: NodeJS.Timeout | undefined;
  const lookAtHeld = (): void => {
    if (!stale()) for (const release of [...held]) release();
    held_timer = held.size === 0 ? undefined : setTimeout(lookAtHeld, HELD_CHECK_MS);
  };

  const pass = (request: IncomingMessage, response: ServerResponse, decision: Decision, began_ms: number): void => {
    const { inbound, claims, binding, route, upstream, mandate, auth_exp, decision_id } = decision;
    const asked = upstreamPath(upstream, route.path, route.query);
    const place: AnswerPlace = { upstream, asked, prefix: route.prefix };
    const started_ms = clock.monotonic_ms();

    let over = false; // the outcome is in the ledger: nothing more happens for this call
    let received = false; // the upstream's answer is here as a whole
    let status = 0;
    let bytes = 0;
    let unchecked = 0;
    let last_ms = started_ms;
    let self_delimited = true;
    let may_trail = false;
    let flushed = false;
    let waiting: (() => void)[] = [];
    let upload: Readable | undefined;
    let timer: NodeJS.Timeout | undefined;
    let abort = (): void => undefined;
    let resume = (): void => undefined;

    const finish = (cut: Cut, answered: number): void => {
      over = true;
      clearTimeout(timer);
      running.remove(call);
      streams.delete(drained);
      held.delete(release);
      upload?.destroy(); // a body that is still coming in has nowhere to go
      const duration_ms = Math.round(clock.monotonic_ms() - began_ms);
      ledger.outcome(inbound, claims, binding, { decision_id, status: answered, bytes, duration_ms, cut });
    };

    /** Ends the call for a reason of ours: with an answer where none has begun, else so that it can't look complete. */
    const cutOff = (cut: Exclude<Cut, false>, reason: Reason): void => {
      if (over) return;
      const begun = response.headersSent;
      finish(cut, begun ? status : problems[reason].status);
      abort();
      if (!begun) {
        for (const name of problems[reason].counters) counters[name].inc();
        refuse(request, response, reason, inbound.request_id);
      } else if (cut === "revoked" && may_trail) {
        response.addTrailers({ [REVOKED_TRAILER]: "true" });
        response.end();
        const late = setTimeout(() => request.socket.destroy(), TRAILER_MS); // one that does not read is cut all the same
        response.once("close", () => clearTimeout(late));
      } else {
        breakOff(request, response, self_delimited);
      }
    };

    const call: RunningCall = { claims, revoked: () => cutOff("revoked", "revoked_on_the_way") };
    const drained = (): void => cutOff("drain", "draining");

    /** Whichever limit comes first; each is looked at again when its time has come. */
    const watch = (): void => {
      const now_ms = clock.monotonic_ms();
      const quiet_ms = status === 0 ? deps.upstream_timeout_ms : deps.stream_idle_timeout_ms;
      const idle_left_ms = last_ms + quiet_ms - now_ms;
      const max_left_ms = started_ms + deps.stream_max_ms - now_ms;
      const authority_left_ms = auth_exp === undefined ? Infinity : auth_exp * 1000 - clock.now_ms();
      if (authority_left_ms <= 0) cutOff("expired", "expired_on_the_way");
      else if (max_left_ms <= 0) cutOff("max", "upstream_timeout");
      else if (idle_left_ms <= 0) cutOff(status === 0 ? "upstream" : "idle", "upstream_timeout");
      else timer = setTimeout(watch, timerFor(Math.min(idle_left_ms, max_left_ms, authority_left_ms)));
    };

    const release = (): void => {
      held.delete(release);
      if (revokedBy(revocations, claims) !== undefined) {
        cutOff("revoked", "revoked_on_the_way");
        return;
      }
      const steps = waiting;
      waiting = [];
      for (const step of steps) step();
    };
    /** Runs `step` now, or, where the revocation state is stale, once it is fresh and this call's authority still holds. */
    const onceFresh = (step: () => void): boolean => {
      if (waiting.length === 0 && !stale()) {
        step();
        return true;
      }
      waiting.push(step); // bounded: the upstream is paused at the first chunk that waits
      held.add(release);
      held_timer ??= setTimeout(lookAtHeld, HELD_CHECK_MS);
      return false;
    };

    const begin = (code: number, raw: readonly string[]): void => {
      if (over) return;
      const answer = answerHeaders(raw, place);
      if (answer.coded) {
        cutOff("upstream", "upstream_failed");
        return;
      }
      const { headers } = answer;
      const empty = bodiless(inbound.method, code);
      const chunked = !answer.has_length && !empty && request.httpVersion === "1.1";
      self_delimited = answer.has_length || chunked || empty;
      may_trail = chunked && inbound.takes_trailers;
      headers.push("X-Request-Id", inbound.request_id);
      if (may_trail) headers.push("Trailer", REVOKED_TRAILER);
      if (!request.complete) headers.push("Connection", "close"); // what is left of the request's body is not read
      status = code;
      try {
        response.writeHead(code, headers);
      } catch (error) {
        status = 0;
        log.warn({ err: error, request_id: inbound.request_id }, "an upstream's headers can't be passed on");
        cutOff("upstream", "upstream_failed");
        return;
      }
      if (answer.endless) streams.add(drained);
      process.nextTick(flush); // where the first bytes came along, headers and bytes leave together
    };
    const flush = (): void => {
      if (over || received) return;
      if (!flushed) response.flushHeaders();
      clearTimeout(timer);
      watch();
    };

    const write = (chunk: Buffer): boolean => {
      if (over) return false;
      unchecked += chunk.byteLength;
      if (unchecked >= CHECK_BYTES) {
        unchecked = 0;
        if (revokedBy(revocations, claims) !== undefined) {
          cutOff("revoked", "revoked_on_the_way");
          return false;
        }
      }
      bytes += chunk.byteLength;
      flushed = true;
      if (response.write(chunk)) return true;
      response.once("drain", resume);
      return false;
    };

    const events: UpstreamEvents = {
      onInformation(code, raw) {
        if (over || response.headersSent || request.httpVersion !== "1.1") return;
        if (code === 102) response.writeProcessing();
        const links = raw.filter((_, at) => at % 2 === 1 && raw[at - 1]?.toLowerCase() === "link");
        if (code !== 103 || links.length === 0) return;
        try {
          response.writeEarlyHints({ link: links });
        } catch {
          // Node takes fewer forms of Link than RFC 8288 has. A hint that is lost costs nothing; a call that is broken off
          // after the upstream acted costs the caller's trust.
        }
      },
      onHeaders(code, raw, go_on) {
        resume = go_on;
        last_ms = clock.monotonic_ms();
        if (!over) onceFresh(() => begin(code, raw));
      },
      onData(chunk) {
        if (over) return false;
        last_ms = clock.monotonic_ms();
        let more = false;
        const now = onceFresh(() => {
          more = write(chunk);
          if (more) resume(); // it was held: go on; where nothing was, this does nothing
        });
        return now && more;
      },
      onEnd(trailers) {
        if (over) return;
        onceFresh(() => {
          if (over) return;
          received = true;
          const passed = may_trail ? passableTrailers(trailers) : [];
          if (passed.length > 0) response.addTrailers(passed);
          response.end();
        });
      },
      onError(failure, detail) {
        if (over || failure === "aborted") return;
        log.warn(
          { request_id: inbound.request_id, resource_id: binding.resource_id, failure, detail },
          "an upstream call failed",
        );
        cutOff("upstream", FAILURES[failure]);
      },
    };

    response.on("error", () => undefined); // a write behind a close: `close` says all that matters
    response.on("close", () => {
      if (over) return;
      const whole = received && response.writableFinished;
      finish(whole ? false : "client", status === 0 ? problems.client_gone.status : status);
      if (!whole) abort();
    });
    running.add(call);
    if (inbound.expects_continue && (inbound.chunked || (inbound.content_length ?? 0) > 0)) response.writeContinue();
    const { body, length } = outgoingBody(request, inbound, {
      max_bytes: deps.max_request_bytes,
      onBytes: () => {
        last_ms = clock.monotonic_ms();
      },
      onTooLarge: () => cutOff("too_large", "body_too_large"),
    });
    if (body instanceof Readable) upload = body;
    watch();
    if (over) return;
    abort = upstreams.call(
      decision.target,
      { method: inbound.method, path: asked, headers: requestHeaders(request, inbound, mandate, length), body },
      events,
    );
    if (over) abort(); // it ended before `call` returned
  };

  return {
    pass,
    drain() {
      for (const end of [...streams]) end();
    },
    get running() {
      return running.size;
    },
  };
};
