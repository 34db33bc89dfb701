import * as v from "valibot";
import { isPlatformScope, parseScope } from "../domain/scopes.ts";
import type { ApiEndpoint } from "./api-access.ts";
import {
  changesOf,
  list,
  NameSchema,
  NoQuerySchema,
  PageQuerySchema,
  pageOf,
  ScopesSchema,
  text,
  TextsSchema,
  TimeSchema,
  ZoneParamsSchema,
} from "./api-fields.ts";
import { CalledUrlSchema, JwksSchema } from "./api-outward.ts";
import { thingEndpoints, thingFields } from "./api-thing.ts";

const MONTH_S = 30 * 86_400;

export const RegistrationTokenSchema = v.object({
  ...thingFields,
  name: v.string(),
  /** The most that a client may have that is registered with it. */
  scopes: TextsSchema,
  expires_at: TimeSchema,
});
export type RegistrationToken = v.InferOutput<typeof RegistrationTokenSchema>;

/** Who registers itself is a stranger to the platform: it gets no say over other agents. */
const StrangersScopesSchema = v.pipe(
  ScopesSchema,
  v.check((scopes) => !scopes.some(isPlatformScope), "must not hold scopes of the platform (coordinator.*)"),
);

const thing = thingEndpoints({
  path: "registration-tokens",
  one: "registration token",
  many: "registration tokens",
  makes: "Make an initial access token, with which clients register themselves; it is shown once",
  archives: "Revoke an initial access token; the clients that it registered stay",
  item: RegistrationTokenSchema,
  made: v.object({ ...RegistrationTokenSchema.entries, token: v.optional(v.string()) }),
  page: pageOf(RegistrationTokenSchema),
  query: PageQuerySchema,
  fresh: v.strictObject({
    name: NameSchema,
    scopes: v.optional(StrangersScopesSchema, []),
    expires_in_s: v.pipe(
      v.number(),
      v.integer("must be a whole number of seconds"),
      v.minValue(60, "must be at least 60 seconds"),
      v.maxValue(MONTH_S, `must be at most ${MONTH_S} seconds (30 days)`),
    ),
  }),
  changes: changesOf({ name: NameSchema, scopes: StrangersScopesSchema }),
});

const AuthMethodSchema = v.picklist(["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]);

const isRedirectUri = (value: string): boolean => URL.canParse(value) && !value.includes("#");

/** RFC 7591, 2. What is not known here is ignored, as it says; the answer tells what was registered. */
const ClientMetadataSchema = v.object({
  client_name: NameSchema,
  token_endpoint_auth_method: v.optional(AuthMethodSchema, "client_secret_basic"),
  scope: v.optional(
    v.pipe(
      text(4096),
      v.check((scope) => parseScope(scope) !== undefined, "must be scopes with a space between two"),
    ),
  ),
  jwks: v.optional(JwksSchema),
  jwks_uri: v.optional(CalledUrlSchema),
  /** Judged as the RFC says and not kept: no grant that is given here leads back to an address. */
  redirect_uris: v.optional(
    list(v.pipe(text(2048), v.check(isRedirectUri, "must be an absolute URI without a fragment")), 16),
  ),
});

/** RFC 7591, 3.2.1. `client_secret` is shown in this answer and never again. */
const RegisteredClientSchema = v.object({
  client_id: v.string(),
  client_secret: v.optional(v.string()),
  client_id_issued_at: v.number(),
  /** 0: it does not expire. */
  client_secret_expires_at: v.number(),
  client_name: v.string(),
  token_endpoint_auth_method: AuthMethodSchema,
  grant_types: TextsSchema,
  scope: v.string(),
});

export const registrationEndpoints = {
  listRegistrationTokens: thing.list,
  createRegistrationToken: { ...thing.create, shown_once: ["token"] },
  getRegistrationToken: thing.get,
  updateRegistrationToken: thing.update,
  archiveRegistrationToken: thing.archive,
  registerClient: {
    method: "POST",
    path: "/v1/zones/{zone_id}/applications/dcr",
    summary: "Register a client (RFC 7591) with an initial access token",
    reach: "registration",
    access: "write",
    params: ZoneParamsSchema,
    query: NoQuerySchema,
    body: ClientMetadataSchema,
    status: 201,
    response: RegisteredClientSchema,
    shown_once: ["client_secret"],
  },
} as const satisfies Record<string, ApiEndpoint>;
