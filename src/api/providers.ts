import type { providerEndpoints, ProviderKind } from "../contracts/api-providers.ts";
import { requireCallable } from "./callable.ts";
import { unusable } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { withSealed } from "./sealed.ts";
import type { Fields } from "./store/things.ts";
import { thingVerbs } from "./things.ts";

const URLS = ["token_url", "authorization_url", "issuer_url"] as const;
const SECRETS = ["client_secret", "api_key"] as const;
/** Who changes one of these could have the secrets sent to himself, so they go. */
const DESTINATIONS = [...URLS, "allowed_hosts"] as const;

/** What a kind needs, and what else of these it may have. */
const KINDS: Readonly<Record<ProviderKind, { readonly needs: readonly string[]; readonly may: readonly string[] }>> = {
  oauth2: { needs: ["client_id", "token_url"], may: ["authorization_url", "audience", "client_secret"] },
  oidc: { needs: ["client_id", "issuer_url"], may: ["audience", "client_secret"] },
  apikey: { needs: [], may: ["api_key"] },
  workload: { needs: ["token_url"], may: ["client_id", "audience"] },
};
const KIND_FIELDS = [...URLS, ...SECRETS, "client_id", "audience"] as const;

const has = (fields: Fields, name: string): boolean => fields[name] !== null && fields[name] !== undefined;

const requireKind = (all: Fields): void => {
  const kind = all["kind"] as ProviderKind;
  const { needs, may } = KINDS[kind];
  for (const name of KIND_FIELDS) {
    if (needs.includes(name) && !has(all, name)) throw unusable(name, `is needed by a provider of the kind ${kind}`);
    if (has(all, name) && !needs.includes(name) && !may.includes(name)) {
      throw unusable(name, `is nothing that a provider of the kind ${kind} has`);
    }
  }
};

const differs = (a: unknown, b: unknown): boolean => JSON.stringify(a ?? null) !== JSON.stringify(b ?? null);

export const providerVerbs = (parts: Parts): Pick<ControlPlane, keyof typeof providerEndpoints> => {
  const { egress, kek } = parts;
  const providers = thingVerbs(parts, "provider", {
    write: async (_tx, { zone_id, id, before, fields }) => {
      requireKind({ ...before, ...fields });
      const moved = DESTINATIONS.some((name) => Object.hasOwn(fields, name) && differs(fields[name], before?.[name]));
      const cleared =
        moved && before !== undefined ? before.secret_config_keys.filter((name) => !has(fields, name)) : [];
      const nulls = Object.fromEntries(cleared.map((name) => [name, null]));
      const columns = withSealed(kek, { table: "providers", zone_id, row: id }, { ...fields, ...nulls }, SECRETS);
      const set = SECRETS.filter((name) => has(fields, name));
      return { columns, detail: { secrets_set: set, secrets_cleared: cleared } };
    },
  });
  return {
    listProviders: providers.list,
    createProvider: async (call) => {
      await requireCallable(egress, call.params.zone_id, call.body, URLS);
      return providers.create(call);
    },
    getProvider: providers.get,
    updateProvider: async (call) => {
      await requireCallable(egress, call.params.zone_id, call.body, URLS);
      return providers.update(call);
    },
    archiveProvider: providers.archive,
  };
};
