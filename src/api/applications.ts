import type { applicationEndpoints } from "../contracts/api-applications.ts";
import { hashSecret } from "../domain/secret-hash.ts";
import { randomSecret } from "../kernel/ids.ts";
import { Problem } from "../kernel/problem.ts";
import { configChanged } from "./change.ts";
import { missing } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { endSessions } from "./sessions.ts";
import { findThing, lockThing, thingWasMade, updateThing } from "./store/things.ts";
import { makeThing, requireSeen, retireThing, thingVerbs } from "./things.ts";

/** Known by its look, so that scanners of repositories and logs find one that leaked. */
const newSecret = (): string => `caracal_secret_${randomSecret()}`;

export const applicationVerbs = (parts: Parts): Pick<ControlPlane, keyof typeof applicationEndpoints> => {
  const { db, change } = parts;
  const applications = thingVerbs(parts, "application");
  return {
    listApplications: applications.list,
    getApplication: applications.get,
    updateApplication: applications.update,

    createApplication: async ({ caller, params: { zone_id }, body }) => {
      const secret = body.kind === "confidential" ? newSecret() : undefined;
      const secret_hash = secret === undefined ? null : await hashSecret(secret); // 30 ms: not inside a transaction
      return change(caller, async (tx) => {
        const rules = { check: async () => ({ secret_hash }) };
        const made = await makeThing(tx, "application", rules, { caller, zone_id }, body);
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

    replaceSecret: async ({ caller, params: { zone_id, id }, if_match }) => {
      const application = await findThing(db.sql, "application", zone_id, id);
      if (application === undefined) throw missing("application");
      if (application.kind === "public") {
        throw new Problem(
          409,
          "application_is_public",
          "A public application has no secret; make a confidential one instead.",
        );
      }
      const client_secret = newSecret();
      const secret_hash = await hashSecret(client_secret);
      await change(caller, async (tx) => {
        const before = await lockThing(tx, "application", zone_id, id);
        if (before === undefined) throw missing("application");
        requireSeen(if_match, before);
        await updateThing(tx, "application", zone_id, id, { secret_hash });
        return {
          result: undefined,
          entry: { action: "application.replace_secret", zone_id, object_id: id },
          announce: [configChanged("application", zone_id, id)],
        };
      });
      return { id, client_secret };
    },
  };
};
