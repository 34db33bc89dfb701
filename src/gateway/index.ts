import type { IncomingMessage, ServerResponse } from "node:http";
import type { Invalidation } from "../contracts/streams.ts";
import { createPresentedTokens } from "../authority/presented-tokens.ts";
import type { AuditWriter } from "../domain/audit-event.ts";
import type { Revocations } from "../domain/revocation.ts";
import type { Role } from "../http/role.ts";
import type { Clock } from "../kernel/clock.ts";
import { createFailureLog } from "../kernel/failure-log.ts";
import type { Log } from "../kernel/log.ts";
import type { Metrics } from "../kernel/metrics.ts";
import type { Denial } from "../kernel/pipeline.ts";
import { createShares } from "../kernel/shares.ts";
import { type Worker, worker } from "../kernel/service.ts";
import type { Egress, Upstreams } from "../ports/egress.ts";
import type { Marks } from "../ports/marks.ts";
import type { Sts } from "../ports/sts.ts";
import { refuse } from "./edge/answers.ts";
import { REVOCATION_MAX_AGE_MS } from "./authority.ts";
import { createBindings } from "./known/bindings.ts";
import { Caller } from "./edge/caller.ts";
import { createCounters } from "./counters.ts";
import { type Decision, decide, type DenyReason } from "./decide.ts";
import { createForwarder } from "./passage/forward.ts";
import { Tap } from "./passage/tap.ts";
import { type Inbound, readInbound } from "./edge/inbound.ts";
import { createZoneKeys } from "./known/keys.ts";
import { createLedger } from "./ledger.ts";
import { COUNTED_AT_THE_STS, IN_THE_STS_LEDGER, problems, type Reason } from "./problems.ts";
import { authorityOf, notRevoked, revocationFresh } from "./steps/revocation.ts";

export type GatewayDeps = {
  readonly sts: Sts;
  /** Started and stopped by who made them. */
  readonly revocations: Revocations;
  readonly marks: Marks;
  readonly audit: AuditWriter;
  readonly egress: Egress;
  readonly upstreams: Upstreams;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  /** `ISSUER_URL`, without a slash at its end. */
  readonly issuer_url: string;
  /** Calls under way in this process; of them what one zone and one client may have, as fractions. */
  readonly max_calls: number;
  readonly zone_share: number;
  readonly client_share: number;
  readonly max_request_bytes: number;
  readonly sts_timeout_ms: number;
  readonly upstream_timeout_ms: number;
  readonly stream_idle_timeout_ms: number;
  readonly stream_max_s: number;
  /** `JTI_FAIL_OPEN`: development only; the configuration refuses it in production. */
  readonly jti_fail_open: boolean;
  /** Entries in each dead-letter stream, by its name; asked every few seconds. */
  readonly deadLetters?: () => Promise<ReadonlyMap<string, number>>;
};

/** `invalidated` and `invalidationsLost` belong to the reader of `caracal.keys.invalidate` and `caracal.config.invalidate`. */
export type GatewayRole = Role & {
  invalidated(message: Invalidation): void;
  invalidationsLost(): void;
};

/** What a refused call had come to. */
type Reached = Partial<Pick<Decision, "claims" | "binding" | "route" | "place">>;

const DEAD_LETTERS_MS = 5_000;
const PRIME_MS = 1_000;

/** That a part is away, which is logged. */
const FAILURES: ReadonlySet<Reason> = new Set<Reason>([
  "keys_unavailable",
  "revocation_stale",
  "sts_busy",
  "sts_failed",
  "sts_timeout",
  "policy_not_evaluated",
  "ledger_unavailable",
  "marks_unavailable",
  "upstream_not_resolved",
  "upstream_refused",
]);

/**
 * Marks begin to be remembered before the first mandate comes, or it would be refused as possibly used; and again after
 * the server lost its memory, so that only mandates from before that moment are.
 */
const createPriming = (marks: Marks, log: Log): { readonly worker: Worker; primed(): boolean } => {
  let primed = false;
  return {
    primed: () => primed,
    worker: worker({
      name: "gateway-marks",
      every_ms: PRIME_MS,
      tick: async () => {
        await marks.prime();
        primed = true;
      },
      onError: (error) => {
        if (primed) log.warn({ err: error }, "the memory of used mandates can't be reached");
        primed = false;
      },
    }),
  };
};

/**
 * The Gateway: every request is decided on (`decide.ts`), then passed to its upstream (`forward.ts`). Plain node:http, on
 * the raw request: no URL parser, no header object, no body in memory.
 */
