import type { registrationEndpoints } from "../contracts/api-registration.ts";
import { formatScope, isPlatformScope, isSubset, parseScope } from "../domain/scopes.ts";
import { hashSecret } from "../domain/secret-hash.ts";
import { randomSecret } from "../kernel/ids.ts";
import { Problem } from "../kernel/problem.ts";
import type { Queryable } from "../ports/database.ts";
import { newSecret, withCredentials } from "./applications.ts";
import { requireCallable } from "./callable.ts";
import { missing, unusable } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { requireRoom } from "./quotas.ts";
import { registeredLately } from "./store/registration.ts";
import { findThing, holdThing } from "./store/things.ts";
import { makeThing, thingVerbs } from "./things.ts";
import { tokenHash } from "./token-strength.ts";

/** Registrations of a zone in any one second. */
const MAX_PER_S = 10;

/** What a client says of itself, as an application's fields. */
const METHODS = {
  client_secret_basic: { kind: "confidential", credential_types: ["client_secret"] },
  client_secret_post: { kind: "confidential", credential_types: ["client_secret"] },
  private_key_jwt: { kind: "confidential", credential_types: ["private_key_jwt"] },
  none: { kind: "public", credential_types: [] },
} as const;

const requirePace = async (sql: Queryable, zone_id: string): Promise<void> => {
  if ((await registeredLately(sql, zone_id)) >= MAX_PER_S) {
    throw new Problem(429, "too_many_registrations", `A zone takes ${MAX_PER_S} registrations a second.`);
  }
};

export const registrationVerbs = (parts: Parts): Pick<ControlPlane, keyof typeof registrationEndpoints> => {
  const { db, change, egress, rate_limit_per_minute } = parts;
  const tokens = thingVerbs(parts, "registration_token");
  return {
    listRegistrationTokens: tokens.list,
    getRegistrationToken: tokens.get,
    updateRegistrationToken: tokens.update,
    archiveRegistrationToken: tokens.archive,

    createRegistrationToken: ({ caller, params: { zone_id }, body: { name, scopes, expires_in_s } }) =>
      change(caller, async (tx) => {
        const token = `caracal_registration_${randomSecret()}`;
        const expires_at = new Date(Date.now() + expires_in_s * 1_000).toISOString();
        const hidden = {
          write: async () => ({ columns: { name, scopes, expires_at, token_sha256: tokenHash(token) } }),
        };
        const made = await makeThing(tx, "registration_token", hidden, { caller, zone_id }, { name, scopes });
        return { ...made, result: { ...made.result, token } };
      }),

    /** The token's row is held to the commit: what was revoked before registers nobody. */
    registerClient: async ({ caller, params: { zone_id }, body }) => {
      await requirePace(db.sql, zone_id); // before a hash is paid for
      await requireCallable(egress, zone_id, body, ["jwks_uri"]);
      const { client_name, token_endpoint_auth_method, jwks, jwks_uri } = body;
      const fields = { ...METHODS[token_endpoint_auth_method], name: client_name, jwks, jwks_uri };
      const secret = fields.credential_types.some((type) => type === "client_secret") ? newSecret() : undefined;
      const secret_hash = secret === undefined ? null : await hashSecret(secret, zone_id);
      const registration_token_id = caller.actor.split(":")[1] ?? "";
      return change(caller, async (tx) => {
        await requireRoom(tx, zone_id, "registered_applications"); // and from here on one at a time
        await requirePace(tx, zone_id);
        const held = await holdThing(tx, "registration_token", zone_id, registration_token_id);
        const token = held ? await findThing(tx, "registration_token", zone_id, registration_token_id) : undefined;
        if (token === undefined) throw missing("registration token");
        const asked = body.scope === undefined ? token.scopes : (parseScope(body.scope) ?? []);
        const scopes = asked.filter((scope) => !isPlatformScope(scope));
        if (!isSubset(asked, token.scopes) || scopes.length < asked.length) {
          throw unusable("scope", "must be among the scopes of the initial access token");
        }
        const rules = withCredentials(rate_limit_per_minute, secret_hash);
        const all = { ...fields, scopes, registration_token_id };
        const made = await makeThing(tx, "application", rules, { caller, zone_id }, all);
        return {
          ...made,
          result: {
            client_id: made.result.id,
            ...(secret === undefined ? {} : { client_secret: secret }),
            client_id_issued_at: Math.floor(Date.parse(made.result.created_at) / 1_000),
            client_secret_expires_at: 0,
            client_name,
            token_endpoint_auth_method,
            grant_types: ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"],
            scope: formatScope(scopes),
          },
        };
      });
    },
  };
};
