import type { keyEndpoints } from "../contracts/api-keys.ts";
import { STREAMS } from "../contracts/streams.ts";
import { makeZoneKey } from "../domain/zone-key.ts";
import { missing, rotationTooSoon } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { countLivingSessions, deleteKeysBut, insertZoneKey, listZoneKeys } from "./store/keys.ts";
import { lockThing } from "./store/things.ts";

/** How many keys are published: the one that signs, and the one before it or after it. */
const PUBLISHED = 2;

export const keyVerbs = ({ db, change, kek, key_delay_s }: Parts): Pick<ControlPlane, keyof typeof keyEndpoints> => ({
  listKeys: async ({ params: { zone_id } }) => {
    const keys = await listZoneKeys(db.sql, zone_id);
    return { items: keys.map(({ kid, created_at, signs_from }) => ({ kid, created_at, signs_from })) };
  },

  /**
   * The new key is published at once and signs when every cache of the old set has run out. A key that falls out of the set
   * takes its tokens with it, so none does while tokens of it can live, unless it is forced: then every other key ends now
   * and the new one signs at once, for a stolen key must not sign for another five minutes.
   */
  rotateKeys: ({ caller, params: { zone_id }, body: { force } }) =>
    change(caller, async (tx) => {
      if ((await lockThing(tx, "zone", zone_id, zone_id)) === undefined) throw missing("zone");
      const keys = await listZoneKeys(tx, zone_id);
      const still_live = keys.slice(PUBLISHED - 1).find(({ tokens_live }) => tokens_live);
      if (!force && still_live !== undefined) throw rotationTooSoon(still_live.tokens_until);
      const key = makeZoneKey(kek, zone_id);
      const made = await insertZoneKey(tx, zone_id, key, force || keys.length === 0 ? 0 : key_delay_s);
      const kept = force ? [key.kid] : [key.kid, ...keys.slice(0, PUBLISHED - 1).map(({ kid }) => kid)];
      const kids = await deleteKeysBut(tx, zone_id, kept);
      const sessions = force ? await countLivingSessions(tx, zone_id) : 0;
      const ended = { kids, sessions };
      return {
        result: { ...made, ended },
        entry: {
          action: "key.rotate",
          zone_id,
          object_id: key.kid,
          detail: { force, ended, signs_from: made.signs_from },
        },
        announce: [{ stream: STREAMS.keys, zone_id, kind: "key", id: key.kid }],
      };
    }),
});
