import { STREAMS } from "../contracts/streams.ts";
import { type AuditWriter, SYSTEM_ZONE } from "../domain/audit-event.ts";
import type { Keyring } from "../domain/keyring.ts";
import { createPolicyAccounts } from "../domain/policy-account.ts";
import type { Revocations } from "../domain/revocation.ts";
import { databaseReachable, redisReachable } from "../http/ready.ts";
import type { Role } from "../http/role.ts";
import { createRouter } from "../http/router.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import type { Metrics } from "../kernel/metrics.ts";
import { createTurns } from "../kernel/turns.ts";
import type { Service } from "../kernel/service.ts";
import type { Database } from "../ports/database.ts";
import type { Egress, Upstreams } from "../ports/egress.ts";
import type { Marks } from "../ports/marks.ts";
import type { PolicyEngine } from "../ports/policy.ts";
import type { RateLimit } from "../ports/rate-limit.ts";
import type { Streams } from "../ports/streams.ts";
import type { Sts } from "../ports/sts.ts";
import type { AnomalyKind } from "../broadcast/feed.ts";
import { createInvalidations } from "../broadcast/invalidations.ts";
import type { OutboxRow } from "../broadcast/outbox-store.ts";
import { createRevocations } from "../broadcast/revocations.ts";
import { createAddressReader } from "./edge/address.ts";
import { createAnswerThrottle } from "./known/answer-throttle.ts";
import { createChallengeWaits } from "./known/challenge-waits.ts";
import { createClientAssertions } from "./known/client-assertions.ts";
import { createClientCredentials } from "./known/client-credentials.ts";
import { createClientKeys } from "./known/client-keys.ts";
import { createClientSecrets } from "./known/client-secrets.ts";
import { createDelegations } from "./known/delegations.ts";
import { createDocuments } from "./known/documents.ts";
import { createDirect } from "./edge/direct.ts";
import { createGatewayNonces } from "./edge/gateway-calls.ts";
import type { Author } from "../authority/admin-audit.ts";
import { createChange } from "../authority/change.ts";
import { createPresentedTokens } from "../authority/presented-tokens.ts";
import { createPublicState } from "./edge/public-state.ts";
import { stsRoutes } from "./edge/routes.ts";
import { createSessions } from "./known/sessions.ts";
import { createSigningKeys } from "./known/signing-keys.ts";
import { createSnapshots } from "./known/snapshots.ts";
import { createInquiryEndpoint } from "./edge/inquiry-endpoint.ts";
import { createTokenEndpoint } from "./edge/token-endpoint.ts";
import type { StepUpEvent } from "./steps/step-up-answer.ts";
import { CHALLENGE_TURNS } from "./steps/step-up-challenge.ts";
import { createPolicyActivations } from "./workers/policy-activations.ts";
import { createUnauthenticatedSummary } from "./workers/unauthenticated-summary.ts";

export type StsDeps = {
  /** The role's own pool. */
  readonly db: Database;
  readonly streams: Streams;
  /** `STREAMS_HMAC_KEY`. */
  readonly streams_ring: Keyring;
  readonly instance_id: string;
  readonly marks: Marks;
  readonly rateLimit: RateLimit;
  readonly pingRedis: () => Promise<void>;
  /** Started and stopped by whoever made it. */
  readonly audit: AuditWriter;
  readonly engine: PolicyEngine;
  /** To clients' and issuers' hosts alone: what it allows is the egress list's to say. */
  readonly egress: Egress;
  /** Closed by whoever made it. */
  readonly upstreams: Upstreams;
  /** `ISSUER_URL`, without a slash at its end. */
  readonly issuer_url: string;
  /** `GATEWAY_PUBLIC_URL`, without a slash at its end; undefined: resources have no URL there. */
  readonly gateway_url: string | undefined;
  /** `ZONE_KEK`. */
  readonly kek: Keyring;
  /** `GATEWAY_STS_HMAC_KEY`, or the key derived in its place; undefined: no signed call is believed. */
  readonly gateway_ring: Keyring | undefined;
  /** Called after each commit that left messages in the outbox, with them. */
  readonly wake: (rows: readonly OutboxRow[]) => void;
  /** `POLICY_BUDGET`: steps of one evaluation; the engine holds it for a member, this role for a request. */
  readonly policy_budget: number;
  /** `POLICY_UNITS_PER_SECOND`: what the policies of one zone may spend in this process. */
  readonly policy_units_per_s: number;
  /** `RATE_LIMIT_PER_MINUTE`, where an application has none of its own. */
  readonly rate_limit_per_minute: number;
  /** Addresses and networks whose `X-Forwarded-For` is believed; none by default. */
  readonly trusted_proxies?: readonly string[];
  readonly clock: Clock;
  readonly log: Log;
  /** The role's own: `process/roles/sts.ts` makes it. */
  readonly metrics: Metrics;
};

