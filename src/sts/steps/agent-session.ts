import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Delegations, FoundAgentSession } from "../known/delegations.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";

/** Which agent session and edge an ambient token is to stand for. */
export const namedAuthority = load("named_authority", (f: Pick<Facts, "request">) => ({
  agent_session_id: f.request.agent_session_id,
  delegation_edge_id: f.request.delegation_edge_id,
}));

const differs = (carried: string | undefined, named: string | undefined): boolean =>
  carried !== undefined && named !== undefined && carried !== named;

/** What a token carries limits whatever is made from it: another agent session or edge is refused. */
export const authorityKept = check("authority_kept", (f: Pick<Facts, "request" | "subject">) => {
  const { request, subject } = f;
  if (differs(subject.agent_session_id, request.agent_session_id)) return deny("agent_session_changed");
  return differs(subject.delegation_edge_id, request.delegation_edge_id) ? deny("delegation_edge_changed") : undefined;
});

/**
 * Leaving a field out sheds nothing of what the tokens carry; a request whose tokens carry none may be narrowed to one. Of
 * two agent sessions or edges one would be shed, so subject, actor and request agree.
 */
export const inheritedAuthority = load("inherited_authority", (f: Pick<Facts, "request" | "subject" | "actor">) => {
  const { request, subject, actor } = f;
  const agent_session_id = subject.agent_session_id ?? actor?.agent_session_id ?? request.agent_session_id;
  const delegation_edge_id = subject.delegation_edge_id ?? actor?.delegation_edge_id ?? request.delegation_edge_id;
  for (const one of [actor, request]) {
    if (differs(one?.agent_session_id, agent_session_id) || differs(one?.delegation_edge_id, delegation_edge_id))
      return deny("actor_authority_differs");
  }
  return { agent_session_id, delegation_edge_id };
});

const NONE = { agent_session: undefined, agent_session_marked: false } as const;

const facts = (id: string, found: FoundAgentSession | undefined) =>
  found === undefined
    ? deny("agent_session_unknown", id.slice(0, 64))
    : { agent_session: found.agent_session, agent_session_marked: found.marked };

/** The agent session that asks, by zone and id: another zone's can't be named. */
export const agentSession = (delegations: Pick<Delegations, "agentSession">) =>
  load("agent_session", (f: Pick<Facts, "agent_session_id"> & { readonly zone: ZoneSnapshot }) => {
    const { agent_session_id: id } = f;
    if (id === undefined) return NONE;
    const found = delegations.agentSession(f.zone.zone_id, id);
    if (!(found instanceof Promise)) return facts(id, found);
    return found.then(
      (read) => facts(id, read),
      () => deny("agent_session_unavailable"),
    );
  });

/**
 * It is the application's own, and runs. One that was spawned under a session is for tokens of that session alone, so that
 * what ends the session ends the agent; an ambient token begins another session.
 */
export const agentSessionActive = check(
  "agent_session_active",
  (
    f: Pick<Facts, "agent_session" | "agent_session_marked" | "application" | "now_ms"> &
      Partial<Pick<Facts, "subject">>,
  ) => {
    const { agent_session: one } = f;
    if (one === undefined) return undefined;
    if (one.application_id !== f.application.id) return deny("agent_session_client", one.application_id);
    if (one.session_sid !== null && one.session_sid !== f.subject?.sid) return deny("agent_session_session");
    if (!one.active || f.agent_session_marked) return deny("agent_session_revoked");
    return one.expires_at_s <= Math.floor(f.now_ms / 1_000) ? deny("agent_session_expired") : undefined;
  },
);
