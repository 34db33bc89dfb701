import type { grantEndpoints } from "../contracts/api-grants.ts";
import { isSubset } from "../domain/scopes.ts";
import { unusable } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { withSealed } from "./sealed.ts";
import { revokeGrant } from "./store/grants.ts";
import { findThing } from "./store/things.ts";
import { changeThing, retireThing, thingVerbs, type ThingRules } from "./things.ts";

const SECRETS = ["access_token", "refresh_token"] as const;

const scopesOfResource: ThingRules<"grant"> = {
  write: async (tx, { zone_id, before, fields }) => {
    const resource_id = before?.resource_id ?? String(fields["resource_id"]);
    const resource = await findThing(tx, "resource", zone_id, resource_id);
    if (!isSubset((fields["scopes"] ?? []) as readonly string[], resource?.scopes ?? [])) {
      throw unusable("scopes", "must be among the resource's scopes");
    }
    return { columns: fields };
  },
};

export const grantVerbs = (parts: Parts): Pick<ControlPlane, keyof typeof grantEndpoints> => {
  const { change, kek } = parts;
  const grants = thingVerbs(parts, "grant", scopesOfResource);
  const credential: ThingRules<"grant"> = {
    write: async (_tx, { zone_id, id, fields }) => ({
      columns: withSealed(kek, { table: "grants", zone_id, row: id }, fields, SECRETS),
      detail: { secrets_set: SECRETS.filter((name) => typeof fields[name] === "string") },
    }),
  };
  return {
    listGrants: grants.list,
    createGrant: grants.create,
    getGrant: grants.get,
    updateGrant: grants.update,

    /** What was made from it ends by its mark; its credential goes with it. */
    archiveGrant: ({ caller, params: { zone_id, id }, if_match }) =>
      change(caller, async (tx) => {
        const retired = await retireThing(tx, "grant", {}, { zone_id, id, if_match });
        return { ...retired, revoked: [await revokeGrant(tx, zone_id, id)] };
      }),

    putGrantCredential: ({ caller, params, if_match, body: { access_token, refresh_token, expires_at } }) =>
      change(caller, async (tx) => {
        const credential_expires_at = expires_at === null ? null : new Date(expires_at).toISOString();
        const fields = { access_token, refresh_token, credential_expires_at };
        const changed = await changeThing(tx, "grant", credential, { caller, ...params, if_match }, fields);
        return { ...changed, entry: { ...changed.entry, action: "grant.put_credential" } };
      }),
  };
};
