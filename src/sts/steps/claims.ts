import { formatScope } from "../../domain/scopes.ts";
import { type Claims, issuerOf, MAX_TOKEN_BYTES } from "../../domain/token.ts";
import { uuidv7 } from "../../kernel/ids.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";
import { grantedScopes } from "./scope.ts";

/**
 * A mandate: for one resource, on the session that its subject token stands for (so that revoking it ends this too), and
 * never past its end.
 */
export const mandateClaims = (issuer_url: string) =>
  load(
    "claims",
    (
      f: Pick<Facts, "request" | "resource" | "scopes" | "session" | "subject" | "ttl_s" | "now_ms"> & {
        readonly zone: ZoneSnapshot;
      },
    ) => {
      const iat = Math.floor(f.now_ms / 1_000);
      const claims: Claims = {
        iss: issuerOf(issuer_url, f.zone.zone_id),
        sub: f.subject.sub,
        aud: f.resource.identifier,
        exp: Math.min(iat + f.ttl_s, f.session.expires_at_s),
        iat,
        jti: uuidv7(f.now_ms),
        zone_id: f.zone.zone_id,
        client_id: f.subject.client_id,
        scope: formatScope(f.scopes),
        sid: f.session.id,
        use: "per_call",
        sub_type: f.subject.sub_type,
        target: [f.resource.identifier],
        auth_exp: f.session.expires_at_s,
      };
      if (f.request.caller.kind === "gateway") claims.via = "gateway";
      else if (f.request.method !== undefined) {
        claims.htm = f.request.method;
        claims.htp = f.request.path; // the step `call` saw to it that it is there
      }
      return { claims, payload: JSON.stringify(claims) };
    },
  );

/** An ambient token, and with it the session that it will stand for. */
export const ambientClaims = (issuer_url: string) =>
  load(
    "claims",
    (
      f: Pick<Facts, "application" | "scopes" | "granted" | "resources" | "ttl_s" | "now_ms"> & {
        readonly zone: ZoneSnapshot;
      },
    ) => {
      const iat = Math.floor(f.now_ms / 1_000);
      const iss = issuerOf(issuer_url, f.zone.zone_id);
      const claims: Claims = {
        iss,
        sub: f.application.id,
        aud: iss,
        exp: iat + f.ttl_s,
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
