import { adminEndpoints } from "./api-admin.ts";
import { applicationEndpoints } from "./api-applications.ts";
import { challengeEndpoints } from "./api-challenges.ts";
import { grantEndpoints } from "./api-grants.ts";
import { issuerEndpoints } from "./api-issuers.ts";
import { keyEndpoints } from "./api-keys.ts";
import { ledgerEndpoints } from "./api-ledger.ts";
import { policyEndpoints } from "./api-policies.ts";
import { providerEndpoints } from "./api-providers.ts";
import { quotaEndpoints } from "./api-quotas.ts";
import { registrationEndpoints } from "./api-registration.ts";
import { resourceEndpoints } from "./api-resources.ts";
import { sessionEndpoints } from "./api-sessions.ts";
import { zoneEndpoints } from "./api-zones.ts";

/** Every endpoint of the control plane, by the name of its verb. */
export const apiEndpoints = {
  ...adminEndpoints,
  ...zoneEndpoints,
  ...applicationEndpoints,
  ...registrationEndpoints,
  ...providerEndpoints,
  ...issuerEndpoints,
  ...resourceEndpoints,
  ...grantEndpoints,
  ...keyEndpoints,
  ...quotaEndpoints,
  ...policyEndpoints,
  ...sessionEndpoints,
  ...challengeEndpoints,
  ...ledgerEndpoints,
} as const;

export type ApiEndpoints = typeof apiEndpoints;
export type ApiOperation = keyof ApiEndpoints;
