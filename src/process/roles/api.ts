import { createEgress } from "../../adapters/egress/index.ts";
import { createPolicyCompiler } from "../../adapters/opa/compiler.ts";
import { createPolicyEngine } from "../../adapters/opa/engine.ts";
import { policyTemplates, withShipped } from "../../adapters/opa/shipped.ts";
import { createApi } from "../../api/index.ts";
import { keyring } from "../../domain/keyring.ts";
import { JWKS_MAX_AGE_S } from "../../domain/zone-key.ts";
import { createMetrics } from "../../kernel/metrics.ts";
import { databaseOf, required } from "../parts.ts";
import type { MakeRole } from "../make-role.ts";

/** What the control plane evaluates is evaluated a few times: little of it is worth keeping. */
const REHEARSED_INSTANCES = 16;

/** The control plane. */
export const makeApi: MakeRole<"api"> = (parts) => {
  const { config } = parts;
  const log = parts.log.child({ role: "api" });
  const role = createApi({
    db: databaseOf(parts, "api"),
    compiler: withShipped(createPolicyCompiler({ opa_path: config.OPA_PATH, log })),
    engine: createPolicyEngine({ budget_units: config.POLICY_BUDGET, instances_max: REHEARSED_INSTANCES }),
    policy_budget: config.POLICY_BUDGET,
    templates: policyTemplates,
    clock: parts.clock,
    wake: parts.wakeOutbox,
    kek: keyring(required(config.ZONE_KEK, "ZONE_KEK"), config.ZONE_KEK_PREVIOUS),
    egress: createEgress({
      allow_private: false,
      allow_loopback: !config.production,
      allowlist: config.EGRESS_HOST_ALLOWLIST,
      production: config.production,
      clock: parts.clock,
    }),
    key_delay_s: config.production ? JWKS_MAX_AGE_S : 0,
    rate_limit_per_minute: config.RATE_LIMIT_PER_MINUTE,
    bootstrap_token: config.BOOTSTRAP_ADMIN_TOKEN,
    log,
    metrics: createMetrics(parts.process_metrics),
  });
  return { role, services: [] };
};
