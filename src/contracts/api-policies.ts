import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import {
  changesOf,
  IdSchema,
  list,
  NameSchema,
  NoQuerySchema,
  PageQuerySchema,
  pageOf,
  text,
  TimeSchema,
  ZoneItemParamsSchema,
  ZoneParamsSchema,
} from "./api-fields.ts";

/** The most members of a policy set. */
export const MAX_SET_ENTRIES = 256;
const MAX_SOURCE_CHARACTERS = 64 * 1024;

const NamedSchema = v.object({
  id: v.string(),
  zone_id: v.string(),
  name: v.string(),
  created_at: TimeSchema,
  updated_at: TimeSchema,
});
/** A policy, or a policy set: a name that holds versions. */
export type Named = v.InferOutput<typeof NamedSchema>;

const NewNamedSchema = v.strictObject({ name: NameSchema });
const NamedChangesSchema = changesOf({ name: NameSchema });

const VersionParamsSchema = v.strictObject({ zone_id: IdSchema, id: IdSchema, version_id: IdSchema });

const PolicyVersionSummarySchema = v.object({
  id: v.string(),
  zone_id: v.string(),
  policy_id: v.string(),
  /** 1, 2, 3, … within the policy. */
  version: v.number(),
  source_sha256: v.string(),
  wasm_sha256: v.string(),
  created_at: TimeSchema,
});
export type PolicyVersionSummary = v.InferOutput<typeof PolicyVersionSummarySchema>;

const PolicyVersionSchema = v.object({ ...PolicyVersionSummarySchema.entries, source: v.string() });
export type PolicyVersion = v.InferOutput<typeof PolicyVersionSchema>;

/** Rego v1 in `package caracal.authz`. */
const NewPolicyVersionSchema = v.strictObject({ source: text(MAX_SOURCE_CHARACTERS) });

const EntrySchema = v.object({ policy_version_id: v.string() });

const PolicySetVersionSchema = v.object({
  id: v.string(),
  zone_id: v.string(),
  policy_set_id: v.string(),
  version: v.number(),
  /** SHA-256 over the entries' version ids and source hashes, in order. */
  manifest_sha: v.string(),
  entries: v.array(EntrySchema),
  created_at: TimeSchema,
});
export type PolicySetVersion = v.InferOutput<typeof PolicySetVersionSchema>;

const NewPolicySetVersionSchema = v.strictObject({
  entries: v.pipe(
    list(v.strictObject({ policy_version_id: IdSchema }), MAX_SET_ENTRIES, 1),
    v.check(
      (entries) => new Set(entries.map((entry) => entry.policy_version_id)).size === entries.length,
      "must name each policy version once",
    ),
  ),
});

const ActivateSchema = v.strictObject({ version_id: IdSchema });

const ActivationSchema = v.object({
  zone_id: v.string(),
  policy_set_id: v.string(),
  version_id: v.string(),
  manifest_sha: v.string(),
  activated_at: TimeSchema,
});
export type Activation = v.InferOutput<typeof ActivationSchema>;

/** `active` is null where another set is active in the zone, or none. */
const ActivationStateSchema = v.object({ active: v.nullable(ActivationSchema) });

export const policyEndpoints = {
  listPolicies: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policies",
    summary: "The zone's policies",
    reach: "zone",
    access: "read",
    params: ZoneParamsSchema,
    query: PageQuerySchema,
    status: 200,
    response: pageOf(NamedSchema),
  },
  createPolicy: {
    method: "POST",
    path: "/v1/zones/{zone_id}/policies",
    summary: "Name a policy; its source comes with its versions",
    reach: "zone",
    access: "write",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    body: NewNamedSchema,
    status: 201,
    response: NamedSchema,
  },
  getPolicy: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policies/{id}",
    summary: "One policy",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: NamedSchema,
  },
  updatePolicy: {
    method: "PATCH",
    path: "/v1/zones/{zone_id}/policies/{id}",
    summary: "Rename a policy",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    body: NamedChangesSchema,
    status: 200,
    response: NamedSchema,
  },
  archivePolicy: {
    method: "DELETE",
    path: "/v1/zones/{zone_id}/policies/{id}",
    summary: "Archive a policy that is not part of the active set",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 204,
  },
  listPolicyVersions: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policies/{id}/versions",
    summary: "The versions of a policy, without their source",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: PageQuerySchema,
    status: 200,
    response: pageOf(PolicyVersionSummarySchema),
  },
  createPolicyVersion: {
    method: "POST",
    path: "/v1/zones/{zone_id}/policies/{id}/versions",
    summary: "Compile Rego into a new, immutable version",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    body: NewPolicyVersionSchema,
    status: 201,
    response: PolicyVersionSchema,
  },
  getPolicyVersion: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policies/{id}/versions/{version_id}",
    summary: "One version of a policy, with its source",
    reach: "zone",
    access: "read",
    params: VersionParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: PolicyVersionSchema,
  },
  listPolicySets: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policy-sets",
    summary: "The zone's policy sets",
    reach: "zone",
    access: "read",
    params: ZoneParamsSchema,
    query: PageQuerySchema,
    status: 200,
    response: pageOf(NamedSchema),
  },
  createPolicySet: {
    method: "POST",
    path: "/v1/zones/{zone_id}/policy-sets",
    summary: "Name a policy set; its members come with its versions",
    reach: "zone",
    access: "write",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    body: NewNamedSchema,
    status: 201,
    response: NamedSchema,
  },
  getPolicySet: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policy-sets/{id}",
    summary: "One policy set",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: NamedSchema,
  },
  updatePolicySet: {
    method: "PATCH",
    path: "/v1/zones/{zone_id}/policy-sets/{id}",
    summary: "Rename a policy set",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    body: NamedChangesSchema,
    status: 200,
    response: NamedSchema,
  },
  archivePolicySet: {
    method: "DELETE",
    path: "/v1/zones/{zone_id}/policy-sets/{id}",
    summary: "Archive a policy set that is not active",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 204,
  },
  listPolicySetVersions: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policy-sets/{id}/versions",
    summary: "The versions of a policy set",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: PageQuerySchema,
    status: 200,
    response: pageOf(PolicySetVersionSchema),
  },
  createPolicySetVersion: {
    method: "POST",
    path: "/v1/zones/{zone_id}/policy-sets/{id}/versions",
    summary: "Put policy versions together into a new, immutable version of a set",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    body: NewPolicySetVersionSchema,
    status: 201,
    response: PolicySetVersionSchema,
  },
  getPolicySetVersion: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policy-sets/{id}/versions/{version_id}",
    summary: "One version of a policy set",
    reach: "zone",
    access: "read",
    params: VersionParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: PolicySetVersionSchema,
  },
  activatePolicySet: {
    method: "POST",
    path: "/v1/zones/{zone_id}/policy-sets/{id}/activate",
    summary: "Make a version the one that decides in the zone; every STS picks it up from here on",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    body: ActivateSchema,
    status: 202,
    response: ActivationSchema,
  },
  getActivation: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policy-sets/{id}/activation",
    summary: "Whether this set is the active one, and in which version",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: ActivationStateSchema,
  },
} as const satisfies Record<string, ApiEndpoint>;
