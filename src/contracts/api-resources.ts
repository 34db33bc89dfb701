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

export const ResourceSchema = v.object({
  ...thingFields,
  identifier: v.string(),
  name: v.string(),
  upstream_url: v.string(),
  scopes: TextsSchema,
  /** The application that is this resource's server, where it is one. */
  application_id: v.nullable(v.string()),
});
export type Resource = v.InferOutput<typeof ResourceSchema>;

const NewResourceSchema = v.strictObject({
  identifier: IdentifierSchema,
  name: NameSchema,
  upstream_url: UpstreamUrlSchema,
  scopes: v.optional(ScopesSchema, []),
  application_id: v.optional(v.nullable(IdSchema), null),
});

const ResourceChangesSchema = changesOf({
  identifier: IdentifierSchema,
  name: NameSchema,
  upstream_url: UpstreamUrlSchema,
  scopes: ScopesSchema,
  application_id: v.nullable(IdSchema),
});

const ResourceQuerySchema = v.strictObject({
  ...PageQuerySchema.entries,
  identifier: v.optional(IdentifierSchema),
  application_id: v.optional(IdSchema),
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
