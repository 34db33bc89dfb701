import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { type AuthorityIds, type Revocations, revokedBy } from "../../domain/revocation.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { FailureLog } from "../../kernel/failure-log.ts";
import type { RunningUpstreamCall, UpstreamEvents, UpstreamFailure } from "../../ports/egress.ts";
import { refuse } from "../edge/answers.ts";
import { REVOCATION_MAX_AGE_MS } from "../authority.ts";
import { createRunningCalls, type RunningCall, type RunningCalls } from "./calls.ts";
import type { Counters } from "../counters.ts";
import type { Decision } from "../decide.ts";
import type { Watcher } from "../facts.ts";
import { Gather, GATHER_BYTES } from "./gather.ts";
import { createPaces, type Pace, type Paces, SMALL_BYTES } from "./pace.ts";
import type { Tap } from "./tap.ts";
import { createStaleAnswers, Hold, type StaleAnswers, type Waiting } from "./hold.ts";
import { outgoingBody, Upload, type UploadEvents } from "./upload.ts";
import type { Cut, Ledger } from "../ledger.ts";
import { createLimits, type Limited, type Limits } from "../limits.ts";
import { answerHeaders, passableTrailers, requestHeaders } from "../edge/outbound.ts";
import { upstreamPath } from "../edge/path.ts";
import { problems, type Reason } from "../problems.ts";

export type ForwardDeps = {
  readonly revocations: Revocations;
  readonly ledger: Ledger;
  readonly counters: Counters;
  readonly clock: Clock;
  readonly failures: FailureLog;
  readonly max_request_bytes: number;
  /** To the upstream's headers, or without progress of the request's body. */
  readonly upstream_timeout_ms: number;
  /** Without a byte of the answer. */
  readonly stream_idle_timeout_ms: number;
  readonly stream_max_ms: number;
};

/** Takes decided calls to their upstreams and the answers back. */
export type Forwarder = {
  /** `began_ms`: when the request came, monotonic. `tap`: of the request. */
  pass(request: IncomingMessage, response: ServerResponse, decision: Decision, began_ms: number, tap: Tap): void;
  /** Ends the answers that would not end by themselves; those that will go on. */
  drain(): void;
  readonly running: number;
};

/** The answer is checked against the revocation state at least this often, in bytes. */
const CHECK_BYTES = 4 * 1024;
/**
 * How long an answer whose headers wait for that may wait: its caller hears of the outage while it can still do something
 * about it. One that has begun waits for as long as it may be silent.
 */
const HELD_MAX_MS = 10_000;
/** How long a client may take to read the trailer that says why its answer ends. */
const TRAILER_MS = 2_000;
/** Interim answers (1xx) that one call may have, and what their headers may weigh together. */
const MAX_INTERIM = 4;
const MAX_INTERIM_BYTES = 16 * 1024;
/** As many as a request may have. Each costs a microsecond here, and an upstream can put 4 000 into 16 KiB. */
const MAX_HEADERS = 200;
const REVOKED_TRAILER = "X-Caracal-Revoked";

const FAILURES: Readonly<Record<Exclude<UpstreamFailure, "aborted">, Reason>> = {
  timeout: "upstream_timeout",
  failed: "upstream_failed",
};

const ignore = (): void => undefined;

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

/** What all calls share. */
type Flow = ForwardDeps & {
  readonly running: RunningCalls<ForwardedCall>;
  readonly limits: Limits;
  readonly paces: Paces;
  /** Answers that do not end by themselves. */
  readonly endless: Set<ForwardedCall>;
  /** Such an answer is not begun any more. */
  draining: boolean;
  /** Answers that wait until the revocation state is fresh again. */
  readonly stale: StaleAnswers;
};

/** After the tick in which something came: what has come by then leaves now, in one piece. */
const flush = (call: ForwardedCall): void => call.flush();

const weightOf = (raw: readonly string[]): number => raw.reduce((bytes, text) => bytes + text.length, 0);

