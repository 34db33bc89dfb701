import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import { NoQuerySchema, TimeSchema, ZoneParamsSchema } from "./api-fields.ts";

const KeySchema = v.object({ kid: v.string(), created_at: TimeSchema, signs_from: TimeSchema });
export type ZoneKeyShown = v.InferOutput<typeof KeySchema>;

const RotateSchema = v.strictObject({
  /** For a stolen key: the others end now, with every token that they signed. */
  force: v.optional(v.boolean(), false),
});

const RotatedSchema = v.object({
  ...KeySchema.entries,
  /** Keys that are published no more, and how many living sessions hold tokens of them. */
  ended: v.object({ kids: v.array(v.string()), sessions: v.number() }),
});

export const keyEndpoints = {
  listKeys: {
    method: "GET",
    path: "/v1/zones/{zone_id}/keys",
    summary: "The zone's signing keys, newest first",
    reach: "zone",
    access: "read",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: v.object({ items: v.array(KeySchema) }),
  },
  rotateKeys: {
    method: "POST",
    path: "/v1/zones/{zone_id}/keys/rotate",
    summary: "Make a new signing key; it is published at once and signs when every cache can know it",
    reach: "zone",
    access: "write",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    body: RotateSchema,
    status: 201,
    response: RotatedSchema,
  },
} as const satisfies Record<string, ApiEndpoint>;
