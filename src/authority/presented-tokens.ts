import { hash, type KeyObject } from "node:crypto";
import { LRUCache } from "lru-cache";
import {
  type Claims,
  type DecodedToken,
  decodeToken,
  timeFault,
  type VerifyFailure,
  verifyToken,
} from "../domain/token.ts";
import type { Clock } from "../kernel/clock.ts";
import { constant } from "../kernel/json-text.ts";

/** A token that was verified before, or is only well-formed as yet. */
export type PresentedToken = { readonly kind: "verified"; readonly claims: Claims } | DecodedOnly;
type DecodedOnly = { readonly kind: "decoded"; readonly token: string; readonly decoded: DecodedToken };

/** The key by which a token claims to be signed. */
export type ClaimedKey = {
  /** The zone whose JWKS has it. */
  readonly zone_id: string;
  readonly key: KeyObject;
  /** That of the keys among which it was found. Asked for only once the signature has verified. */
  readonly version: () => number;
};

export type PresentedTokens = {
  /**
   * By form alone; undefined where it is no token of ours. The claims, where this very token was verified under keys that
   * are still current, and is not expired: a look-up costs 1 µs, a verification 50.
   */
  read(token: string): PresentedToken | undefined;
  /** Signature, claims, issuer, zone and time. Remembers a token that passes, by its hash. */
  verify(presented: DecodedOnly, by: ClaimedKey, now_ms: number): Claims | VerifyFailure;
};

const MAX_TOKENS = 20_000;

/** The application that a token names. Before the signature is verified it is good for one thing: whose rate limit to count. */
export const clientNamedBy = (presented: PresentedToken): string | undefined => {
  if (presented.kind === "verified") return presented.claims.client_id;
  const { payload } = presented.decoded;
  const named =
    typeof payload === "object" && payload !== null && "client_id" in payload ? payload.client_id : undefined;
  return typeof named === "string" ? named : undefined;
};

/**
 * A signature is verified once per token and set of keys; time is asked each time. `keysVersion`: a number (negative while
 * no key is known) that changes whenever the keys of that zone do. A token that was verified before is then verified
 * again, so that a withdrawn key takes its tokens along.
 */
export const createPresentedTokens = (
  clock: Clock,
  issuer_url: string,
  keysVersion: (zone_id: string) => number,
): PresentedTokens => {
  const cache = new LRUCache<string, { claims: Claims; version: number }>({ max: MAX_TOKENS });
  const nameOf = (token: string): string => hash("sha256", token, "base64");

  const remembered = (token: string): Claims | undefined => {
    const name = nameOf(token);
    const found = cache.get(name);
    if (found === undefined) return undefined;
    const { claims, version } = found;
    if (version >= 0 && version === keysVersion(claims.zone_id) && timeFault(claims, clock.now_ms()) === undefined)
      return claims;
    cache.delete(name);
    return undefined;
  };

  return {
    read(token) {
      const claims = remembered(token);
      if (claims !== undefined) return { kind: "verified", claims };
      const decoded = decodeToken(token);
      return decoded === undefined ? undefined : { kind: "decoded", token, decoded };
    },
    verify({ token, decoded }, { zone_id, key, version }, now_ms) {
      const claims = verifyToken(decoded, key, { issuer_url, key_zone_id: zone_id, now_ms });
      if (typeof claims === "string") return claims;
      cache.set(nameOf(token), { claims: constant(claims), version: version() }); // constant: so is their text as policy input
      return claims;
    },
  };
};
