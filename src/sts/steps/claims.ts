import { formatScope } from "../../domain/scopes.ts";
import { type Actor, type Claims, issuerOf, MAX_TOKEN_BYTES } from "../../domain/token.ts";
import { uuidv7 } from "../../kernel/ids.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";
import { grantedScopes } from "./scope.ts";

/** What a token stands for beside its session, and the earliest end of it, in seconds since the epoch. */
type Authority = Pick<Facts, "agent_session" | "delegation">;
const endOf = ({ agent_session, delegation }: Authority): number =>
  Math.min(agent_session?.expires_at_s ?? Infinity, delegation?.expires_at_s ?? Infinity);

/** RFC 8693, 4.1: who acts now is outermost, and those who acted for the subject before are within. */
const actorOf = ({ actor, subject }: Pick<Facts, "actor" | "subject">): Actor | undefined => {
  if (actor === undefined) return subject.act;
  return { sub: actor.sub, sid: actor.sid, ...(subject.act === undefined ? {} : { act: subject.act }) };
};

/** Who runs and by whose authority: what limits this token limits whatever is made from it. */
const carry = (claims: Claims, { agent_session, delegation }: Authority): void => {
  if (agent_session !== undefined) claims.agent_session_id = agent_session.id;
  if (delegation === undefined) return;
  const { seen, chain } = delegation;
  claims.delegation_edge_id = seen.id;
  claims.source_session_id = seen.source_session_id;
  claims.target_session_id = seen.target_session_id;
  claims.delegation_chain = [...chain];
  claims.hop_count = seen.path.length;
  claims.delegation_graph_epoch = seen.graph_epoch;
};

/**
 * A mandate: for one resource, on the session that its subject token stands for (so that revoking it ends this too), and
 * never past its end, nor past that of the agent session or an edge.
 */
export const mandateClaims = (issuer_url: string) =>
  load(
    "claims",
    (
      f: Pick<Facts, "request" | "resource" | "scopes" | "session" | "subject" | "ttl_s" | "now_ms"> &
        Pick<Facts, "actor" | "actor_session"> &
        Authority & { readonly zone: ZoneSnapshot },
    ) => {
      const iat = Math.floor(f.now_ms / 1_000);
      const auth_exp = Math.min(f.session.expires_at_s, f.actor_session?.expires_at_s ?? Infinity, endOf(f));
      const claims: Claims = {
        iss: issuerOf(issuer_url, f.zone.zone_id),
        sub: f.subject.sub,
        aud: f.resource.identifier,
        exp: Math.min(iat + Math.min(f.ttl_s, f.delegation?.ttl_s ?? Infinity), auth_exp),
        iat,
        jti: uuidv7(f.now_ms),
        zone_id: f.zone.zone_id,
        client_id: f.subject.client_id,
        scope: formatScope(f.scopes),
        sid: f.session.id,
        use: "per_call",
        sub_type: f.subject.sub_type,
        target: [f.resource.identifier],
        auth_exp,
      };
      const act = actorOf(f);
      if (act !== undefined) claims.act = act;
      carry(claims, f);
      if (f.request.caller.kind === "gateway") claims.via = "gateway";
      else if (f.request.method !== undefined) {
        claims.htm = f.request.method;
        claims.htp = f.request.path; // the step `call` saw to it that it is there
      }
      return { claims, payload: JSON.stringify(claims) };
    },
  );

/** An ambient token, and with it the session that it will stand for. Neither outlives what it was limited to. */
export const ambientClaims = (issuer_url: string) =>
  load(
    "claims",
    (
      f: Pick<Facts, "application" | "scopes" | "granted" | "resources" | "ttl_s" | "now_ms"> &
        Authority & { readonly zone: ZoneSnapshot },
    ) => {
      const iat = Math.floor(f.now_ms / 1_000);
      const iss = issuerOf(issuer_url, f.zone.zone_id);
      const claims: Claims = {
        iss,
        sub: f.application.id,
        aud: iss,
        exp: Math.min(iat + f.ttl_s, endOf(f)),
        iat,
        jti: uuidv7(f.now_ms),
        zone_id: f.zone.zone_id,
        client_id: f.application.id,
        scope: formatScope(grantedScopes(f)),
        sid: uuidv7(f.now_ms),
        use: "ambient",
        sub_type: "application",
        target: f.granted.map((one) => one.resource.identifier),
      };
      carry(claims, f);
      return { claims, payload: JSON.stringify(claims) };
    },
  );

/** Header, signature and the dots between, with the longest `kid` that there is. */
const ENVELOPE_BYTES = 256;

/** Asked before anything is written: no verifier reads a longer token. */
export const tokenSize = check("token_size", (f: Pick<Facts, "payload">) => {
  const bytes = Math.ceil((Buffer.byteLength(f.payload) * 4) / 3) + ENVELOPE_BYTES;
  return bytes <= MAX_TOKEN_BYTES ? undefined : deny("token_too_long", `${bytes} bytes`);
});
