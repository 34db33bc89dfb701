import { type Claims, type DecodedToken, decodeToken, type VerifyFailure, verifyToken } from "../../domain/token.ts";
import { createVerifiedTokens } from "../../domain/verified-tokens.ts";
import type { Clock } from "../../kernel/clock.ts";
import { constant } from "../../kernel/json-text.ts";
import type { ZoneKeys } from "./snapshot.ts";

/** A subject token: verified before, or only well-formed as yet. */
export type PresentedToken =
  | { readonly kind: "verified"; readonly claims: Claims }
  | { readonly kind: "decoded"; readonly token: string; readonly decoded: DecodedToken };

export type PresentedTokens = {
  /** By form alone; undefined where it is no token of ours. */
  read(token: string): PresentedToken | undefined;
  /** `keys`: those of the zone that the request names. `unknown_key`: signed by none of them. */
  verify(
    presented: PresentedToken,
    zone: { readonly zone_id: string; readonly keys: ZoneKeys },
    now_ms: number,
  ): Claims | VerifyFailure | "unknown_key";
};

/** The application that a token names. Before the signature is verified it is good for one thing: whose rate limit to count. */
export const clientNamedBy = (presented: PresentedToken): string | undefined => {
  if (presented.kind === "verified") return presented.claims.client_id;
  const { payload } = presented.decoded;
  const named =
    typeof payload === "object" && payload !== null && "client_id" in payload ? payload.client_id : undefined;
  return typeof named === "string" ? named : undefined;
};

/** A signature is verified once per token and set of keys; time is asked each time. */
export const createPresentedTokens = (
  clock: Clock,
  issuer_url: string,
  keysVersion: (zone_id: string) => number,
): PresentedTokens => {
  const remembered = createVerifiedTokens(clock, keysVersion);
  return {
    read(token) {
      const claims = remembered.get(token);
      if (claims !== undefined) return { kind: "verified", claims };
      const decoded = decodeToken(token);
      return decoded === undefined ? undefined : { kind: "decoded", token, decoded };
    },
    verify(presented, zone, now_ms) {
      if (presented.kind === "verified") return presented.claims.zone_id === zone.zone_id ? presented.claims : "zone";
      const { decoded } = presented;
      if (decoded.zone_id !== zone.zone_id) return "zone";
      const key = zone.keys.verifying.get(decoded.kid);
      if (key === undefined) return "unknown_key";
      const claims = verifyToken(decoded, key, { issuer_url, key_zone_id: zone.zone_id, now_ms });
      if (typeof claims === "string") return claims;
      remembered.set(presented.token, constant(claims), zone.keys.version); // constant: so is their text as policy input
      return claims;
    },
  };
};
