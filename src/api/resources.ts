import { type Announcement, configChanged } from "../authority/change.ts";
import type { resourceEndpoints } from "../contracts/api-resources.ts";
import { mayReceive } from "../domain/allowed-hosts.ts";
import { unusable } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { clearCredentials } from "./store/grants.ts";
import { type Fields, lockThing, updateThing } from "./store/things.ts";
import { type ThingRules, thingVerbs } from "./things.ts";

const originOf = (url: unknown): string => new URL(String(url)).origin;

/**
 * A provider's credential goes to the provider's `allowed_hosts` alone. A resource that moves to another origin, or takes
 * another provider, leaves the secrets behind that would now go there: whoever stole a zone's token gets none of them.
 */
const withProvider: ThingRules<"resource"> = {
  write: async (tx, { zone_id, id, before, fields }) => {
    const all: Fields = { ...before, ...fields };
    const provider_id = all["provider_id"];
    const moved = before !== undefined && originOf(before.upstream_url) !== originOf(all["upstream_url"]);
    const announce: Announcement[] = [];
    const detail: Record<string, unknown> = {};
    if (typeof provider_id === "string") {
      const provider = await lockThing(tx, "provider", zone_id, provider_id);
      if (!mayReceive(provider?.allowed_hosts ?? [], String(all["upstream_url"]))) {
        throw unusable("upstream_url", "has a host that is not among the provider's allowed_hosts");
      }
      if (moved && provider !== undefined && provider.secret_config_keys.length > 0) {
        const cleared = { sealed_client_secret: null, sealed_api_key: null };
        await updateThing(tx, "provider", zone_id, provider_id, cleared);
        announce.push(configChanged("provider", zone_id, provider_id));
        detail["provider_secrets_cleared"] = provider.secret_config_keys;
      }
    }
    if (moved || (before !== undefined && before.provider_id !== (provider_id ?? null))) {
      const cleared = await clearCredentials(tx, zone_id, id);
      if (cleared > 0) detail["grant_credentials_cleared"] = cleared;
    }
    return { columns: fields, announce, detail };
  },
};

export const resourceVerbs = (parts: Parts): Pick<ControlPlane, keyof typeof resourceEndpoints> => {
  const resources = thingVerbs(parts, "resource", withProvider);
  return {
    listResources: resources.list,
    createResource: resources.create,
    getResource: resources.get,
    updateResource: resources.update,
    archiveResource: resources.archive,
  };
};
