import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import { changesOf, NameSchema, PageQuerySchema, pageOf, text } from "./api-fields.ts";
import { CalledUrlSchema, JwksSchema } from "./api-outward.ts";
import { thingEndpoints, thingFields } from "./api-thing.ts";

export const IssuerSchema = v.object({
  ...thingFields,
  name: v.string(),
  issuer_url: v.string(),
  audience: v.string(),
  /** Neither these nor `jwks_uri`: found by discovery. */
  jwks: v.nullable(v.looseObject({})),
  jwks_uri: v.nullable(v.string()),
});
export type Issuer = v.InferOutput<typeof IssuerSchema>;

const settings = {
  name: NameSchema,
  issuer_url: CalledUrlSchema,
  audience: text(2048),
  jwks: v.nullable(JwksSchema),
  jwks_uri: v.nullable(CalledUrlSchema),
};

const thing = thingEndpoints({
  path: "issuers",
  one: "issuer",
  many: "issuers",
  makes: "Trust an OpenID provider to name users or workloads",
  archives: "Archive an issuer that no application's workload comes from",
  item: IssuerSchema,
  made: IssuerSchema,
  page: pageOf(IssuerSchema),
  query: v.strictObject({
    ...PageQuerySchema.entries,
    name: v.optional(NameSchema),
    issuer_url: v.optional(CalledUrlSchema),
  }),
  fresh: v.strictObject({
    ...settings,
    jwks: v.optional(settings.jwks, null),
    jwks_uri: v.optional(settings.jwks_uri, null),
  }),
  changes: changesOf(settings),
});

export const issuerEndpoints = {
  listIssuers: thing.list,
  createIssuer: thing.create,
  getIssuer: thing.get,
  updateIssuer: thing.update,
  archiveIssuer: thing.archive,
} as const satisfies Record<string, ApiEndpoint>;
