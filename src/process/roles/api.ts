import { createEgress } from "../../adapters/egress/index.ts";
import { createPolicyCompiler } from "../../adapters/opa/compiler.ts";
import { createApi } from "../../api/index.ts";
import { keyring } from "../../domain/keyring.ts";
import { JWKS_MAX_AGE_S } from "../../domain/zone-key.ts";
import { createMetrics } from "../../kernel/metrics.ts";
import { databaseOf, required } from "../parts.ts";
import type { MakeRole } from "../make-role.ts";

/** The control plane. */
export const makeApi: MakeRole<"api"> = (parts) => {
  const { config } = parts;
  const log = parts.log.child({ role: "api" });
  const role = createApi({
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
  return { role, services: [] };
};
