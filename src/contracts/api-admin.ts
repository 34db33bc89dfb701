import * as v from "valibot";
import { isUuid } from "../kernel/ids.ts";
import type { ApiEndpoint } from "./api-access.ts";
import {
  IdSchema,
  NameSchema,
  NoParamsSchema,
  NoQuerySchema,
  pageFields,
  PageQuerySchema,
  pageOf,
  text,
  TimeSchema,
  ZoneParamsSchema,
} from "./api-fields.ts";
import { NewZoneSchema, ZoneSchema } from "./api-zones.ts";

const DAY_S = 86_400;
/** The longest life that a token can be given, in seconds; without `expires_in_s` it has no end. */
const MAX_EXPIRES_IN_S = 3650 * DAY_S;

const AccessSchema = v.picklist(["full", "read"]);

export const AdminTokenSchema = v.object({
  id: v.string(),
  /** null: global. */
  zone_id: v.nullable(v.string()),
  label: v.string(),
  access: AccessSchema,
  created_by: v.nullable(v.string()),
  created_at: TimeSchema,
  expires_at: v.nullable(TimeSchema),
  /** To the minute. */
  last_used_at: v.nullable(TimeSchema),
});
export type AdminToken = v.InferOutput<typeof AdminTokenSchema>;

/** `token` is shown in this answer and never again; it is not there where the caller brought it. */
const CreatedAdminTokenSchema = v.object({ ...AdminTokenSchema.entries, token: v.optional(v.string()) });
export type CreatedAdminToken = v.InferOutput<typeof CreatedAdminTokenSchema>;

const NewAdminTokenSchema = v.strictObject({
  label: NameSchema,
  /** Left out: the caller's own zone. A global token has to say it: a zone, or null for another global one. */
  zone_id: v.optional(v.nullable(IdSchema)),
  access: v.optional(AccessSchema, "full"),
  expires_in_s: v.optional(
    v.pipe(
      v.number(),
      v.integer("must be a whole number of seconds"),
      v.minValue(60, "must be at least 60 seconds"),
      v.maxValue(MAX_EXPIRES_IN_S, `must be at most ${MAX_EXPIRES_IN_S} seconds (10 years)`),
    ),
  ),
  /** A token of the operator's own making, such as from `openssl rand -base64 32`. */
  token: v.optional(v.pipe(v.string(), v.maxLength(512, "must have at most 512 characters"))),
});

const AdminTokenQuerySchema = v.strictObject({ ...pageFields(isUuid), zone_id: v.optional(IdSchema) });
export type AdminTokenQuery = v.InferOutput<typeof AdminTokenQuerySchema>;

/** Each by equality. */
const AdminAuditQuerySchema = v.strictObject({
  ...PageQuerySchema.entries,
  actor: v.optional(text(128)),
  action: v.optional(text(128)),
  object_id: v.optional(text(512)),
  request_id: v.optional(text(128)),
});
export type AdminAuditQuery = v.InferOutput<typeof AdminAuditQuerySchema>;

const TokenParamsSchema = v.strictObject({ id: IdSchema });

const BootstrappedSchema = v.object({ zone: ZoneSchema, admin_token: CreatedAdminTokenSchema });
export type Bootstrapped = v.InferOutput<typeof BootstrappedSchema>;

export const AdminAuditEntrySchema = v.object({
  id: v.string(),
  zone_id: v.nullable(v.string()),
  /** `admin_token:{id}`, `bootstrap`, or `cli`. */
  actor: v.string(),
  /** `{kind}.{verb}`, such as `application.create`. */
  action: v.string(),
  object_kind: v.string(),
  object_id: v.string(),
  request_id: v.string(),
  /** What was set, without secrets. */
  detail: v.record(v.string(), v.unknown()),
  occurred_at: TimeSchema,
});
export type AdminAuditEntry = v.InferOutput<typeof AdminAuditEntrySchema>;

export const adminEndpoints = {
  bootstrap: {
    method: "POST",
    path: "/v1/bootstrap",
    summary: "Make the first zone and its operational token, once, with the bootstrap token",
    reach: "bootstrap",
    access: "write",
    params: NoParamsSchema,
    query: NoQuerySchema,
    body: NewZoneSchema,
    status: 201,
    response: BootstrappedSchema,
  },
  listAdminTokens: {
    method: "GET",
    path: "/v1/admin-tokens",
    summary: "Admin tokens that are not revoked; a zone's token sees those of its zone",
    reach: "own",
    access: "read",
    params: NoParamsSchema,
    query: AdminTokenQuerySchema,
    status: 200,
    response: pageOf(AdminTokenSchema),
  },
  createAdminToken: {
    method: "POST",
    path: "/v1/admin-tokens",
    summary: "Make an admin token, or register one that you bring; it is shown once",
    reach: "own",
    access: "write",
    params: NoParamsSchema,
    query: NoQuerySchema,
    body: NewAdminTokenSchema,
    status: 201,
    response: CreatedAdminTokenSchema,
    shown_once: ["token"],
  },
  getAdminToken: {
    method: "GET",
    path: "/v1/admin-tokens/{id}",
    summary: "One admin token, without its secret",
    reach: "own",
    access: "read",
    params: TokenParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: AdminTokenSchema,
  },
  revokeAdminToken: {
    method: "DELETE",
    path: "/v1/admin-tokens/{id}",
    summary: "Revoke an admin token",
    reach: "own",
    access: "write",
    params: TokenParamsSchema,
    query: NoQuerySchema,
    status: 204,
  },
  listAdminAudit: {
    method: "GET",
    path: "/v1/admin-audit",
    summary: "Every change in every zone, newest first; a filtered page may be short and have others after it",
    reach: "global",
    access: "read",
    params: NoParamsSchema,
    query: AdminAuditQuerySchema,
    status: 200,
    response: pageOf(AdminAuditEntrySchema),
  },
  listZoneAdminAudit: {
    method: "GET",
    path: "/v1/zones/{zone_id}/admin-audit",
    summary: "Every change in the zone, newest first; a filtered page may be short and have others after it",
    reach: "zone",
    access: "read",
    archived_too: true,
    params: ZoneParamsSchema,
    query: AdminAuditQuerySchema,
    status: 200,
    response: pageOf(AdminAuditEntrySchema),
  },
} as const satisfies Record<string, ApiEndpoint>;
