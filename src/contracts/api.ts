import { adminEndpoints } from "./api-admin.ts";
import { applicationEndpoints } from "./api-applications.ts";
import { ledgerEndpoints } from "./api-ledger.ts";
import { policyEndpoints } from "./api-policies.ts";
import { resourceEndpoints } from "./api-resources.ts";
import { sessionEndpoints } from "./api-sessions.ts";
import { zoneEndpoints } from "./api-zones.ts";

/** Every operation of the control plane, by the name of the verb that does it. */
export const apiEndpoints = {
  ...adminEndpoints,
  ...zoneEndpoints,
  ...applicationEndpoints,
  ...resourceEndpoints,
  ...policyEndpoints,
  ...sessionEndpoints,
  ...ledgerEndpoints,
} as const;

export type ApiEndpoints = typeof apiEndpoints;
export type ApiOperation = keyof ApiEndpoints;
