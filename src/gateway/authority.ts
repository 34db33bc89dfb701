import type { RevocableKind, Revocations } from "../domain/revocation.ts";
import type { Claims } from "../domain/token.ts";

/** Revocation state older than this proves nothing: new calls are refused, running answers wait. */
export const REVOCATION_MAX_AGE_MS = 10_000;

/** By what a token's authority was taken; undefined while it holds. */
export const revokedBy = (revocations: Revocations, claims: Claims): RevocableKind | undefined => {
  const { zone_id } = claims;
  if (revocations.revoked(zone_id, "session", claims.sid)) return "session";
  const { agent_session_id, delegation_edge_id, grant_id } = claims;
  if (agent_session_id !== undefined && revocations.revoked(zone_id, "agent_session", agent_session_id))
    return "agent_session";
  if (delegation_edge_id !== undefined && revocations.revoked(zone_id, "delegation_edge", delegation_edge_id))
    return "delegation_edge";
  if (grant_id !== undefined && revocations.revoked(zone_id, "grant", grant_id)) return "grant";
  return undefined;
};

/** The ids whose revocation ends what was allowed under these claims. */
export const authorityIds = (claims: Claims): readonly string[] => {
  const { sid, agent_session_id, delegation_edge_id, grant_id } = claims;
  if (agent_session_id === undefined && delegation_edge_id === undefined && grant_id === undefined) return [sid];
  return [sid, agent_session_id, delegation_edge_id, grant_id].filter((id) => id !== undefined);
};
