import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import { IdSchema, NoQuerySchema, ZoneParamsSchema } from "./api-fields.ts";

/** What a zone may have of each, unless a global admin says otherwise. */
export const QUOTA_LIMITS = {
  applications: 10_000,
  resources: 1_000,
  providers: 200,
  issuers: 50,
  grants: 100_000,
  registration_tokens: 100,
  registered_applications: 1_000,
  policies: 500,
  policy_sets: 100,
  admin_tokens: 500,
} as const;

/** `rate_limit_per_minute`: the highest that a zone's own token may give an application; by default the deployment's. */
const QuotaNameSchema = v.picklist([
  "applications",
  "resources",
  "providers",
  "issuers",
  "grants",
  "registration_tokens",
  "registered_applications",
  "policies",
  "policy_sets",
  "admin_tokens",
  "rate_limit_per_minute",
]);
export type QuotaName = v.InferOutput<typeof QuotaNameSchema>;

/** `use` is null where nothing is counted. */
const QuotaSchema = v.object({ name: QuotaNameSchema, limit: v.number(), use: v.nullable(v.number()) });
export type Quota = v.InferOutput<typeof QuotaSchema>;

const NewLimitSchema = v.strictObject({
  /** null: the product's own figure again. */
  limit: v.nullable(
    v.pipe(
      v.number(),
      v.integer("must be a whole number"),
      v.minValue(0, "must be at least 0"),
      v.maxValue(1_000_000, "must be at most 1000000"),
    ),
  ),
});

export const quotaEndpoints = {
  listQuotas: {
    method: "GET",
    path: "/v1/zones/{zone_id}/quotas",
    summary: "What the zone may have, and what it has",
    reach: "zone",
    access: "read",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: v.object({ items: v.array(QuotaSchema) }),
  },
  setQuota: {
    method: "PUT",
    path: "/v1/zones/{zone_id}/quotas/{name}",
    summary: "Say what the zone may have; for global admins",
    reach: "global",
    access: "write",
    params: v.strictObject({ zone_id: IdSchema, name: QuotaNameSchema }),
    query: NoQuerySchema,
    body: NewLimitSchema,
    status: 200,
    response: QuotaSchema,
  },
} as const satisfies Record<string, ApiEndpoint>;
