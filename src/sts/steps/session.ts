import { type Revocations, revokedBy } from "../../domain/revocation.ts";
import type { Claims } from "../../domain/token.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Found, Session, Sessions } from "../known/sessions.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";

const facts = (found: Found | undefined) =>
  found === undefined ? deny("session_unknown") : { session: found.session, session_marked: found.marked };

/** The session that the subject token stands for, by zone and id: another zone's can't be named. */
export const session = (sessions: Sessions) =>
  load("session", (f: Pick<Facts, "subject"> & { readonly zone: ZoneSnapshot }) => {
    const found = sessions.get(f.zone.zone_id, f.subject.sid);
    if (!(found instanceof Promise)) return facts(found);
    return found.then(facts, () => deny("session_unavailable"));
  });

type SessionFault = "session_revoked" | "session_expired" | "session_mismatch";

const endOf = (
  row: Session,
  marked: boolean,
  now_ms: number,
): Exclude<SessionFault, "session_mismatch"> | undefined => {
  if (row.revoked || marked) return "session_revoked";
  return row.expires_at_s <= Math.floor(now_ms / 1_000) ? "session_expired" : undefined;
};

const isOf = (row: Session, token: Claims): boolean =>
  row.client_id === token.client_id && row.subject === token.sub && row.sub_type === token.sub_type;

/** Why a token is not one of this session, or the session mints nothing; undefined where neither is so. */
export const sessionFault = (row: Session, marked: boolean, token: Claims, now_ms: number): SessionFault | undefined =>
  endOf(row, marked, now_ms) ?? (isOf(row, token) ? undefined : "session_mismatch");

/** Revoked, by the row or by the stream, and expired sessions mint nothing. */
export const sessionActive = check("session_active", (f: Pick<Facts, "session" | "session_marked" | "now_ms">) => {
  const fault = endOf(f.session, f.session_marked, f.now_ms);
  return fault === undefined ? undefined : deny(fault);
});

/**
 * Whatever else the token stands for (an agent session, an edge of its path, an actor's session), for who reads no rows of
 * these: the marks alone say so.
 */
export const nothingRevoked = (revocations: Pick<Revocations, "revoked">) =>
  check("nothing_revoked", (f: Pick<Facts, "subject"> & { readonly zone: ZoneSnapshot }) => {
    const kind = revokedBy(revocations, f.zone.zone_id, f.subject);
    return kind === undefined ? undefined : deny("session_revoked", kind);
  });

/** The row and the token tell of the same thing, and so does the caller where it says which session it means. */
export const sessionMatches = check("session_matches", (f: Pick<Facts, "session" | "subject" | "request">) => {
  const { subject, request } = f;
  if (!isOf(f.session, subject)) return deny("session_mismatch");
  return request.session_id === undefined || request.session_id === subject.sid
    ? undefined
    : deny("session_id_mismatch");
});