/**
 * What of a call's answer is with the client's connection.
 *
 * | mode        | means                                       | goes on to                                              |
 * | ----------- | ------------------------------------------- | ------------------------------------------------------- |
 * | `asked`     | nothing: a refusal can be the answer still  | `answering` (`begin`), `over`                           |
 * | `answering` | its head                                    | `received` (`end`, or a head without a body), `over`    |
 * | `received`  | all of it; the client takes the rest        | `over`                                                  |
 * | `over`      | the outcome is in the ledger                | nothing: whatever still comes of the call does nothing  |
 *
 * `over` comes by `closed` (the client has all, or went away) or by `cutOff` (we end it). While something holds the answer
 * back (`hold.ts`), what comes waits in its mode: the head and the end by themselves, the bytes in `gathered`.
 */
type Mode = "asked" | "answering" | "received" | "over";

const NEXT: Readonly<Record<Mode, readonly Mode[]>> = {
  asked: ["answering", "over"],
  answering: ["received", "over"],
  received: ["over"],
  over: [],
};

/**
 * One call on its way to its upstream, and its answer on the way back. An object with methods, not a set of closures: it
 * is made for every call, and is itself all that node:http, undici, the index and the limits hold of it.
 */
class ForwardedCall implements RunningCall, Limited, Waiting, UpstreamEvents, UploadEvents, Watcher {
  readonly zone_id: string;
  readonly cut_by: AuthorityIds;
  places: RunningCall["places"] = undefined;
  private readonly flow: Flow;
  private readonly request: IncomingMessage;
  private readonly response: ServerResponse;
  private readonly decision: Decision;
  private readonly asked: string;
  private readonly began_ms: number;
  private readonly started_ms: number;
  private last_ms: number;
  private mode: Mode = "asked";
  /** A `flush` is due at the end of this tick. */
  private flushing = false;
  /** What came of the body in this tick, or while the client's connection is busy. */
  private readonly gathered = new Gather();
  private pace: Pace | undefined = undefined;
  private paced: NodeJS.Timeout | undefined = undefined;
  private readonly hold = new Hold();
  /** The head is with the client's connection. */
  private flushed = false;
  private interim = 0;
  private interim_bytes = 0;
  private self_delimited = true;
  private may_trail = false;
  private status = 0;
  private bytes = 0;
  private unchecked = 0;
  /** What waits for a fresh revocation state beside the bytes: the head before them, the end after. */
  private held_head: (() => void) | undefined = undefined;
  private held_end: (() => void) | undefined = undefined;
  private upload: Upload | undefined = undefined;
  private upstream_call: RunningUpstreamCall | undefined = undefined;

  constructor(flow: Flow, request: IncomingMessage, response: ServerResponse, decision: Decision, began_ms: number) {
    this.zone_id = decision.claims.zone_id;
    this.cut_by = decision.cut_by;
    this.flow = flow;
    this.request = request;
    this.response = response;
    this.decision = decision;
    this.asked = upstreamPath(decision.upstream, decision.route.path, decision.route.query);
    this.began_ms = began_ms;
    this.started_ms = flow.clock.monotonic_ms();
    this.last_ms = this.started_ms;
  }

  get max_bytes(): number {
    return this.flow.max_request_bytes;
  }

  start(tap: Tap): void {
    const { flow, request, response, decision } = this;
    const { inbound, client } = decision;
    response.on("error", ignore); // a write behind a close: `closed` says all that matters
    client.whenClosed(this);
    flow.running.add(this);
    if (client.gone()) {
      this.closed(); // while the mandate was marked or written down: nothing goes out any more
      return;
    }
    if (inbound.expects_continue && (inbound.chunked || (inbound.content_length ?? 0) > 0)) response.writeContinue();
    const { body, length } = outgoingBody(request, inbound, this, tap, () => this.paceOf());
    if (body instanceof Upload) this.upload = body;
    flow.limits.watch(this);
    if (this.over) return;
    const headers = requestHeaders(request, inbound, decision, length);
    this.upstream_call = decision.place.call({ method: inbound.method, path: this.asked, headers, body }, this);
    if (this.over) this.upstream_call.abort(); // it ended before `call` returned
  }

  private get over(): boolean {
    return this.mode === "over";
  }

  private to(next: Mode): void {
    if (!NEXT[this.mode].includes(next)) throw new Error(`a call that is ${this.mode} can't be ${next}`);
    this.mode = next;
  }

