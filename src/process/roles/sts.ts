import { createPolicyEngine } from "../../adapters/opa/engine.ts";
import { keyring } from "../../domain/keyring.ts";
import { createMetrics } from "../../kernel/metrics.ts";
import { createSts } from "../../sts/index.ts";
import { databaseOf, required } from "../parts.ts";
import type { MakeRole } from "../make-role.ts";

/** The token service. */
export const makeSts: MakeRole<"sts"> = (parts) => {
  const { config } = parts;
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
  return { role, services: [] };
};
