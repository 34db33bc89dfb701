import type { PresentedTokens } from "../../authority/presented-tokens.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Found, Sessions } from "../known/sessions.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";
import type { Snapshots } from "../known/snapshots.ts";
import { sessionFault } from "./session.ts";
import { verifyIn } from "./subject-token.ts";

const judged = ({ zone, claims }: Awaited<ReturnType<typeof verifyIn>>) =>
  typeof claims === "string" ? deny("actor_token_invalid", claims) : { zone, actor: claims };

/** Who acts for the subject (RFC 8693, 2.1): its token is verified as the subject's is. */
export const actorToken = (snapshots: Pick<Snapshots, "latest">, tokens: PresentedTokens) =>
  load("actor_token", (f: Pick<Facts, "request" | "now_ms"> & { readonly zone: ZoneSnapshot }) => {
    const { zone } = f;
    const { actor_token } = f.request;
    if (actor_token === undefined) return { zone, actor: undefined };
    const presented = tokens.read(actor_token);
    if (presented === undefined) return deny("actor_token_invalid", "malformed");
    const verified = verifyIn(zone, presented, { snapshots, tokens }, f.now_ms);
    return verified instanceof Promise ? verified.then(judged, () => deny("zone_unavailable")) : judged(verified);
  });

/** An ambient token of the caller's own, of another principal than the subject, and of nobody who acts for a third. */
export const actorTokenUse = check("actor_token_use", (f: Pick<Facts, "actor" | "subject" | "application">) => {
  const { actor } = f;
  if (actor === undefined) return undefined;
  if (actor.use !== "ambient") return deny("actor_token_invalid", "not ambient");
  if (actor.act !== undefined || actor.grant_id !== undefined) return deny("actor_token_bound");
  if (actor.client_id !== f.application.id) return deny("actor_token_client", actor.client_id);
  return actor.sub === f.subject.sub ? deny("actor_is_subject") : undefined;
});

const NONE = { actor_session: undefined, actor_session_marked: false } as const;

const facts = (found: Found | undefined) =>
  found === undefined
    ? deny("actor_session_over", "unknown")
    : { actor_session: found.session, actor_session_marked: found.marked };

/** The session that the actor's token stands for. */
export const actorSession = (sessions: Sessions) =>
  load("actor_session", (f: Pick<Facts, "actor"> & { readonly zone: ZoneSnapshot }) => {
    if (f.actor === undefined) return NONE;
    const found = sessions.get(f.zone.zone_id, f.actor.sid);
    if (!(found instanceof Promise)) return facts(found);
    return found.then(facts, () => deny("session_unavailable"));
  });

/** It is the token's, and holds. */
export const actorSessionActive = check(
  "actor_session_active",
  (f: Pick<Facts, "actor" | "actor_session" | "actor_session_marked" | "now_ms">) => {
    const { actor, actor_session } = f;
    if (actor === undefined || actor_session === undefined) return undefined;
    const fault = sessionFault(actor_session, f.actor_session_marked, actor, f.now_ms);
    return fault === undefined ? undefined : deny("actor_session_over", fault);
  },
);
