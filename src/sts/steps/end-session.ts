import type { Author } from "../../authority/admin-audit.ts";
import type { Change } from "../../authority/change.ts";
import { revokeSessions } from "../../authority/sessions.ts";
import type { Log } from "../../kernel/log.ts";
import { commit, deny } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { InquiryStart } from "../inquiry.ts";
import type { Sessions } from "../known/sessions.ts";

type Ends = Pick<InquiryStart, "request" | "request_id"> & Pick<Facts, "subject" | "application">;

/**
 * The session's row and its message to everybody, in one transaction. One that is over already is no change. This process
 * asks the database about it from here on; others hear of it by the stream. (A crash after the commit ends it all the same,
 * and the client, which got no answer, asks again.)
 */
export const endSession = (change: Change<Author>, sessions: Sessions, log: Log) =>
  commit("end_session", async (f: Ends) => {
    const { zone_id } = f.request;
    const id = f.subject.sid;
    const author = { actor: `application:${f.application.id}`, request_id: f.request_id };
    try {
      await change(author, async (tx) => {
        const revoked = await revokeSessions(tx, zone_id, { id }, 1);
        if (revoked.length === 0) return { result: undefined };
        return { result: undefined, entry: { action: "session.revoke", zone_id, object_id: id }, revoked };
      });
    } catch (error) {
      log.error({ err: error, zone_id, request_id: f.request_id }, "a client's session can't be ended");
      return deny("session_not_revoked");
    }
    sessions.forget(zone_id, id);
    return { ended: id };
  });
