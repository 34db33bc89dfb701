import { adminVerbs } from "./admin-tokens.ts";
import { applicationVerbs } from "./applications.ts";
import { challengeVerbs } from "./challenges.ts";
import { createChange } from "./change.ts";
import { grantVerbs } from "./grants.ts";
import { issuerVerbs } from "./issuers.ts";
import { keyVerbs } from "./keys.ts";
import { ledgerVerbs } from "./ledger.ts";
import { namedVerbs } from "./named.ts";
import type { ControlPlane, ControlPlaneDeps } from "./parts.ts";
import { policyVerbs } from "./policies.ts";
import { policySetVerbs } from "./policy-sets.ts";
import { providerVerbs } from "./providers.ts";
import { boundOf, quotaVerbs } from "./quotas.ts";
import { createRehearsal } from "./rehearsal.ts";
import { registrationVerbs } from "./registration.ts";
import { resourceVerbs } from "./resources.ts";
import { sessionVerbs } from "./sessions.ts";
import { simulationVerbs } from "./simulations.ts";
import { tokenHash } from "./token-strength.ts";
import { zoneVerbs } from "./zones.ts";

/**
 * Every operation as a function. The routes call them with what they have checked against the contracts; the process itself
 * may call them too, with a `systemCaller`, and must then bring what the contract would have let through.
 */
export const createControlPlane = (deps: ControlPlaneDeps): ControlPlane => {
  const parts = {
    db: deps.db,
    compiler: deps.compiler,
    rehearsal: createRehearsal({
      ...deps,
      secondsOf: (zone_id) => boundOf(deps.db.sql, zone_id, "simulation_seconds_per_minute"),
    }),
    templates: deps.templates,
    log: deps.log,
    kek: deps.kek,
    egress: deps.egress,
    key_delay_s: deps.key_delay_s,
    rate_limit_per_minute: deps.rate_limit_per_minute,
    bootstrap_hash: deps.bootstrap_token === undefined ? undefined : tokenHash(deps.bootstrap_token),
    change: createChange(deps.db, deps.wake, deps.onChange ?? (() => {})),
  };
  return {
    ...adminVerbs(parts),
    ...zoneVerbs(parts),
    ...applicationVerbs(parts),
    ...registrationVerbs(parts),
    ...providerVerbs(parts),
    ...issuerVerbs(parts),
    ...resourceVerbs(parts),
    ...grantVerbs(parts),
    ...keyVerbs(parts),
    ...quotaVerbs(parts),
    ...namedVerbs(parts),
    ...policyVerbs(parts),
    ...policySetVerbs(parts),
    ...simulationVerbs(parts),
    ...sessionVerbs(parts),
    ...challengeVerbs(parts),
    ...ledgerVerbs(parts),
  };
};
