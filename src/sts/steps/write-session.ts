import type { Log } from "../../kernel/log.ts";
import { commit, deny } from "../../kernel/pipeline.ts";
import type { Database } from "../../ports/database.ts";
import type { Facts } from "../facts.ts";
import type { Sessions } from "../known/sessions.ts";
import { insertSession } from "../store/zones.ts";

/**
 * The session of an ambient token. If we die or are refused behind this line, a session remains that no token was handed
 * out for: it expires by itself, and the ledger has no allow for it.
 */
export const writeSession = (db: Database, sessions: Sessions, log: Log) =>
  commit("session", async (f: Pick<Facts, "claims">) => {
    const { claims } = f;
    const session = {
      id: claims.sid,
      client_id: claims.client_id,
      subject: claims.sub,
      sub_type: claims.sub_type,
      expires_at_s: claims.exp,
      revoked: false,
    };
    try {
      if (!(await insertSession(db.sql, { zone_id: claims.zone_id, ...session }))) return deny("application_archived");
    } catch (error) {
      log.error({ err: error, zone_id: claims.zone_id }, "a session can't be written");
      return deny("session_not_written");
    }
    sessions.put(claims.zone_id, session);
    return { session };
  });
