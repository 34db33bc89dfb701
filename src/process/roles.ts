import { createEgress, createUpstreams } from "../adapters/egress/index.ts";
import { createPolicyCompiler } from "../adapters/opa/compiler.ts";
import { createPolicyEngine } from "../adapters/opa/engine.ts";
import { createStsHttp } from "../adapters/sts-http/index.ts";
import { type ApiRole, type ControlPlane, createApi } from "../api/index.ts";
import { deadLetterOf, STREAMS } from "../contracts/streams.ts";
import { createCoordinator } from "../coordinator/index.ts";
import { keyring } from "../domain/keyring.ts";
import { JWKS_MAX_AGE_S } from "../domain/zone-key.ts";
import { ROLE_NAMES, type RoleName } from "../domain/role-name.ts";
import { createGateway } from "../gateway/index.ts";
import type { Role } from "../http/role.ts";
import { createMetrics } from "../kernel/metrics.ts";
import { type Service, within } from "../kernel/service.ts";
import { databaseOf, type Parts, required } from "./parts.ts";
import { createInvalidations } from "../broadcast/invalidations.ts";
import { createRevocations } from "../broadcast/revocations.ts";
import { createSts, type StsRole } from "../sts/index.ts";
import { auditOf } from "./thread/audit.ts";

/** Roles that are made already, for those behind them: the Gateway calls an STS of its own process directly. */
type Made = { sts?: StsRole; api?: ApiRole };

/** A role, and the services beside its own that have to run before it. */
type MadeRole = { readonly role: Role; readonly services: readonly Service[] };

/** To have a connection to an upstream; the rest of UPSTREAM_TIMEOUT is for its answer. */
const CONNECT_TIMEOUT_MS = 10_000;

const api = (parts: Parts, made: Made): Role => {
  const { config } = parts;
  const log = parts.log.child({ role: "api" });
  made.api = createApi({
    db: databaseOf(parts, "api"),
    compiler: createPolicyCompiler({ opa_path: config.OPA_PATH, log }),
    wake: parts.wakeOutbox,
    kek: keyring(required(config.ZONE_KEK, "ZONE_KEK"), config.ZONE_KEK_PREVIOUS),
    egress: createEgress({
      allow_private: false,
      allow_loopback: !config.production,
      allowlist: [],
      production: config.production,
      clock: parts.clock,
    }),
    key_delay_s: config.production ? JWKS_MAX_AGE_S : 0,
    rate_limit_per_minute: config.RATE_LIMIT_PER_MINUTE,
    bootstrap_token: config.BOOTSTRAP_ADMIN_TOKEN,
    log,
    metrics: createMetrics(parts.process_metrics),
  });
  return made.api;
};

const sts = (parts: Parts, made: Made): Role => {
  const { config } = parts;
  made.sts = createSts({
    db: databaseOf(parts, "sts"),
    streams: parts.streams,
    streams_ring: parts.streams_ring,
    instance_id: parts.instance_id,
    marks: parts.marks,
    rateLimit: parts.rateLimit,
    pingRedis: parts.pingRedis,
    audit: required(parts.audit_writer, "AUDIT_REPLAY_DIR"),
    engine: createPolicyEngine({ budget_units: config.POLICY_BUDGET }),
    issuer_url: parts.issuer_url,
    kek: keyring(required(config.ZONE_KEK, "ZONE_KEK"), config.ZONE_KEK_PREVIOUS),
    gateway_ring: parts.gateway_ring,
    policy_budget: config.POLICY_BUDGET,
    policy_units_per_s: config.POLICY_UNITS_PER_SECOND,
    rate_limit_per_minute: config.RATE_LIMIT_PER_MINUTE,
    trusted_proxies: config.TRUSTED_PROXIES,
    clock: parts.clock,
    log: parts.log.child({ role: "sts" }),
    metrics: createMetrics(parts.process_metrics),
  });
  return made.sts;
};

const coordinator = (parts: Parts): Role =>
  createCoordinator({ db: databaseOf(parts, "coordinator"), metrics: createMetrics(parts.process_metrics) });