/** `direct`: for a Gateway of the same process. `revocations`: this role's view of what is revoked, for who shares it. */
export type StsRole = Role & { readonly direct: Sts; readonly revocations: Revocations };

/** How often a proxy that is not listed is warned about, at most. */
const UNTRUSTED_WARNING_MS = 60_000;

/** Units of one evaluation of a set: an ordinary policy spends some 1 500. */
const UNIT_BUCKETS = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 500_000];

const createCounters = (metrics: Metrics) => ({
  issued: metrics.counterBy("sts_tokens_issued_total", "Tokens issued, by use", "use"),
  steps: metrics.counterBy("sts_denials_by_step_total", "Token requests refused, by the step that refused", "step"),
  reasons: metrics.counterBy("sts_denials_total", "Token requests refused, by reason", "reason"),
  nobody: metrics.counterBy("sts_unauthenticated_total", "Calls by nobody we know, by reason", "reason"),
  inquiries: metrics.counterBy(
    "sts_token_inquiries_total",
    "Tokens shown to be active, and sessions ended by clients, by event",
    "event",
  ),
  failures: metrics.counter("sts_failures_total", "Token requests that failed for a reason on our side"),
  signatures: metrics.counter("sts_signatures_total", "Tokens signed"),
  units: metrics.histogram("sts_policy_units", "Units that an evaluation of a policy set spent", UNIT_BUCKETS),
  zone_loads: metrics.counter("sts_zone_loads_total", "Zones read from the database"),
  session_reads: metrics.counter("sts_session_reads_total", "Sessions read from the database"),
  step_up: metrics.counterBy("sts_step_up_total", "Step-up challenges, by what became of them here", "event"),
  delegation_reads: metrics.counter(
    "sts_delegation_reads_total",
    "Agent sessions and paths of delegation read from the database",
  ),
  forwarded: metrics.counter(
    "sts_untrusted_forwarded_total",
    "Calls with X-Forwarded-For from a peer that is no trusted proxy",
  ),
  anomalies: metrics.counterBy("sts_stream_anomalies_total", "Forged or malformed stream entries and holes", "kind"),
});