  private finish(cut: Cut, answered: number): void {
    const { flow, decision } = this;
    this.to("over");
    this.gathered.take();
    clearTimeout(this.paced);
    flow.running.remove(this);
    flow.endless.delete(this);
    if (this.hold.is("stale")) flow.stale.remove(this);
    this.upload?.destroy(); // a body that is still coming in has nowhere to go
    flow.ledger.outcome(decision.inbound, decision.claims, decision.binding, {
      decision_id: decision.decision_id,
      status: answered,
      bytes: this.bytes,
      duration_ms: Math.round(flow.clock.monotonic_ms() - this.began_ms),
      cut,
    });
  }

  /** Ends the call for a reason of ours: with an answer where none has begun, else so that it can't look complete. */
  private cutOff(cut: Exclude<Cut, false>, reason: Reason): void {
    if (this.over) return;
    const { request, response } = this;
    const begun = response.headersSent;
    this.finish(cut, begun ? this.status : problems[reason].status);
    this.upstream_call?.abort();
    if (!begun) {
      for (const name of problems[reason].counters) this.flow.counters[name].inc();
      refuse(request, response, reason, this.decision.inbound.request_id);
    } else if (cut === "revoked" && this.may_trail) {
      response.addTrailers({ [REVOKED_TRAILER]: "true" });
      response.end();
      const late = setTimeout(() => request.socket.destroy(), TRAILER_MS); // one that does not read is cut all the same
      response.once("close", () => clearTimeout(late));
    } else {
      breakOff(request, response, this.self_delimited);
    }
  }

  revoked(): void {
    this.cutOff("revoked", "revoked_on_the_way");
  }

  drained(): void {
    this.cutOff("drain", "draining");
  }

  /** The response is closed: by the client, by us, or because all of it was sent. */
  closed(): void {
    if (this.over) return;
    const whole = this.mode === "received" && this.response.writableFinished;
    this.finish(whole ? false : "client", this.status === 0 ? problems.client_gone.status : this.status);
    if (!whole) this.upstream_call?.abort();
  }

  /** Whichever limit comes first. */
  left_ms(): number {
    if (this.over) return Infinity;
    const { clock, upstream_timeout_ms, stream_idle_timeout_ms, stream_max_ms } = this.flow;
    const { auth_exp } = this.decision;
    const now_ms = clock.monotonic_ms();
    const answered = this.mode !== "asked";
    const held = !answered && this.hold.is("stale");
    const quiet_ms = answered ? stream_idle_timeout_ms : Math.min(upstream_timeout_ms, held ? HELD_MAX_MS : Infinity);
    const idle_left_ms = this.last_ms + quiet_ms - now_ms;
    const max_left_ms = this.started_ms + stream_max_ms - now_ms;
    const authority_left_ms = auth_exp === undefined ? Infinity : auth_exp * 1000 - clock.now_ms();
    if (authority_left_ms <= 0) this.cutOff("expired", "expired_on_the_way");
    else if (max_left_ms <= 0) this.cutOff("max", "upstream_timeout");
    else if (idle_left_ms <= 0 && held) this.cutOff("stale", "revocation_stale");
    else if (idle_left_ms <= 0) this.cutOff(answered ? "idle" : "upstream", "upstream_timeout");
    else return Math.min(idle_left_ms, max_left_ms, authority_left_ms);
    return Infinity;
  }

  onBytes(): void {
    this.last_ms = this.flow.clock.monotonic_ms();
  }

  onTooLarge(): void {
    this.cutOff("too_large", "body_too_large");
  }

  /** Whether what comes of the answer must wait: the revocation state is stale, or something waits already. */
  private mustWait(): boolean {
    return this.hold.is("stale") || this.flow.revocations.age_ms() > REVOCATION_MAX_AGE_MS;
  }

  private wait(): void {
    if (this.hold.is("stale")) return;
    this.hold.put("stale");
    this.flow.stale.add(this);
    this.flow.limits.watch(this);
  }

  /** The state is fresh again: what waits goes on, where this call's authority still holds. */
  release(): void {
    const { held_head, held_end } = this;
    this.flow.stale.remove(this);
    this.hold.lift("stale");
    this.held_head = undefined;
    this.held_end = undefined;
    if (revokedBy(this.flow.revocations, this.zone_id, this.cut_by) !== undefined) {
      this.revoked();
      return;
    }
    held_head?.();
    if (held_end !== undefined) held_end();
    else if (this.mode === "answering" && !this.hold.is("client")) this.sendGathered();
    this.hold.resume();
  }

