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
  /** Of all policies there ever were, and of all sets: a version is never deleted, since the ledger names it. */
  policy_versions: 5_000,
  policy_sets: 100,
  policy_set_versions: 20_000,
  admin_tokens: 500,
} as const;

const MIB = 1024 * 1024;

/**
 * What a zone may have of what no row is counted for. `most`: what a global admin may say at most, for each API can give no
 * more: a set is 256 members in one request, every STS holds its modules, and a zone's turns run one at a time.
 */
export const QUOTA_BOUNDS = {
  policy_set_members: { limit: 256, most: 256 },
  policy_set_wasm_bytes: { limit: 16 * MIB, most: 64 * MIB },
  compile_seconds_per_minute: { limit: 30, most: 60 },
  simulation_seconds_per_minute: { limit: 10, most: 60 },
} as const;

const MAX_COUNTED = 1_000_000;

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
  "policy_versions",
  "policy_sets",
  "policy_set_versions",
  "admin_tokens",
  "policy_set_members",
  "policy_set_wasm_bytes",
  "compile_seconds_per_minute",
  "simulation_seconds_per_minute",
  "rate_limit_per_minute",
]);
export type QuotaName = v.InferOutput<typeof QuotaNameSchema>;

/** The highest limit that a global admin may set. */
export const mostOf = (name: QuotaName): number =>
  name in QUOTA_BOUNDS ? QUOTA_BOUNDS[name as keyof typeof QUOTA_BOUNDS].most : MAX_COUNTED;

/** `use` is null where nothing is counted. */
const QuotaSchema = v.object({ name: QuotaNameSchema, limit: v.number(), use: v.nullable(v.number()) });
export type Quota = v.InferOutput<typeof QuotaSchema>;

const NewLimitSchema = v.strictObject({
  /** null: the product's own figure again. */
  limit: v.nullable(v.pipe(v.number(), v.integer("must be a whole number"), v.minValue(0, "must be at least 0"))),
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
