import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import {
  changesOf,
  NameSchema,
  NoParamsSchema,
  NoQuerySchema,
  PageQuerySchema,
  pageOf,
  TimeSchema,
  ZoneParamsSchema,
} from "./api-fields.ts";

const SlugSchema = v.pipe(
  v.string(),
  v.regex(
    /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/,
    "must be 1 to 63 of a-z, 0-9 and hyphens, and neither begin nor end with a hyphen",
  ),
);

export const ZoneSchema = v.object({
  id: v.string(),
  revision: v.number(),
  slug: v.string(),
  name: v.string(),
  created_at: TimeSchema,
  updated_at: TimeSchema,
});
export type Zone = v.InferOutput<typeof ZoneSchema>;

export const NewZoneSchema = v.strictObject({ slug: SlugSchema, name: NameSchema });
export type NewZone = v.InferOutput<typeof NewZoneSchema>;

const ZoneChangesSchema = changesOf({ slug: SlugSchema, name: NameSchema });

export const zoneEndpoints = {
  listZones: {
    method: "GET",
    path: "/v1/zones",
    summary: "The zones that this token may see",
    reach: "own",
    access: "read",
    params: NoParamsSchema,
    query: v.strictObject({ ...PageQuerySchema.entries, slug: v.optional(SlugSchema) }),
    status: 200,
    response: pageOf(ZoneSchema),
  },
  createZone: {
    method: "POST",
    path: "/v1/zones",
    summary: "Make a zone and its first signing key",
    reach: "global",
    access: "write",
    params: NoParamsSchema,
    query: NoQuerySchema,
    body: NewZoneSchema,
    status: 201,
    response: ZoneSchema,
  },
  getZone: {
    method: "GET",
    path: "/v1/zones/{zone_id}",
    summary: "One zone",
    reach: "zone",
    access: "read",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: ZoneSchema,
  },
  updateZone: {
    method: "PATCH",
    path: "/v1/zones/{zone_id}",
    summary: "Change a zone's slug or name",
    reach: "zone",
    access: "write",
    edits: true,
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    body: ZoneChangesSchema,
    status: 200,
    response: ZoneSchema,
  },
  archiveZone: {
    method: "DELETE",
    path: "/v1/zones/{zone_id}",
    summary: "Archive a zone, end its sessions and its admin tokens",
    reach: "zone",
    access: "write",
    edits: true,
    archived_too: true,
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    status: 204,
  },
} as const satisfies Record<string, ApiEndpoint>;