  onInformation(code: number, raw: readonly string[]): void {
    const { request, response } = this;
    if (this.over) return;
    // Counted whether they are passed on or not: node:http writes them without back-pressure, so their number is the bound.
    this.interim += 1;
    this.interim_bytes += weightOf(raw);
    if (this.interim > MAX_INTERIM || this.interim_bytes > MAX_INTERIM_BYTES) {
      this.cutOff("upstream", "upstream_interim_excess");
      return;
    }
    if (response.headersSent || request.httpVersion !== "1.1" || this.mustWait()) return;
    if (code === 102) response.writeProcessing();
    const links = raw.filter((_, at) => at % 2 === 1 && raw[at - 1]?.toLowerCase() === "link");
    if (code !== 103 || links.length === 0) return;
    try {
      response.writeEarlyHints({ link: links });
    } catch {
      // Node takes fewer forms of Link than RFC 8288 has. A hint that is lost costs nothing; a call that is broken off
      // after the upstream acted costs the caller's trust.
    }
  }

  onHeaders(code: number, raw: readonly string[], goOn: () => void): void {
    this.hold.from(goOn);
    this.last_ms = this.flow.clock.monotonic_ms();
    if (this.over) return;
    if (raw.length > 2 * MAX_HEADERS) {
      this.cutOff("upstream", "upstream_headers_excess");
      return;
    }
    if (code === 401) {
      // The credential was the Gateway's: to the caller this would say that its own token is none, and where to log in.
      this.cutOff("upstream", "upstream_unauthorized");
      return;
    }
    if (!this.mustWait()) {
      this.begin(code, raw);
      return;
    }
    this.held_head = () => this.begin(code, raw);
    this.wait();
  }

  private begin(code: number, raw: readonly string[]): void {
    if (this.over) return;
    const { request, response } = this;
    const { inbound, upstream, route } = this.decision;
    const answer = answerHeaders(raw, code, upstream, this.asked, route.prefix);
    if (answer.coded) {
      this.cutOff("upstream", "upstream_failed");
      return;
    }
    if (answer.endless && this.flow.draining) {
      this.drained();
      return;
    }
    const { headers } = answer;
    const empty = bodiless(inbound.method, code);
    const chunked = !answer.has_length && !empty && request.httpVersion === "1.1";
    this.self_delimited = answer.has_length || chunked || empty;
    this.may_trail = chunked && inbound.takes_trailers;
    headers.push("X-Request-Id", inbound.request_id);
    if (this.may_trail) headers.push("Trailer", REVOKED_TRAILER);
    if (!request.complete) headers.push("Connection", "close"); // what is left of the request's body is not read
    try {
      response.writeHead(code, headers);
    } catch (error) {
      this.failed({ err: error }, "an upstream's headers can't be passed on");
      this.cutOff("upstream", "upstream_failed");
      return;
    }
    this.status = code;
    this.to("answering");
    if (code === 204 || code === 304) {
      // Whole with its head, whatever length that says (RFC 9110, 8.6). undici waits for the length, and calls it a fault.
      this.to("received");
      response.end();
      return;
    }
    if (answer.endless) this.flow.endless.add(this);
    this.flushLater(); // where the first bytes came along, or all, headers and bytes leave together
  }

  private flushLater(): void {
    if (this.flushing) return;
    this.flushing = true;
    process.nextTick(flush, this);
  }

  flush(): void {
    this.flushing = false;
    if (this.mode !== "answering") return;
    if (!this.hold.is("client") && !this.hold.is("stale")) this.sendGathered();
    if (this.flushed) return;
    this.flushed = true;
    this.response.flushHeaders();
    this.flow.limits.watch(this);
  }

  onData(chunk: Buffer): boolean {
    if (this.over) return false;
    const more = this.take(chunk);
    if (chunk.byteLength >= SMALL_BYTES || this.over) return more;
    const pause_ms = this.paceOf().small();
    if (pause_ms > 0 && !this.hold.is("pace")) {
      this.hold.put("pace");
      this.paced = setTimeout(() => this.unpaced(), pause_ms);
    }
    return more && !this.hold.is("pace");
  }

  private paceOf(): Pace {
    this.pace ??= this.flow.paces.of(this.zone_id, this.decision.claims.client_id);
    return this.pace;
  }

