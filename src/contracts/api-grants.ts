import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import {
  changesOf,
  IdSchema,
  MomentSchema,
  NoQuerySchema,
  PageQuerySchema,
  pageOf,
  ScopesSchema,
  text,
  TextsSchema,
  TimeSchema,
  ZoneItemParamsSchema,
} from "./api-fields.ts";
import { BroughtSecretSchema } from "./api-outward.ts";
import { thingEndpoints, thingFields } from "./api-thing.ts";

export const GrantSchema = v.object({
  ...thingFields,
  application_id: v.string(),
  /** `{issuer_id}|{sub}`, as tokens have it. */
  subject: v.string(),
  resource_id: v.string(),
  scopes: TextsSchema,
  /** Which parts of the user's credential rest here; none is ever shown. */
  credential_keys: TextsSchema,
  credential_expires_at: v.nullable(TimeSchema),
});
export type Grant = v.InferOutput<typeof GrantSchema>;

const SubjectSchema = text(512);

const CredentialSchema = v.strictObject({
  access_token: BroughtSecretSchema,
  refresh_token: v.optional(v.nullable(BroughtSecretSchema), null),
  expires_at: v.optional(v.nullable(MomentSchema), null),
});

const thing = thingEndpoints({
  path: "grants",
  one: "grant",
  many: "grants",
  makes: "Let an application use a resource for a user",
  archives: "Revoke a grant, every mandate that was made from it, and forget its credential",
  item: GrantSchema,
  made: GrantSchema,
  page: pageOf(GrantSchema),
  query: v.strictObject({
    ...PageQuerySchema.entries,
    application_id: v.optional(IdSchema),
    resource_id: v.optional(IdSchema),
    subject: v.optional(SubjectSchema),
  }),
  fresh: v.strictObject({
    application_id: IdSchema,
    subject: SubjectSchema,
    resource_id: IdSchema,
    scopes: ScopesSchema,
  }),
  changes: changesOf({ scopes: ScopesSchema }),
});

export const grantEndpoints = {
  listGrants: thing.list,
  createGrant: thing.create,
  getGrant: thing.get,
  updateGrant: thing.update,
  archiveGrant: thing.archive,
  putGrantCredential: {
    method: "PUT",
    path: "/v1/zones/{zone_id}/grants/{id}/credential",
    summary: "Bring in the user's own credential for the grant's resource; it is sealed and never shown",
    reach: "zone",
    access: "write",
    edits: true,
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    body: CredentialSchema,
    status: 200,
    response: GrantSchema,
  },
} as const satisfies Record<string, ApiEndpoint>;
