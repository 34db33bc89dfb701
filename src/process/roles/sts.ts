import { createEgress, createUpstreams } from "../../adapters/egress/index.ts";
import { createPolicyEngine } from "../../adapters/opa/engine.ts";
import { keyring } from "../../domain/keyring.ts";
import { createMetrics } from "../../kernel/metrics.ts";
import { type Service, within } from "../../kernel/service.ts";
import { createSts } from "../../sts/index.ts";
import { databaseOf, required } from "../parts.ts";
import type { MakeRole } from "../make-role.ts";

/** To have a connection to a client's or an issuer's host, and how many calls of one host there may be, and of one zone. */
const CONNECT_TIMEOUT_MS = 2_000;
const CALLS = { limit: 64, zone_share: 1 / 16, client_share: 1 / 16 } as const;

/** The token service. */
export const makeSts: MakeRole<"sts"> = (parts) => {
  const { config, clock } = parts;
  const upstreams = createUpstreams({ connect_timeout_ms: CONNECT_TIMEOUT_MS, shares: CALLS });
  const role = createSts({
    db: databaseOf(parts, "sts"),
    streams: parts.streams,
    streams_ring: parts.streams_ring,
    instance_id: parts.instance_id,
    marks: parts.marks,
    rateLimit: parts.rateLimit,
    pingRedis: parts.pingRedis,
    audit: required(parts.audit_writer, "AUDIT_REPLAY_DIR"),
    engine: createPolicyEngine({ budget_units: config.POLICY_BUDGET }),
    egress: createEgress({
      allow_private: false,
      allow_loopback: !config.production,
      allowlist: config.EGRESS_HOST_ALLOWLIST,
      production: config.production,
      dns_servers: config.DNS_SERVERS,
      clock,
    }),
    upstreams,
    issuer_url: parts.issuer_url,
    gateway_url: config.GATEWAY_PUBLIC_URL,
    kek: keyring(required(config.ZONE_KEK, "ZONE_KEK"), config.ZONE_KEK_PREVIOUS),
    gateway_ring: parts.gateway_ring,
    wake: parts.wakeOutbox,
    policy_budget: config.POLICY_BUDGET,
    policy_units_per_s: config.POLICY_UNITS_PER_SECOND,
    rate_limit_per_minute: config.RATE_LIMIT_PER_MINUTE,
    trusted_proxies: config.TRUSTED_PROXIES,
    clock,
    log: parts.log.child({ role: "sts" }),
    metrics: createMetrics(parts.process_metrics),
  });
  const connections: Service = {
    name: "sts-connections",
    start: async () => {},
    stop: async (deadline_ms) => {
      await within(deadline_ms, upstreams.close());
    },
  };
  return { role, services: [connections] };
};
