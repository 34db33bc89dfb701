import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import { changesOf, NameSchema, PageQuerySchema, pageOf, ScopesSchema, text, TextsSchema } from "./api-fields.ts";
import {
  AllowedHostsSchema,
  BroughtSecretSchema,
  CalledUrlSchema,
  CredentialHeaderSchema,
  CredentialSchemeSchema,
} from "./api-outward.ts";
import { thingEndpoints, thingFields } from "./api-thing.ts";

const KindSchema = v.picklist(["oauth2", "oidc", "apikey", "workload"]);
export type ProviderKind = v.InferOutput<typeof KindSchema>;

const OrNull = v.nullable(v.string());

export const ProviderSchema = v.object({
  ...thingFields,
  name: v.string(),
  kind: KindSchema,
  client_id: OrNull,
  token_url: OrNull,
  authorization_url: OrNull,
  issuer_url: OrNull,
  audience: OrNull,
  scopes: TextsSchema,
  /** Where a credential of this provider may go, and nowhere else. */
  allowed_hosts: TextsSchema,
  auth_header: v.string(),
  auth_scheme: OrNull,
  /** Which secrets rest here; none is ever shown. */
  secret_config_keys: TextsSchema,
});
export type Provider = v.InferOutput<typeof ProviderSchema>;

const settings = {
  client_id: v.nullable(text(512)),
  token_url: v.nullable(CalledUrlSchema),
  authorization_url: v.nullable(CalledUrlSchema),
  issuer_url: v.nullable(CalledUrlSchema),
  audience: v.nullable(text(2048)),
  scopes: ScopesSchema,
  allowed_hosts: AllowedHostsSchema,
  auth_header: CredentialHeaderSchema,
  auth_scheme: CredentialSchemeSchema,
  client_secret: v.nullable(BroughtSecretSchema),
  api_key: v.nullable(BroughtSecretSchema),
};

const NewProviderSchema = v.strictObject({
  name: NameSchema,
  kind: KindSchema,
  ...v.partial(v.strictObject(settings)).entries,
  allowed_hosts: AllowedHostsSchema,
  auth_header: v.optional(CredentialHeaderSchema, "Authorization"),
  auth_scheme: v.optional(CredentialSchemeSchema, "Bearer"),
});

const ProviderChangesSchema = changesOf({ name: NameSchema, ...settings });

const thing = thingEndpoints({
  path: "providers",
  one: "provider",
  many: "providers",
  makes: "Tell where an upstream's own credential comes from; its secrets are sealed and never shown",
  archives: "Archive a provider that no resource uses",
  item: ProviderSchema,
  made: ProviderSchema,
  page: pageOf(ProviderSchema),
  query: v.strictObject({ ...PageQuerySchema.entries, name: v.optional(NameSchema), kind: v.optional(KindSchema) }),
  fresh: NewProviderSchema,
  changes: ProviderChangesSchema,
});

export const providerEndpoints = {
  listProviders: thing.list,
  createProvider: thing.create,
  getProvider: thing.get,
  updateProvider: thing.update,
  archiveProvider: thing.archive,
} as const satisfies Record<string, ApiEndpoint>;
