import * as v from "valibot";
import { isUuid } from "../kernel/ids.ts";
import type { ApiEndpoint } from "./api-access.ts";
import {
  IdSchema,
  NoQuerySchema,
  pageFields,
  pageOf,
  text,
  TimeSchema,
  ZoneItemParamsSchema,
  ZoneParamsSchema,
} from "./api-fields.ts";

const SubjectSchema = text(512);

export const SessionSchema = v.object({
  id: v.string(),
  zone_id: v.string(),
  client_id: v.string(),
  subject: v.string(),
  sub_type: v.picklist(["user", "application"]),
  status: v.picklist(["active", "expired", "revoked"]),
  created_at: TimeSchema,
  expires_at: TimeSchema,
  revoked_at: v.nullable(TimeSchema),
});
export type Session = v.InferOutput<typeof SessionSchema>;

const SessionQuerySchema = v.strictObject({
  ...pageFields(isUuid),
  subject: v.optional(SubjectSchema),
  client_id: v.optional(IdSchema),
  status: v.optional(v.picklist(["active", "expired", "revoked"])),
});
export type SessionQuery = v.InferOutput<typeof SessionQuerySchema>;

const BySubjectSchema = v.strictObject({ subject: SubjectSchema });

/** How many sessions this call ended: those that had ended before are not counted. */
const RevokedSchema = v.object({ revoked: v.number() });
export type Revoked = v.InferOutput<typeof RevokedSchema>;

export const sessionEndpoints = {
  listSessions: {
    method: "GET",
    path: "/v1/zones/{zone_id}/sessions",
    summary: "The zone's sessions",
    reach: "zone",
    access: "read",
    params: ZoneParamsSchema,
    query: SessionQuerySchema,
    status: 200,
    response: pageOf(SessionSchema),
  },
  revokeSubject: {
    method: "POST",
    path: "/v1/zones/{zone_id}/sessions/revoke",
    summary: "End every session of a subject",
    reach: "zone",
    access: "write",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    body: BySubjectSchema,
    status: 200,
    response: RevokedSchema,
  },
  getSession: {
    method: "GET",
    path: "/v1/zones/{zone_id}/sessions/{id}",
    summary: "One session",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: SessionSchema,
  },
  revokeSession: {
    method: "POST",
    path: "/v1/zones/{zone_id}/sessions/{id}/revoke",
    summary: "End a session, every mandate that was made from it, and the streams that run on them",
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: RevokedSchema,
  },
} as const satisfies Record<string, ApiEndpoint>;
