import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Found, Sessions } from "../known/sessions.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";

const facts = (found: Found | undefined) =>
  found === undefined ? deny("session_unknown") : { session: found.session, session_marked: found.marked };

/** The session that the subject token stands for, by zone and id: another zone's can't be named. */
export const session = (sessions: Sessions) =>
  load("session", (f: Pick<Facts, "subject"> & { readonly zone: ZoneSnapshot }) => {
    const found = sessions.get(f.zone.zone_id, f.subject);
    if (!(found instanceof Promise)) return facts(found);
    return found.then(facts, () => deny("session_unavailable"));
  });

/** Revoked, by the row or by the stream, and expired sessions mint nothing. */
export const sessionActive = check("session_active", (f: Pick<Facts, "session" | "session_marked" | "now_ms">) => {
  if (f.session.revoked || f.session_marked) return deny("session_revoked");
  return f.session.expires_at_s <= Math.floor(f.now_ms / 1_000) ? deny("session_expired") : undefined;
});

/** The row and the token tell of the same thing, and so does the caller where it says which session it means. */
export const sessionMatches = check("session_matches", (f: Pick<Facts, "session" | "subject" | "request">) => {
  const { session: row, subject, request } = f;
  if (row.client_id !== subject.client_id || row.subject !== subject.sub || row.sub_type !== subject.sub_type) {
    return deny("session_mismatch");
  }
  return request.session_id === undefined || request.session_id === subject.sid
    ? undefined
    : deny("session_id_mismatch");
});