/** The only issuer: authenticates clients, asks policy, signs. See the README for the order of checks and what they cost. */
export const createSts = (deps: StsDeps): StsRole => {
  const { db, clock, log, audit, metrics } = deps;
  const counters = createCounters(metrics);

  const onAnomaly = (kind: AnomalyKind, stream: string, detail: string): void => {
    counters.anomalies.inc(kind);
    audit.record({
      zone_id: SYSTEM_ZONE,
      event_type: "stream.anomaly",
      decision: "none",
      metadata_json: JSON.stringify({ role: "sts", stream, kind, detail }),
    });
  };

  const feed = { streams: deps.streams, ring: deps.streams_ring, clock, log };
  const invalidations = createInvalidations({
    ...feed,
    owner: `sts-caches:${deps.instance_id}`,
    topics: [STREAMS.policy, STREAMS.keys, STREAMS.config],
    onInvalidate: (topic, { kind, zone_id, id }) => {
      if (kind === "challenge") waits.decided(zone_id, id);
      else snapshots.invalidate(zone_id, topic === STREAMS.policy);
    },
    onLost: () => {
      snapshots.invalidateAll();
      waits.lost();
    },
    onAnomaly,
  });
  const waits = createChallengeWaits();
  metrics.gauge("sts_step_up_waiting", "Callers that wait for the decision on a challenge", () => waits.held);
  const activations = createPolicyActivations({ db, replica: deps.instance_id, clock, log });
  const snapshots = createSnapshots({
    db,
    engine: deps.engine,
    clock,
    log,
    streamAge_ms: () => invalidations.age_ms(),
    onLoad: () => counters.zone_loads.inc(),
    onPolicy: (policy) => activations.loaded(policy),
  });
  const state = createPublicState({ db, streams: deps.streams, snapshots });
  const revocations = createRevocations({
    ...feed,
    owner: `sts:${deps.instance_id}`,
    loadSnapshot: (cursor) => state.revocations(cursor),
    onAnomaly,
  });
  const keys = createSigningKeys(deps.kek, clock);
  const summary = createUnauthenticatedSummary({ audit, clock, log, onRound: () => keys.sweep() });
  const onUnauthenticated = (reason: string): void => {
    counters.nobody.inc(reason);
    summary.count(reason);
  };
  const nonces = createGatewayNonces(deps.marks, clock);
  let warn_again_ms = Number.NEGATIVE_INFINITY;
  const onUntrustedProxy = (peer: string): void => {
    counters.forwarded.inc();
    if (clock.monotonic_ms() < warn_again_ms) return; // anybody may send the header: the log is not theirs to fill
    warn_again_ms = clock.monotonic_ms() + UNTRUSTED_WARNING_MS;
    log.warn(
      { peer },
      "X-Forwarded-For came from a peer that is no trusted proxy and was ignored; if it is your load balancer, name it in TRUSTED_PROXIES: until then its clients share one count of failed log-ins",
    );
  };

  const delegations = createDelegations({ db, revocations, clock, onRead: () => counters.delegation_reads.inc() });
  const denied = (step: string, reason: string): void => {
    counters.steps.inc(step);
    counters.reasons.inc(reason);
  };
  const counts = { denied, unauthenticated: onUnauthenticated, failed: () => counters.failures.inc() };
  const ports = {
    db,
    snapshots,
    revocations,
    secrets: createClientSecrets(clock),
    assertions: createClientAssertions({
      snapshots,
      credentials: createClientCredentials({ db, clock }),
      keys: createClientKeys({ documents: createDocuments(deps), clock, log }),
      marks: deps.marks,
      issuer_url: deps.issuer_url,
      clock,
    }),
    tokens: createPresentedTokens(clock, deps.issuer_url, (zone_id) => snapshots.keysVersion(zone_id)),
    limits: deps.rateLimit,
    rate_limit_per_minute: deps.rate_limit_per_minute,
    sessions: createSessions({ db, revocations, clock, onRead: () => counters.session_reads.inc() }),
    delegations,
    policy: {
      accounts: createPolicyAccounts({ clock, units_per_s: deps.policy_units_per_s }),
      budget_units: deps.policy_budget,
      log,
      onEvaluation: (units: number) => counters.units.observe(units),
    },
    step_up: {
      db,
      throttle: createAnswerThrottle(clock),
      turns: createTurns({ ...CHALLENGE_TURNS, clock }),
      log,
      onStepUp: (event: StepUpEvent) => counters.step_up.inc(event),
    },
    spend: { db, delegations, log, onConsumed: () => counters.step_up.inc("consumed" satisfies StepUpEvent) },
    keys,
    audit,
    issuer_url: deps.issuer_url,
    gateway_url: deps.gateway_url,
    onSignature: () => counters.signatures.inc(),
    log,
  };
  const tokens = createTokenEndpoint({
    ...ports,
    counts: { ...counts, issued: (use) => counters.issued.inc(use) },
  });
  const inquiries = createInquiryEndpoint({
    ...ports,
    change: createChange<Author>({
      db,
      wake: deps.wake,
      onChange: () => {},
      within: (tx, _author, run) => run(tx),
      conflictOf: (error) => error,
    }),
    counts: { ...counts, inquired: (event) => counters.inquiries.inc(event) },
  });

  const routes = stsRoutes({
    tokens,
    inquiries,
    state,
    issuer_url: deps.issuer_url,
    gateway_ring: deps.gateway_ring,
    nonces,
    addressOf: createAddressReader(deps.trusted_proxies ?? [], onUntrustedProxy),
    onUnauthenticated,
    step_up: { ...ports, waits, clock, onUnauthenticated },
    clock,
  });

  /** So that the first nonce after a start on an empty Redis is not taken for one from before its memory began. */
  const memory: Service = {
    name: "sts-nonces",
    async start() {
      await deps.marks
        .prime()
        .catch((error: unknown) => log.warn({ err: error }, "the memory of nonces can't be prepared yet"));
    },
    async stop() {},
  };

  return {
    name: "sts",
    handle: createRouter({ routes, log }),
    services: [memory, invalidations, revocations, summary, activations],
    ready: [
      databaseReachable(db),
      redisReachable(deps.pingRedis),
      { name: "revocations", fault: () => revocations.fault() },
    ],
    metrics,
    drain: () => waits.end(),
    direct: createDirect(tokens, state, clock),
    revocations,
  };
};