export const createGateway = (deps: GatewayDeps): GatewayRole => {
  const { sts, clock, log, metrics, revocations, marks } = deps;
  const counters = createCounters(metrics);
  const bindings = createBindings({ sts, clock, log });
  const keys = createZoneKeys({ sts, clock, log });
  const tokens = createPresentedTokens(clock, deps.issuer_url, keys.version);
  const ledger = createLedger(deps.audit);
  const failures = createFailureLog(log, clock);
  const forwarder = createForwarder({ ...deps, ledger, counters, failures, stream_max_ms: deps.stream_max_s * 1000 });
  const priming = createPriming(marks, log);
  const shares = createShares({
    limit: deps.max_calls,
    zone_share: deps.zone_share,
    client_share: deps.client_share,
  });
  const decision = decide({ ...deps, bindings, keys, tokens, ledger, shares });

  metrics.gauge("bindings_loaded", "Resources that the Gateway knows an upstream for.", () => bindings.size);
  metrics.gauge("revocations_active", "Revocations that are enforced still.", () => revocations.size);
  metrics.gauge("stream_lag_seconds", "Since the last signed head of caracal.sessions.revoke that matched.", () =>
    Math.min(revocations.age_ms() / 1000, Number.MAX_SAFE_INTEGER),
  );
  metrics.gauge("calls_running", "Calls that are under way at upstreams.", () => forwarder.running);
  const dlq_depth = metrics.gaugeBy("dlq_depth", "Entries that nobody could process, by their stream.", "stream");

  const deadLetters = worker({
    name: "gateway-dead-letters",
    every_ms: DEAD_LETTERS_MS,
    tick: async () => {
      for (const [stream, depth] of (await deps.deadLetters?.()) ?? []) dlq_depth.set(stream, depth);
    },
    onError: () => undefined, // Redis is away: readiness says so already
  });

  const count = (reason: Reason): void => {
    counters.requests_denied.inc();
    for (const name of problems[reason].counters) counters[name].inc();
  };

  const keep = (step: string, denial: Denial<DenyReason>, facts: Reached & Pick<Decision, "inbound">): void => {
    const { reason, detail } = denial;
    const { inbound, claims, binding, route } = facts;
    if (FAILURES.has(reason)) {
      const about = { step, reason, detail, request_id: inbound.request_id, zone_id: claims?.zone_id };
      failures("warn", reason, about, "a call was refused because a part failed");
    }
    if (claims === undefined) ledger.unauthenticated(reason);
    else if (!IN_THE_STS_LEDGER.has(reason) || COUNTED_AT_THE_STS.has(denial.extra?.public_reason ?? "")) {
      ledger.denied(inbound, claims, binding, { step, reason, detail, path: route?.path ?? "" });
    }
  };

  const serve = async (request: IncomingMessage, response: ServerResponse, inbound: Inbound): Promise<void> => {
    const began_ms = clock.monotonic_ms();
    const tap = new Tap(request);
    if (inbound.chunked) tap.close(); // else what comes meanwhile is buffered chunk by chunk
    let outcome: Awaited<ReturnType<typeof decision.run>>;
    try {
      outcome = await decision.run({ inbound, client: new Caller(response), now_ms: clock.now_ms() });
    } finally {
      tap.open();
    }
    const denied = (step: string, denial: Denial<DenyReason>, facts: Reached): void => {
      facts.place?.release(); // now, not when the caller has read its answer
      count(denial.reason);
      keep(step, denial, { ...facts, inbound });
      refuse(request, response, denial.reason, inbound.request_id, denial.extra);
    };
    if (outcome.denial !== undefined) {
      denied(outcome.step, outcome.denial, outcome.facts);
      return;
    }
    const { facts } = outcome;
    // The state has moved on while the STS and the DNS were asked, which may have taken seconds. From here on the call is in
    // the index, so that no event is missed.
    const state = authorityOf(revocations, facts.claims.zone_id, facts.cut_by);
    const denial = notRevoked.run(state) ?? revocationFresh.run(state);
    if (denial !== undefined) {
      denied("forward", denial, facts);
      return;
    }
    counters.requests_allowed.inc();
    forwarder.pass(request, response, facts, began_ms, tap);
  };

  const fail = (request: IncomingMessage, response: ServerResponse, request_id: string, error: unknown): void => {
    log.error({ err: error, request_id }, "a call failed unexpectedly");
    if (response.headersSent) request.socket.destroy();
    else refuse(request, response, "internal_error", request_id);
  };

  return {
    name: "gateway",
    metrics,
    continues: true,
    long_answers: true,
    services: [bindings.worker, priming.worker, ledger.worker, deadLetters],
    ready: [
      { name: "bindings", fault: () => (bindings.loaded ? undefined : "not read from the STS yet") },
      {
        name: "revocations",
        fault: () =>
          revocations.age_ms() <= REVOCATION_MAX_AGE_MS ? undefined : "the revocation state is older than 10 s",
      },
      {
        name: "marks",
        fault: () =>
          priming.primed() || deps.jti_fail_open ? undefined : "the memory of used mandates can't be reached",
      },
    ],
    /** A resource's own `/health` is reached by naming the resource. */
    owns: (request) => request.headers["x-caracal-resource"] !== undefined,
    handle(request, response) {
      counters.requests_total.inc();
      const inbound = readInbound(request); // once: it makes the request id under which STS, ledger and log have the call
      if (request.method === "CONNECT" || request.method === "TRACE") {
        count("method_not_allowed");
        refuse(request, response, "method_not_allowed", inbound.request_id);
        return;
      }
      serve(request, response, inbound).catch((error: unknown) => fail(request, response, inbound.request_id, error));
    },
    drain: () => forwarder.drain(),
    invalidated({ kind, zone_id }) {
      if (kind === "key") keys.forget(zone_id);
      else if (kind === "resource" || kind === "zone") bindings.refresh(zone_id);
    },
    invalidationsLost() {
      keys.forgetAll();
      bindings.refresh(undefined);
    },
  };
};
