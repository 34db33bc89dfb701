import { LRUCache } from "lru-cache";
import type { Claims } from "../../domain/token.ts";
import { check, deny } from "../../kernel/pipeline.ts";

/** Mandates that this process knows to be used. */
export type UsedMandates = { has(claims: Claims): boolean; add(claims: Claims): void };

const MAX_USED = 20_000;

export const createUsedMandates = (): UsedMandates => {
  const used = new LRUCache<string, true>({ max: MAX_USED });
  return {
    has: ({ zone_id, jti }) => used.has(`${zone_id}:${jti}`),
    add: ({ zone_id, jti }) => void used.set(`${zone_id}:${jti}`, true),
  };
};

/**
 * Refuses what this process has seen used, before a row is written for it: the row comes before the mark, and whoever plays
 * one mandate back would fill the ledger. `single_use` has the last word, also on what other Gateways saw.
 */
export const unused = (used: UsedMandates) =>
  check("unused", ({ claims }: { readonly claims: Claims }) =>
    claims.use === "per_call" && used.has(claims) ? deny("mandate_used") : undefined,
  );
