import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import {
  changesOf,
  list,
  NameSchema,
  NoQuerySchema,
  PageQuerySchema,
  pageOf,
  ScopesSchema,
  TextsSchema,
  ZoneItemParamsSchema,
} from "./api-fields.ts";
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

const KindSchema = v.picklist(["confidential", "public"]);

export const ApplicationSchema = v.object({
  ...thingFields,
  name: v.string(),
  kind: KindSchema,
  scopes: TextsSchema,
  traits: TextsSchema,
  /** null: the deployment's limit. */
  rate_limit_per_minute: v.nullable(v.number()),
});
export type Application = v.InferOutput<typeof ApplicationSchema>;

/** `client_secret` is shown in this answer and never again; a public application has none. */
const CreatedApplicationSchema = v.object({ ...ApplicationSchema.entries, client_secret: v.optional(v.string()) });
export type CreatedApplication = v.InferOutput<typeof CreatedApplicationSchema>;

const NewApplicationSchema = v.strictObject({
  name: NameSchema,
  kind: v.optional(KindSchema, "confidential"),
  scopes: v.optional(ScopesSchema, []),
  traits: v.optional(TraitsSchema, []),
  rate_limit_per_minute: v.optional(RateLimitSchema, null),
});

const ApplicationChangesSchema = changesOf({
  name: NameSchema,
  scopes: ScopesSchema,
  traits: TraitsSchema,
  rate_limit_per_minute: RateLimitSchema,
});

const NewSecretSchema = v.object({ id: v.string(), client_secret: v.string() });

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
    summary: "Replace an application's secret; the old one stops working, the new one is shown once",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: NewSecretSchema,
  },
} as const satisfies Record<string, ApiEndpoint>;
