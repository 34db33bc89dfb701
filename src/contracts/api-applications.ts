import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import {
  changesOf,
  IdSchema,
  list,
  NameSchema,
  PageQuerySchema,
  pageOf,
  ScopesSchema,
  text,
  TextsSchema,
  TimeSchema,
  ZoneItemParamsSchema,
} from "./api-fields.ts";
import { CalledUrlSchema, JwksSchema } from "./api-outward.ts";
import { thingEndpoints, thingFields } from "./api-thing.ts";

const MAX_TRAITS = 64;

/** What a policy may ask about an application: `team:payments`, `trusted`. */
const TraitsSchema = v.pipe(
  list(
    v.pipe(
      v.string(),
      v.regex(
        /^[A-Za-z0-9][A-Za-z0-9:_./-]{0,127}$/,
        "must be 1 to 128 of A-Z, a-z, 0-9 and :_./- and begin with a letter or digit",
      ),
    ),
    MAX_TRAITS,
  ),
  v.check((traits) => new Set(traits).size === traits.length, "must name each trait once"),
);

const RateLimitSchema = v.nullable(
  v.pipe(
    v.number(),
    v.integer("must be a whole number"),
    v.minValue(1, "must be at least 1"),
    v.maxValue(1_000_000, "must be at most 1000000"),
  ),
);

/** How an application may prove who it is. */
const CredentialTypesSchema = v.pipe(
  list(v.picklist(["client_secret", "private_key_jwt", "workload"]), 3),
  v.check((types) => new Set(types).size === types.length, "must name each type once"),
);

/**
 * What a workload's token must say beside its issuer: `sub` at least, or every workload of the issuer would be this one. A
 * value that ends in `*` is the beginning of the claim's.
 */
const WorkloadClaimsSchema = v.pipe(
  v.record(v.pipe(v.string(), v.regex(/^[A-Za-z0-9_.:/-]{1,128}$/, "must be a claim's name")), text(1024)),
  v.check((claims) => Object.hasOwn(claims, "sub"), "must name a sub"),
  v.check((claims) => !Object.values(claims).includes("*"), "must not hold a lone *: it would say nothing of a claim"),
  v.check((claims) => Object.keys(claims).length <= 16, "must have at most 16 claims"),
);

const KindSchema = v.picklist(["confidential", "public"]);

export const ApplicationSchema = v.object({
  ...thingFields,
  name: v.string(),
  kind: KindSchema,
  scopes: TextsSchema,
  traits: TextsSchema,
  /** null: the deployment's limit. */
  rate_limit_per_minute: v.nullable(v.number()),
  credential_types: TextsSchema,
  jwks: v.nullable(v.looseObject({})),
  jwks_uri: v.nullable(v.string()),
  /** The issuer of the workload's tokens, and what they must say. */
  workload_issuer_id: v.nullable(v.string()),
  workload_claims: v.nullable(v.record(v.string(), v.string())),
  /** It may take mandates that are not bound to a call's method and path. */
  unbound_mandates: v.boolean(),
  /** Which initial access token registered it; null: an admin did. */
  registration_token_id: v.nullable(v.string()),
  /** Until then the secret before the present one opens as well. */
  previous_secret_expires_at: v.nullable(TimeSchema),
});
export type Application = v.InferOutput<typeof ApplicationSchema>;

/** `client_secret` is shown in this answer and never again; a public application has none. */
const CreatedApplicationSchema = v.object({ ...ApplicationSchema.entries, client_secret: v.optional(v.string()) });
export type CreatedApplication = v.InferOutput<typeof CreatedApplicationSchema>;

const credentials = {
  credential_types: CredentialTypesSchema,
  jwks: v.nullable(JwksSchema),
  jwks_uri: v.nullable(CalledUrlSchema),
  workload_issuer_id: v.nullable(IdSchema),
  workload_claims: v.nullable(WorkloadClaimsSchema),
  unbound_mandates: v.boolean(),
};

const NewApplicationSchema = v.strictObject({
  name: NameSchema,
  kind: v.optional(KindSchema, "confidential"),
  scopes: v.optional(ScopesSchema, []),
  traits: v.optional(TraitsSchema, []),
  rate_limit_per_minute: v.optional(RateLimitSchema, null),
  ...v.partial(v.strictObject(credentials)).entries,
});

const ApplicationChangesSchema = changesOf({
  name: NameSchema,
  scopes: ScopesSchema,
  traits: TraitsSchema,
  rate_limit_per_minute: RateLimitSchema,
  ...credentials,
});

const NewSecretSchema = v.object({
  id: v.string(),
  client_secret: v.string(),
  previous_secret_expires_at: v.nullable(TimeSchema),
});

const WEEK_S = 604_800;

const NewSecretQuerySchema = v.strictObject({
  /** How long the old secret still opens, so that every replica of a client can be given the new one. */
  keep_old_s: v.optional(
    v.pipe(
      v.string(),
      v.regex(/^[0-9]{1,6}$/, "must be a whole number of seconds"),
      v.transform(Number),
      v.maxValue(WEEK_S, `must be at most ${WEEK_S} seconds (a week)`),
    ),
    "0",
  ),
});

const ApplicationQuerySchema = v.strictObject({
  ...PageQuerySchema.entries,
  name: v.optional(NameSchema),
  kind: v.optional(KindSchema),
});

const thing = thingEndpoints({
  path: "applications",
  one: "application",
  many: "applications",
  makes: "Register an application; its secret is shown once",
  archives: "Archive an application and end its sessions",
  item: ApplicationSchema,
  made: CreatedApplicationSchema,
  page: pageOf(ApplicationSchema),
  query: ApplicationQuerySchema,
  fresh: NewApplicationSchema,
  changes: ApplicationChangesSchema,
});

export const applicationEndpoints = {
  listApplications: thing.list,
  createApplication: { ...thing.create, shown_once: ["client_secret"] },
  getApplication: thing.get,
  updateApplication: thing.update,
  archiveApplication: thing.archive,
  replaceSecret: {
    method: "POST",
    path: "/v1/zones/{zone_id}/applications/{id}/secret",
    summary:
      "Replace an application's secret; the new one is shown once, the old one works for keep_old_s seconds more",
    reach: "zone",
    access: "write",
    edits: true,
    params: ZoneItemParamsSchema,
    query: NewSecretQuerySchema,
    status: 200,
    response: NewSecretSchema,
  },
} as const satisfies Record<string, ApiEndpoint>;
