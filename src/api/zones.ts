import { type Announcement, configChanged } from "../authority/change.ts";
import { STREAMS } from "../contracts/streams.ts";
import type { NewZone, Zone, zoneEndpoints } from "../contracts/api-zones.ts";
import type { Keyring } from "../domain/keyring.ts";
import { makeZoneKey } from "../domain/zone-key.ts";
import { uuidv7 } from "../kernel/ids.ts";
import type { Transaction } from "../ports/database.ts";
import { afterOwnToken } from "./caller.ts";
import { missing } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { endSessions } from "./sessions.ts";
import { revokeAdminTokensOf } from "./store/admin-tokens.ts";
import { insertZoneKey } from "./store/keys.ts";
import { archiveThing, findThing, insertThing, listThings, lockThing } from "./store/things.ts";
import { changeThing, requireSeen } from "./things.ts";

/** A zone and its first key, in the caller's transaction, and what is to be announced of them. */
export const newZone = async (
  tx: Transaction,
  kek: Keyring,
  fields: NewZone,
): Promise<{ readonly zone: Zone; readonly announce: readonly Announcement[] }> => {
  const zone = await insertThing(tx, "zone", { ...fields, id: uuidv7() });
  const key = makeZoneKey(kek, zone.id);
  await insertZoneKey(tx, zone.id, key, 0);
  return {
    zone,
    announce: [
      { stream: STREAMS.keys, zone_id: zone.id, kind: "key", id: key.kid },
      configChanged("zone", zone.id, zone.id),
    ],
  };
};

export const zoneVerbs = ({ db, change, kek }: Parts): Pick<ControlPlane, keyof typeof zoneEndpoints> => ({
  listZones: ({ caller, query }) => listThings(db.sql, "zone", caller.zone_id, query),

  createZone: ({ caller, body }) =>
    change(caller, async (tx) => {
      const { zone, announce } = await newZone(tx, kek, body);
      return {
        result: zone,
        entry: { action: "zone.create", zone_id: zone.id, object_id: zone.id, detail: { after: zone } },
        announce,
      };
    }),

  getZone: async ({ params }) => {
    const zone = await findThing(db.sql, "zone", params.zone_id, params.zone_id);
    if (zone === undefined) throw missing("zone");
    return zone;
  },

  updateZone: ({ caller, params: { zone_id }, if_match, body }) =>
    change(caller, (tx) => changeThing(tx, "zone", {}, { caller, zone_id, id: zone_id, if_match }, body)),

  /**
   * Crash between the archiving and the end of the sessions: the zone issues nothing any more, and the same call again ends
   * what is left (an archived zone is no 404 here).
   */
  archiveZone: async ({ caller, params: { zone_id }, if_match }) => {
    await change(caller, async (tx) => {
      const before = await lockThing(tx, "zone", zone_id, zone_id);
      if (before === undefined) return { result: undefined };
      requireSeen(if_match, before);
      await archiveThing(tx, "zone", zone_id, zone_id);
      const tokens = await revokeAdminTokensOf(tx, zone_id);
      return {
        result: undefined,
        entry: {
          action: "zone.archive",
          zone_id,
          object_id: zone_id,
          detail: { before, revoked_admin_tokens: tokens },
        },
        announce: [configChanged("zone", zone_id, zone_id)],
      };
    });
    await endSessions(
      change,
      afterOwnToken(caller), // a token of the zone ended with it
      zone_id,
      { all: true },
      { action: "zone.end_sessions", zone_id, object_id: zone_id },
    );
    return undefined;
  },
});
