import { configChanged } from "../authority/change.ts";
import type { Application, applicationEndpoints } from "../contracts/api-applications.ts";
import { hashSecret } from "../domain/secret-hash.ts";
import { randomSecret } from "../kernel/ids.ts";
import { Problem } from "../kernel/problem.ts";
import { requireCallable } from "./callable.ts";
import { missing, unusable } from "./faults.ts";
import { requireOneKeySource } from "./issuers.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { requireRate } from "./quotas.ts";
import { endSessions } from "./sessions.ts";
import { replaceSecret } from "./store/applications.ts";
import { type Fields, findThing, lockThing, thingWasMade } from "./store/things.ts";
import { makeThing, requireSeen, retireThing, type ThingRules, thingVerbs } from "./things.ts";

/** Known by its look, so that scanners of repositories and logs find one that leaked. */
export const newSecret = (): string => `caracal_secret_${randomSecret()}`;

const has = (fields: Fields, name: string): boolean => fields[name] !== null && fields[name] !== undefined;

/** What each way to prove who one is needs to be there. */
const NEEDS: Readonly<Record<string, (all: Fields) => string | undefined>> = {
  client_secret: () => undefined,
  private_key_jwt: (all) => (has(all, "jwks") || has(all, "jwks_uri") ? undefined : "needs jwks or jwks_uri"),
  workload: (all) =>
    has(all, "workload_issuer_id") && has(all, "workload_claims")
      ? undefined
      : "needs workload_issuer_id and workload_claims",
};

const requireCredentials = (all: Fields): void => {
  requireOneKeySource(all);
  const types = all["credential_types"] as readonly string[];
  if (all["kind"] === "public" && types.length > 0) {
    throw unusable("credential_types", "must be empty for a public application, which can't keep a credential");
  }
  for (const type of types) {
    const lacks = NEEDS[type]?.(all);
    if (lacks !== undefined) throw unusable("credential_types", `holds ${type}, which ${lacks}`);
  }
};

const requireSecrets = ({ kind, credential_types }: Application): void => {
  if (kind === "public") {
    throw new Problem(
      409,
      "application_is_public",
      "A public application has no secret; make a confidential one instead.",
    );
  }
  if (!credential_types.includes("client_secret")) {
    throw new Problem(409, "no_client_secret", "This application's credential_types do not hold client_secret.");
  }
};

/** `rate_limit_per_minute`: the deployment's. `secret_hash`: of the secret of one that is made; a patch that takes `client_secret` away ends the secrets. */
export const withCredentials = (
  rate_limit_per_minute: number,
  secret_hash: string | null | undefined,
): ThingRules<"application"> => ({
  write: async (tx, { caller, zone_id, before, fields }) => {
    const all = { ...before, ...fields };
    const rate = fields["rate_limit_per_minute"];
    if (rate !== undefined && rate !== before?.rate_limit_per_minute) {
      await requireRate(tx, caller, zone_id, rate_limit_per_minute, rate as number | null);
    }
    requireCredentials(all);
    const keeps = (all["credential_types"] as readonly string[]).includes("client_secret");
    const secrets = keeps
      ? { secret_hash }
      : { secret_hash: null, previous_secret_hash: null, previous_secret_expires_at: null };
    return { columns: { ...fields, ...secrets } };
  },
});

export const applicationVerbs = (parts: Parts): Pick<ControlPlane, keyof typeof applicationEndpoints> => {
  const { db, change, egress, rate_limit_per_minute } = parts;
  const applications = thingVerbs(parts, "application", withCredentials(rate_limit_per_minute, undefined));
  return {
    listApplications: applications.list,
    getApplication: applications.get,
    updateApplication: async (call) => {
      await requireCallable(egress, call.params.zone_id, call.body, ["jwks_uri"]);
      return applications.update(call);
    },

    createApplication: async ({ caller, params: { zone_id }, body }) => {
      await requireCallable(egress, zone_id, body, ["jwks_uri"]);
      const { credential_types = body.kind === "confidential" ? ["client_secret" as const] : [] } = body;
      const secret = credential_types.includes("client_secret") ? newSecret() : undefined;
      const secret_hash = secret === undefined ? null : await hashSecret(secret, zone_id); // 30 ms: not inside a transaction
      return change(caller, async (tx) => {
        const fields = { ...body, credential_types };
        const rules = withCredentials(rate_limit_per_minute, secret_hash);
        const made = await makeThing(tx, "application", rules, { caller, zone_id }, fields);
        return secret === undefined ? made : { ...made, result: { ...made.result, client_secret: secret } };
      });
    },

    /** Crash between the archiving and the end of the sessions: the same call again ends what is left, and is 204 too. */
    archiveApplication: async ({ caller, params: { zone_id, id }, if_match }) => {
      await change(caller, async (tx) => {
        const live = await lockThing(tx, "application", zone_id, id);
        if (live !== undefined) return retireThing(tx, "application", {}, { zone_id, id, if_match });
        if (await thingWasMade(tx, "application", zone_id, id)) return { result: undefined };
        throw missing("application");
      });
      const entry = { action: "application.end_sessions", zone_id, object_id: id } as const;
      await endSessions(change, caller, zone_id, { client_id: id }, entry);
      return undefined;
    },

    replaceSecret: async ({ caller, params: { zone_id, id }, query: { keep_old_s }, if_match }) => {
      const application = await findThing(db.sql, "application", zone_id, id);
      if (application === undefined) throw missing("application");
      requireSecrets(application);
      const client_secret = newSecret();
      const secret_hash = await hashSecret(client_secret, zone_id);
      return change(caller, async (tx) => {
        const before = await lockThing(tx, "application", zone_id, id);
        if (before === undefined) throw missing("application");
        requireSecrets(before);
        requireSeen(if_match, before);
        const { previous_secret_expires_at } = await replaceSecret(tx, zone_id, id, { secret_hash, keep_old_s });
        return {
          result: { id, client_secret, previous_secret_expires_at },
          entry: {
            action: "application.replace_secret",
            zone_id,
            object_id: id,
            detail: { after: { previous_secret_expires_at } },
          },
          announce: [configChanged("application", zone_id, id)],
        };
      });
    },
  };
};
