import type { applicationEndpoints } from "../contracts/api-applications.ts";
import { hashSecret } from "../domain/secret-hash.ts";
import { randomSecret, uuidv7 } from "../kernel/ids.ts";
import { Problem } from "../kernel/problem.ts";
import { configChanged } from "./change.ts";
import { missing } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { endSessions } from "./sessions.ts";
import {
  archiveApplication,
  findApplication,
  insertApplication,
  listApplications,
  replaceSecretHash,
  updateApplication,
} from "./store/applications.ts";
import { requireHeldZone } from "./zones.ts";

/** Known by its look, so that scanners of repositories and logs find one that leaked. */
const newSecret = (): string => `caracal_secret_${randomSecret()}`;

export const applicationVerbs = ({ db, change }: Parts): Pick<ControlPlane, keyof typeof applicationEndpoints> => ({
  listApplications: ({ params, query }) => listApplications(db.sql, params.zone_id, query),

  createApplication: async ({ caller, params: { zone_id }, body }) => {
    const secret = body.kind === "confidential" ? newSecret() : undefined;
    const secret_hash = secret === undefined ? null : await hashSecret(secret, zone_id); // 30 ms: not inside a transaction
    const application = await change(caller, async (tx) => {
      await requireHeldZone(tx, zone_id);
      const made = await insertApplication(tx, zone_id, uuidv7(), body, secret_hash);
      return {
        result: made,
        entry: { action: "application.create", zone_id, object_id: made.id, detail: body },
        announce: [configChanged("application", zone_id, made.id)],
      };
    });
    return secret === undefined ? application : { ...application, client_secret: secret };
  },

  getApplication: async ({ params }) => {
    const application = await findApplication(db.sql, params.zone_id, params.id);
    if (application === undefined) throw missing("application");
    return application;
  },

  updateApplication: ({ caller, params: { zone_id, id }, body }) =>
    change(caller, async (tx) => {
      const application = await updateApplication(tx, zone_id, id, body);
      if (application === undefined) throw missing("application");
      return {
        result: application,
        entry: { action: "application.update", zone_id, object_id: id, detail: body },
        announce: [configChanged("application", zone_id, id)],
      };
    }),

  /** Crash between the archiving and the end of the sessions: the same call again ends what is left. */
  archiveApplication: async ({ caller, params: { zone_id, id } }) => {
    await change(caller, async (tx) => {
      const archived = await archiveApplication(tx, zone_id, id);
      if (archived === undefined) throw missing("application");
      if (!archived) return { result: undefined };
      return {
        result: undefined,
        entry: { action: "application.archive", zone_id, object_id: id },
        announce: [configChanged("application", zone_id, id)],
      };
    });
    await endSessions(
      change,
      caller,
      zone_id,
      { client_id: id },
      { action: "application.end_sessions", zone_id, object_id: id },
    );
    return undefined;
  },

  replaceSecret: async ({ caller, params: { zone_id, id } }) => {
    const application = await findApplication(db.sql, zone_id, id);
    if (application === undefined) throw missing("application");
    if (application.kind === "public") {
      throw new Problem(
        409,
        "application_is_public",
        "A public application has no secret; make a confidential one instead.",
      );
    }
    const client_secret = newSecret();
    const secret_hash = await hashSecret(client_secret, zone_id);
    await change(caller, async (tx) => {
      if (!(await replaceSecretHash(tx, zone_id, id, secret_hash))) throw missing("application");
      return {
        result: undefined,
        entry: { action: "application.replace_secret", zone_id, object_id: id },
        announce: [configChanged("application", zone_id, id)],
      };
    });
    return { id, client_secret };
  },
});
