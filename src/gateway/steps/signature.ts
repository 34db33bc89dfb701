import { type Claims, type DecodedToken, verifyToken } from "../../domain/token.ts";
import type { VerifiedTokens } from "../../domain/verified-tokens.ts";
import { type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { BindingTable } from "../known/bindings.ts";
import type { Presented, Start } from "../facts.ts";
import type { KeyLookup, ZoneKeys } from "../known/keys.ts";

type Needs = Start & Presented;
type Verified = { readonly claims: Claims };
type Refused = Denial<"token_invalid" | "keys_unavailable">;

/**
 * The signature against the zone's keys, then what the claims say. The zone of a token that is not verified yet is a key
 * into the zones that we know and nothing else: random zones cost no question to the STS.
 */
export const signature = (deps: {
  readonly issuer_url: string;
  readonly bindings: BindingTable;
  readonly keys: ZoneKeys;
  readonly verified: VerifiedTokens;
}) => {
  const { issuer_url, bindings, keys, verified } = deps;

  const judge = (facts: Needs, decoded: DecodedToken, key: KeyLookup): Verified | Refused => {
    if (key === "unavailable") return deny("keys_unavailable", facts.token_zone_id);
    if (key === "unknown") return deny("token_invalid", "unknown key");
    const expected = { issuer_url, key_zone_id: facts.token_zone_id, now_ms: facts.now_ms };
    const claims = verifyToken(decoded, key, expected);
    if (typeof claims === "string") return deny("token_invalid", claims);
    verified.set(facts.token, claims, keys.version(claims.zone_id));
    return { claims };
  };

  return load("signature", (facts: Needs): Verified | Refused | Promise<Verified | Refused> => {
    const { known, decoded } = facts;
    if (known !== undefined) return { claims: known };
    if (decoded === undefined || !bindings.knows(facts.token_zone_id)) return deny("token_invalid", "unknown zone");
    const key = keys.find(facts.token_zone_id, decoded.kid);
    return key instanceof Promise ? key.then((found) => judge(facts, decoded, found)) : judge(facts, decoded, key);
  });
};
