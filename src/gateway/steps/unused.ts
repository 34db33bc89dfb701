import { LRUCache } from "lru-cache";
import type { Claims } from "../../domain/token.ts";
import { check, deny } from "../../kernel/pipeline.ts";

/** Mandates that this process knows to be used, or is about to mark. */
export type UsedMandates = {
  has(claims: Claims): boolean;
  /** From now on the mandate is this call's; false where it is another's, or was used. */
  claim(claims: Claims): boolean;
  /** Takes a claim back: the mandate is not used. */
  drop(claims: Claims): void;
};

const MAX_USED = 20_000;

export const createUsedMandates = (): UsedMandates => {
  const used = new LRUCache<string, true>({ max: MAX_USED });
  const keyOf = ({ zone_id, jti }: Claims): string => `${zone_id}:${jti}`;
  return {
    has: (claims) => used.has(keyOf(claims)),
    claim(claims) {
      const key = keyOf(claims);
      if (used.has(key)) return false;
      used.set(key, true);
      return true;
    },
    drop: (claims) => void used.delete(keyOf(claims)),
  };
};

/**
 * Refuses what this process has seen used, before anything is done for it. `written` asks again in the tick in which it
 * writes, for calls that come at the same time; `single_use` has the last word, also on what other Gateways saw.
 */
export const unused = (used: UsedMandates) =>
  check("unused", ({ claims }: { readonly claims: Claims }) =>
    claims.use === "per_call" && used.has(claims) ? deny("mandate_used") : undefined,
  );
