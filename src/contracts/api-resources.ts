import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import { changesOf, IdSchema, NameSchema, PageQuerySchema, pageOf, ScopesSchema, TextsSchema } from "./api-fields.ts";
import { thingEndpoints, thingFields } from "./api-thing.ts";

/** An absolute URI without a fragment (RFC 8707, 2) that fits a header and a token's `aud`. */
const IdentifierSchema = v.pipe(
  v.string(),
  v.maxLength(512, "must have at most 512 characters"),
  v.regex(
    /^[a-z][a-z0-9+.-]*:(?!\/*$)[\x21\x24-\x2b\x2d-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e\x25]+$/,
    "must be an absolute URI without a fragment, such as resource://payments",
  ),
);

const isUpstreamUrl = (value: string): boolean => {
  if (!URL.canParse(value)) return false;
  const url = new URL(value);
  return url.protocol === "http:" || url.protocol === "https:";
};

/**
 * Where the Gateway forwards to. Credentials in it would be logged and sent by whoever follows it; a fragment is never
 * sent at all. What it resolves to is judged by the Gateway each time that it dials.
 */
const UpstreamUrlSchema = v.pipe(
  v.string(),
  v.maxLength(2048, "must have at most 2048 characters"),
  v.regex(/^[\x21-\x7e]+$/, "must be visible ASCII without spaces; encode other characters"),
  v.check(isUpstreamUrl, "must be an http or https URL, such as https://payments.example.com/mcp"),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const url = new URL(dataset.value);
    if (url.username !== "" || url.password !== "") {
      addIssue({ message: "must not contain a user name or password" });
      return NEVER;
    }
    if (dataset.value.includes("#")) {
      addIssue({ message: "must not contain a fragment (#…)" });
      return NEVER;
    }
    return url.href;
  }),
);

const DAY_MS = 86_400_000;
const GIB = 1024 ** 3;

/** Within the process's own maximum, which the Gateway knows; null: that maximum. */
const limit = (max: number) =>
  v.nullable(
    v.pipe(
      v.number(),
      v.integer("must be a whole number"),
      v.minValue(1, "must be at least 1"),
      v.maxValue(max, `must be at most ${max}`),
    ),
  );

const limits = {
  upstream_timeout_ms: limit(DAY_MS),
  stream_idle_timeout_ms: limit(DAY_MS),
  stream_max_ms: limit(DAY_MS),
  max_request_bytes: limit(GIB),
};

const CostSchema = v.pipe(
  v.number(),
  v.integer("must be a whole number"),
  v.minValue(0, "must be at least 0"),
  v.maxValue(1_000_000, "must be at most 1000000"),
);

export const ResourceSchema = v.object({
  ...thingFields,
  identifier: v.string(),
  name: v.string(),
  upstream_url: v.string(),
  scopes: TextsSchema,
  /** The application that is this resource's server, where it is one. */
  application_id: v.nullable(v.string()),
  /** Where the upstream's own credential comes from; null: the mandate is what the upstream takes. */
  provider_id: v.nullable(v.string()),
  /** What an exchange costs of a delegation's `cost_budget`. */
  cost_units: v.number(),
  upstream_timeout_ms: v.nullable(v.number()),
  stream_idle_timeout_ms: v.nullable(v.number()),
  stream_max_ms: v.nullable(v.number()),
  max_request_bytes: v.nullable(v.number()),
  /** Whether the upstream is told who calls, in `X-Caracal-Identity`. */
  identity_header: v.boolean(),
  /** Whether cookies pass by the header form. */
  cookies: v.boolean(),
});
export type Resource = v.InferOutput<typeof ResourceSchema>;

const NewResourceSchema = v.strictObject({
  identifier: IdentifierSchema,
  name: NameSchema,
  upstream_url: UpstreamUrlSchema,
  scopes: v.optional(ScopesSchema, []),
  application_id: v.optional(v.nullable(IdSchema), null),
  provider_id: v.optional(v.nullable(IdSchema), null),
  cost_units: v.optional(CostSchema, 0),
  ...v.partial(v.strictObject(limits)).entries,
  identity_header: v.optional(v.boolean(), false),
  cookies: v.optional(v.boolean(), false),
});

const ResourceChangesSchema = changesOf({
  identifier: IdentifierSchema,
  name: NameSchema,
  upstream_url: UpstreamUrlSchema,
  scopes: ScopesSchema,
  application_id: v.nullable(IdSchema),
  provider_id: v.nullable(IdSchema),
  cost_units: CostSchema,
  ...limits,
  identity_header: v.boolean(),
  cookies: v.boolean(),
});

const ResourceQuerySchema = v.strictObject({
  ...PageQuerySchema.entries,
  identifier: v.optional(IdentifierSchema),
  application_id: v.optional(IdSchema),
  provider_id: v.optional(IdSchema),
});

const thing = thingEndpoints({
  path: "resources",
  one: "resource",
  many: "resources",
  makes: "Protect an upstream as a resource",
  archives: "Archive a resource: no mandate is made for it any more",
  item: ResourceSchema,
  made: ResourceSchema,
  page: pageOf(ResourceSchema),
  query: ResourceQuerySchema,
  fresh: NewResourceSchema,
  changes: ResourceChangesSchema,
});

export const resourceEndpoints = {
  listResources: thing.list,
  createResource: thing.create,
  getResource: thing.get,
  updateResource: thing.update,
  archiveResource: thing.archive,
} as const satisfies Record<string, ApiEndpoint>;