  private unpaced(): void {
    const rest_ms = this.paceOf().rest_ms();
    if (rest_ms > 0) {
      this.paced = setTimeout(() => this.unpaced(), rest_ms);
      return;
    }
    this.hold.lift("pace");
    this.hold.resume();
  }

  private take(chunk: Buffer): boolean {
    // Another chunk of the same tick: time and revocation state are what they were at the first.
    if (this.gathered.bytes > 0 && this.flushing && !this.hold.is("stale")) return this.write(chunk);
    this.last_ms = this.flow.clock.monotonic_ms();
    if (!this.mustWait()) return this.write(chunk);
    this.gathered.add(chunk); // bounded: the upstream is paused at the first chunk that waits
    this.wait();
    return false;
  }

  private write(chunk: Buffer): boolean {
    if (this.over) return false;
    this.unchecked += chunk.byteLength;
    if (this.unchecked >= CHECK_BYTES) {
      this.unchecked = 0;
      if (revokedBy(this.flow.revocations, this.zone_id, this.cut_by) !== undefined) {
        this.revoked();
        return false;
      }
    }
    if (this.gathered.bytes + chunk.byteLength > GATHER_BYTES) this.sendGathered();
    if (chunk.byteLength > GATHER_BYTES) this.send(chunk);
    else {
      this.gathered.add(chunk); // undici's own no longer: it never writes to what it has handed over
      this.flushLater();
    }
    return !this.hold.is("client");
  }

  private sendGathered(): void {
    const chunk = this.gathered.take();
    if (chunk !== undefined) this.send(chunk);
  }

  private send(chunk: Buffer): void {
    if (!this.flushed) {
      this.flushed = true;
      this.flow.limits.watch(this);
    }
    this.bytes += chunk.byteLength;
    if (this.response.write(chunk) || this.hold.is("client")) return;
    this.hold.put("client");
    this.response.once("drain", () => this.drainedNow());
  }

  /** The client's connection takes more: first what came meanwhile, then the upstream's next. */
  private drainedNow(): void {
    this.hold.lift("client");
    if (this.mode !== "answering") return;
    if (!this.hold.is("stale")) this.sendGathered();
    this.hold.resume();
  }

  onEnd(trailers: readonly string[]): void {
    if (this.over || this.mode === "received") return;
    if (!this.mustWait()) {
      this.end(trailers);
      return;
    }
    this.held_end = () => this.end(trailers);
    this.wait();
  }

  private end(trailers: readonly string[]): void {
    if (this.over) return;
    const { response } = this;
    this.to("received");
    clearTimeout(this.paced);
    const passed = this.may_trail && trailers.length <= 2 * MAX_HEADERS ? passableTrailers(trailers) : [];
    if (passed.length > 0) response.addTrailers(passed);
    const last = this.gathered.take();
    if (last === undefined) {
      response.end();
      return;
    }
    this.bytes += last.byteLength;
    response.end(last);
  }

  onError(failure: UpstreamFailure, detail: string): void {
    if (this.over || this.mode === "received" || failure === "aborted") return;
    this.failed({ failure, detail }, "an upstream call failed");
    this.cutOff("upstream", FAILURES[failure]);
  }

  private failed(facts: object, message: string): void {
    const { zone_id, flow, decision } = this;
    const { inbound, binding } = decision;
    const about = { zone_id, resource_id: binding.resource_id, request_id: inbound.request_id };
    flow.failures("warn", zone_id, { ...about, ...facts }, message);
  }
}

export const createForwarder = (deps: ForwardDeps): Forwarder => {
  const { revocations, clock } = deps;
  const running = createRunningCalls<ForwardedCall>(revocations);
  const flow: Flow = {
    ...deps,
    running,
    paces: createPaces(),
    limits: createLimits(clock, () => running.all()),
    endless: new Set(),
    draining: false,
    stale: createStaleAnswers(() => revocations.age_ms() > REVOCATION_MAX_AGE_MS),
  };
  return {
    pass(request, response, decision, began_ms, tap) {
      new ForwardedCall(flow, request, response, decision, began_ms).start(tap);
    },
    drain() {
      flow.draining = true;
      for (const call of [...flow.endless]) call.drained();
    },
    get running() {
      return running.size;
    },
  };
};
