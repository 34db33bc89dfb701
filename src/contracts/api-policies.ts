import * as v from "valibot";
import { MAX_POLICY_INPUT_BYTES } from "../domain/policy-input.ts";
import type { ApiEndpoint } from "./api-access.ts";
import {
  changesOf,
  IdSchema,
  list,
  NameSchema,
  NoParamsSchema,
  NoQuerySchema,
  PageQuerySchema,
  pageOf,
  text,
  TimeSchema,
  ZoneItemParamsSchema,
  ZoneParamsSchema,
} from "./api-fields.ts";
import { thingEndpoints, thingFields } from "./api-thing.ts";

/** The most members of a policy set. */
export const MAX_SET_ENTRIES = 256;
const MAX_SOURCE_CHARACTERS = 64 * 1024;
const MAX_TEST_INPUTS = 16;
/** The most decisions of the ledger that a simulation goes back. */
export const MAX_SIMULATED = 200;

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

/** A document that a policy is asked about, as the STS makes them. */
const PolicyInputSchema = v.pipe(
  v.looseObject({ principal: v.looseObject({ id: v.string() }) }),
  v.check(
    (input) => Buffer.byteLength(JSON.stringify(input)) <= MAX_POLICY_INPUT_BYTES,
    `must have at most ${MAX_POLICY_INPUT_BYTES} bytes as JSON`,
  ),
);

/** Rego v1 in `package caracal.authz`. `test_inputs`: documents to evaluate it on, to know what it costs. */
const NewPolicyVersionSchema = v.strictObject({
  source: text(MAX_SOURCE_CHARACTERS),
  test_inputs: v.optional(list(PolicyInputSchema, MAX_TEST_INPUTS)),
});

/** An evaluation of one version by itself: what it answered, and what it spent of `POLICY_BUDGET`. */
const CostSchema = v.object({
  /** As of a set of this one member: `complete`, or why not. */
  evaluation_status: v.string(),
  decision: v.picklist(["allow", "deny"]),
  units: v.number(),
});

/** `evaluations`: of the `test_inputs`, in their order. */
const MadePolicyVersionSchema = v.object({
  ...PolicyVersionSchema.entries,
  evaluations: v.optional(v.array(CostSchema)),
});

const TestPolicySchema = v.strictObject({ source: text(MAX_SOURCE_CHARACTERS), tests: text(MAX_SOURCE_CHARACTERS) });

const TestedPolicySchema = v.object({
  passed: v.number(),
  failed: v.number(),
  skipped: v.number(),
  tests: v.array(
    v.object({
      name: v.string(),
      result: v.picklist(["pass", "fail", "skip", "error"]),
      /** Where it stands in `tests`. */
      row: v.optional(v.number()),
      message: v.optional(v.string()),
    }),
  ),
});

const TemplateSchema = v.object({
  name: v.string(),
  summary: v.string(),
  source: v.string(),
  source_sha256: v.string(),
});

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

/** The revision of an activation where nothing is active. */
export const NO_ACTIVATION = "none";

/**
 * What decides in the zone, in one word: the id of the version, or `none`. It is the ETag of a zone's activation, so that
 * who activates with `If-Match` replaces what was seen and nothing else.
 */
const activationRevision = { revision: v.string() };

/** `allows_everything`: invented callers and resources were all allowed. `not_evaluated`: nobody could look. */
const ActivatedSchema = v.object({
  ...ActivationSchema.entries,
  ...activationRevision,
  warnings: v.array(v.object({ code: v.picklist(["allows_everything", "not_evaluated"]), message: v.string() })),
});
export type ActivationWarning = v.InferOutput<typeof ActivatedSchema>["warnings"][number];

/** One STS that lives, and the version that it has loaded for the zone. */
const ReplicaSchema = v.object({
  replica: v.string(),
  policy_set_id: v.string(),
  version_id: v.string(),
  since: TimeSchema,
  /** Whether this is what is active in the zone. */
  current: v.boolean(),
});
export type Replica = v.InferOutput<typeof ReplicaSchema>;

/**
 * `active` is null where another set is active in the zone, or none. `replicas`: every STS that has loaded the zone, with
 * whatever version it runs. One that is not there reads the active version when it is first asked.
 */
const ActivationStateSchema = v.object({
  ...activationRevision,
  active: v.nullable(ActivationSchema),
  replicas: v.array(ReplicaSchema),
});

const SimulateSchema = v.pipe(
  v.strictObject({
    version_id: IdSchema,
    input: v.optional(PolicyInputSchema),
    last: v.optional(
      v.pipe(
        v.number(),
        v.integer("must be a whole number"),
        v.minValue(1, "must be at least 1"),
        v.maxValue(MAX_SIMULATED, `must be at most ${MAX_SIMULATED}`),
      ),
    ),
  }),
  v.check(({ input, last }) => (input === undefined) !== (last === undefined), "must have either input or last"),
);

const VerdictSchema = v.object({
  decision: v.picklist(["allow", "deny"]),
  evaluation_status: v.string(),
  determining_policies: v.array(v.unknown()),
  diagnostics: v.array(v.unknown()),
  units: v.number(),
});

/** What one question came to. `event_id`, `occurred_at`, `recorded`: of the ledger's event, where it came from there. */
const SimulatedSchema = v.object({
  event_id: v.optional(v.string()),
  occurred_at: v.optional(v.string()),
  recorded: v.optional(v.string()),
  change: v.picklist(["none", "allow_to_deny", "deny_to_allow"]),
  /** By what is active now. */
  by_active: VerdictSchema,
  /** By the version. */
  by_version: VerdictSchema,
});

/**
 * `results`: of an input the only one; of the ledger those that would change, newest first. `examined` questions were asked of
 * both; `without_input` events had none to ask; `complete` is false where time or units were spent before the last.
 */
const SimulationSchema = v.object({
  examined: v.number(),
  without_input: v.number(),
  complete: v.boolean(),
  allow_to_deny: v.number(),
  deny_to_allow: v.number(),
  results: v.array(SimulatedSchema),
});
export type Simulation = v.InferOutput<typeof SimulationSchema>;
export type Simulated = v.InferOutput<typeof SimulatedSchema>;

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
  listPolicyTemplates: {
    method: "GET",
    path: "/v1/policy-templates",
    summary: "Policies for the common cases, to begin with; none of them needs a compiler as it is",
    reach: "own",
    access: "read",
    params: NoParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: v.object({ items: v.array(TemplateSchema) }),
  },
  testPolicy: {
    method: "POST",
    path: "/v1/zones/{zone_id}/policies/test",
    summary: "Run a source's unit tests, as opa test does; nothing is kept",
    reach: "zone",
    access: "write",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    body: TestPolicySchema,
    status: 200,
    response: TestedPolicySchema,
  },
  simulatePolicySet: {
    method: "POST",
    path: "/v1/zones/{zone_id}/policy-sets/{id}/simulate",
    summary: "What would change if a version were activated: on one input, or on the ledger's last decisions",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    body: SimulateSchema,
    status: 200,
    response: SimulationSchema,
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
    response: MadePolicyVersionSchema,
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
    edits: true,
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    body: ActivateSchema,
    status: 202,
    response: ActivatedSchema,
  },
  getActivation: {
    method: "GET",
    path: "/v1/zones/{zone_id}/policy-sets/{id}/activation",
    summary: "Whether this set is the active one, in which version, and which STS runs it since when",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: ActivationStateSchema,
  },
} as const satisfies Record<string, ApiEndpoint>;