/** With an STS in this process: direct calls, and one revocation state for both. Else over HTTPS, with its own. */
const gateway = (parts: Parts, made: Made): MadeRole => {
  const { config, clock } = parts;
  const log = parts.log.child({ role: "gateway" });
  const audit_writer = required(parts.audit_writer, "AUDIT_REPLAY_DIR");
  const owner = `gateway:${parts.instance_id}`;
  const feed = { streams: parts.streams, ring: parts.streams_ring, owner, clock, log };
  const over_http =
    made.sts === undefined
      ? createStsHttp({
          url: required(config.STS_URL, "STS_URL"),
          ring: parts.gateway_ring,
          timeout_ms: config.STS_TIMEOUT,
          clock,
        })
      : undefined;
  const direct = made.sts?.direct ?? required(over_http, "STS_URL");
  const own =
    made.sts === undefined
      ? createRevocations({ ...feed, loadSnapshot: (cursor) => direct.revocations(cursor) })
      : undefined;
  const upstreams = createUpstreams({
    connect_timeout_ms: Math.min(config.UPSTREAM_TIMEOUT, CONNECT_TIMEOUT_MS),
    shares: {
      limit: config.UPSTREAM_CALLS,
      zone_share: config.UPSTREAM_ZONE_PERCENT / 100,
      client_share: config.UPSTREAM_CLIENT_PERCENT / 100,
    },
  });
  const dead_letters = [STREAMS.revoke, STREAMS.audit].map(deadLetterOf);
  const role = createGateway({
    sts: direct,
    revocations: made.sts?.revocations ?? required(own, "STS_URL"),
    marks: parts.marks,
    audit: audit_writer,
    egress: createEgress({
      allow_private: config.ALLOW_PRIVATE_UPSTREAMS,
      allow_loopback: !config.production,
      allowlist: config.UPSTREAM_HOST_ALLOWLIST,
      production: config.production,
      dns_servers: config.DNS_SERVERS,
      clock,
    }),
    upstreams,
    clock,
    log,
    metrics: createMetrics(parts.process_metrics),
    issuer_url: parts.issuer_url,
    max_calls: config.GATEWAY_CALLS,
    zone_share: config.GATEWAY_ZONE_PERCENT / 100,
    client_share: config.GATEWAY_CLIENT_PERCENT / 100,
    max_request_bytes: config.MAX_REQUEST_BYTES,
    sts_timeout_ms: config.STS_TIMEOUT,
    upstream_timeout_ms: config.UPSTREAM_TIMEOUT,
    stream_idle_timeout_ms: config.STREAM_IDLE_TIMEOUT,
    stream_max_s: config.STREAM_MAX_SECONDS,
    jti_fail_open: config.JTI_FAIL_OPEN,
    deadLetters: async () =>
      new Map(await Promise.all(dead_letters.map(async (name) => [name, await parts.streams.length(name)] as const))),
  });
  const invalidations = createInvalidations({
    ...feed,
    topics: [STREAMS.keys, STREAMS.config],
    onInvalidate: (_topic, message) => role.invalidated(message),
    onLost: () => role.invalidationsLost(),
  });
  const connections: Service = {
    name: "gateway-connections",
    start: async () => {},
    stop: async (deadline_ms) => {
      await within(deadline_ms, Promise.all([upstreams.close(), over_http?.close()]));
    },
  };
  return { role, services: [connections, ...(own === undefined ? [] : [own]), invalidations] };
};

/** How each role is made from what the process has. Those that others call in process come first. */
const FACTORIES: Readonly<Record<RoleName, (parts: Parts, made: Made) => MadeRole>> = {
  audit: (parts) => ({ role: auditOf(parts), services: [] }),
  api: (parts, made) => ({ role: api(parts, made), services: [] }),
  sts: (parts, made) => ({ role: sts(parts, made), services: [] }),
  coordinator: (parts) => ({ role: coordinator(parts), services: [] }),
  gateway,
};

/** The roles of this thread, in the order in which they start, and what works for them. */
export const createRoles = (
  parts: Parts,
): {
  readonly roles: readonly Role[];
  readonly services: readonly Service[];
  readonly control_plane: ControlPlane | undefined;
} => {
  const made: Made = {};
  const all = ROLE_NAMES.filter((name) => parts.roles.includes(name)).map((name) => FACTORIES[name](parts, made));
  return {
    roles: all.map(({ role }) => role),
    services: all.flatMap(({ services }) => services),
    control_plane: made.api?.control_plane,
  };
};
