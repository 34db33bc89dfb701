import type { sessionEndpoints } from "../contracts/api-sessions.ts";
import type { Entry } from "../authority/admin-audit.ts";
import { revokeSessions, type Those } from "../authority/sessions.ts";
import type { Caller } from "./caller.ts";
import type { Change } from "./change.ts";
import { missing } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { findSession, listSessions } from "./store/sessions.ts";

/** Sessions in one transaction: their rows, and the zone's number in the stream, stay locked as long as it takes. */
const BATCH = 200;

/**
 * Ends those sessions, in batches: each is one transaction, marks and messages alike, so that what is marked is told. Ends
 * when a batch finds fewer than it could take: a session that is made meanwhile is found by the next batch.
 * Resolves to how many, after the last commit.
 */
export const endSessions = async (
  change: Change,
  caller: Caller,
  zone_id: string,
  those: Those,
  entry: Entry,
): Promise<number> => {
  let ended = 0;
  for (;;) {
    const batch = await change(caller, async (tx) => {
      const revoked = await revokeSessions(tx, zone_id, those, BATCH);
      if (revoked.length === 0) return { result: 0 };
      return {
        result: revoked.length,
        entry: { ...entry, detail: { ...entry.detail, revoked: revoked.length } },
        revoked,
      };
    });
    ended += batch;
    if (batch < BATCH) return ended;
  }
};

export const sessionVerbs = ({ db, change }: Parts): Pick<ControlPlane, keyof typeof sessionEndpoints> => ({
  listSessions: ({ params, query }) => listSessions(db.sql, params.zone_id, query),

  getSession: async ({ params }) => {
    const session = await findSession(db.sql, params.zone_id, params.id);
    if (session === undefined) throw missing("session");
    return session;
  },

  revokeSession: async ({ caller, params: { zone_id, id } }) => {
    if ((await findSession(db.sql, zone_id, id)) === undefined) throw missing("session");
    return {
      revoked: await endSessions(change, caller, zone_id, { id }, { action: "session.revoke", zone_id, object_id: id }),
    };
  },

  revokeSubject: async ({ caller, params: { zone_id }, body: { subject } }) => {
    const entry: Entry = { action: "subject.revoke", zone_id, object_id: subject };
    return { revoked: await endSessions(change, caller, zone_id, { subject }, entry) };
  },
});
