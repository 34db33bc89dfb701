import { hash } from "node:crypto";
import { LRUCache } from "lru-cache";
import type { Clock } from "../kernel/clock.ts";
import { type Claims, timeFault } from "./token.ts";

/** Tokens whose signature was verified, remembered by their hash: a look-up costs 1 µs, a verification 50. */
export type VerifiedTokens = {
  /** The claims, where this very token was verified under a key that is still current, and is not expired. */
  get(token: string): Claims | undefined;
  set(token: string, claims: Claims, keys_version: number): void;
};

const MAX_TOKENS = 20_000;

/**
 * `keysVersion`: a number (negative while no key is known) that changes whenever the keys of that zone do; a token that was verified before is then
 * verified again, so that a withdrawn key takes its tokens along.
 */
export const createVerifiedTokens = (clock: Clock, keysVersion: (zone_id: string) => number): VerifiedTokens => {
  const cache = new LRUCache<string, { claims: Claims; version: number }>({ max: MAX_TOKENS });
  const nameOf = (token: string): string => hash("sha256", token, "base64");
  return {
    get(token) {
      const name = nameOf(token);
      const found = cache.get(name);
      if (found === undefined) return undefined;
      if (
        found.version < 0 ||
        found.version !== keysVersion(found.claims.zone_id) ||
        timeFault(found.claims, clock.now_ms()) !== undefined
      ) {
        cache.delete(name);
        return undefined;
      }
      return found.claims;
    },
    set(token, claims, version) {
      cache.set(nameOf(token), { claims, version });
    },
  };
};
