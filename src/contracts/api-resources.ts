import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import {
  changesOf,
  IdSchema,
  NameSchema,
  NoQuerySchema,
  PageQuerySchema,
  pageOf,
  ScopesSchema,
  TextsSchema,
  TimeSchema,
  ZoneItemParamsSchema,
  ZoneParamsSchema,
} from "./api-fields.ts";

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
  id: v.string(),
  zone_id: v.string(),
  identifier: v.string(),
  name: v.string(),
  upstream_url: v.string(),
  scopes: TextsSchema,
  /** The application that is this resource's server, where it is one. */
  application_id: v.nullable(v.string()),
  created_at: TimeSchema,
  updated_at: TimeSchema,
});
export type Resource = v.InferOutput<typeof ResourceSchema>;

const NewResourceSchema = v.strictObject({
  identifier: IdentifierSchema,
  name: NameSchema,
  upstream_url: UpstreamUrlSchema,
  scopes: v.optional(ScopesSchema, []),
  application_id: v.optional(v.nullable(IdSchema), null),
});
export type NewResource = v.InferOutput<typeof NewResourceSchema>;

const ResourceChangesSchema = changesOf({
  identifier: IdentifierSchema,
  name: NameSchema,
  upstream_url: UpstreamUrlSchema,
  scopes: ScopesSchema,
  application_id: v.nullable(IdSchema),
});
export type ResourceChanges = v.InferOutput<typeof ResourceChangesSchema>;

export const resourceEndpoints = {
  listResources: {
    method: "GET",
    path: "/v1/zones/{zone_id}/resources",
    summary: "The zone's resources",
    reach: "zone",
    access: "read",
    params: ZoneParamsSchema,
    query: PageQuerySchema,
    status: 200,
    response: pageOf(ResourceSchema),
  },
  createResource: {
    method: "POST",
    path: "/v1/zones/{zone_id}/resources",
    summary: "Protect an upstream as a resource",
    reach: "zone",
    access: "write",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    body: NewResourceSchema,
    status: 201,
    response: ResourceSchema,
  },
  getResource: {
    method: "GET",
    path: "/v1/zones/{zone_id}/resources/{id}",
    summary: "One resource",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: ResourceSchema,
  },
  updateResource: {
    method: "PATCH",
    path: "/v1/zones/{zone_id}/resources/{id}",
    summary: "Change a resource",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    body: ResourceChangesSchema,
    status: 200,
    response: ResourceSchema,
  },
  archiveResource: {
    method: "DELETE",
    path: "/v1/zones/{zone_id}/resources/{id}",
    summary: "Archive a resource: no mandate is made for it any more",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 204,
  },
} as const satisfies Record<string, ApiEndpoint>;
