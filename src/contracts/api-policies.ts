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
} from "./api-fields.ts";
import { thingEndpoints, thingFields } from "./api-thing.ts";

/** The most members of a policy set. */
export const MAX_SET_ENTRIES = 256;
const MAX_SOURCE_CHARACTERS = 64 * 1024;

const NamedSchema = v.object({ ...thingFields, name: v.string() });
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

const NamedQuerySchema = v.strictObject({ ...PageQuerySchema.entries, name: v.optional(NameSchema) });

const policy = thingEndpoints({
  path: "policies",
  one: "policy",
  many: "policies",
  makes: "Name a policy; its source comes with its versions",
  archives: "Archive a policy that is not part of the active set",
  item: NamedSchema,
  made: NamedSchema,
  page: pageOf(NamedSchema),
  query: NamedQuerySchema,
  fresh: NewNamedSchema,
  changes: NamedChangesSchema,
});

const policySet = thingEndpoints({
  path: "policy-sets",
  one: "policy set",
  many: "policy sets",
  makes: "Name a policy set; its members come with its versions",
  archives: "Archive a policy set that is not active",
  item: NamedSchema,
  made: NamedSchema,
  page: pageOf(NamedSchema),
  query: NamedQuerySchema,
  fresh: NewNamedSchema,
  changes: NamedChangesSchema,
});

export const policyEndpoints = {
  listPolicies: policy.list,
  createPolicy: policy.create,
  getPolicy: policy.get,
  updatePolicy: policy.update,
  archivePolicy: policy.archive,
  listPolicySets: policySet.list,
  createPolicySet: policySet.create,
  getPolicySet: policySet.get,
  updatePolicySet: policySet.update,
  archivePolicySet: policySet.archive,
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
