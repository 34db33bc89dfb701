import type { PresentedToken, PresentedTokens } from "../../authority/presented-tokens.ts";
import type { Claims } from "../../domain/token.ts";
import { type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { BindingTable } from "../known/bindings.ts";
import type { Presented, Start } from "../facts.ts";
import type { KeyLookup, ZoneKeys } from "../known/keys.ts";

type Needs = Pick<Start, "now_ms"> & Pick<Presented, "presented" | "token_zone_id">;
type Unverified = Extract<PresentedToken, { kind: "decoded" }>;
type Verified = { readonly claims: Claims };
type Judged = Verified | Refused;
type Refused = Denial<"token_invalid" | "keys_unavailable">;

/**
 * The signature against the zone's keys, then what the claims say. The zone of a token that is not verified yet is a key
 * into the zones that we know. One that we don't know may have been made a moment ago: the STS is asked, a few times a second
 * for all such zones together.
 */
export const signature = (deps: {
  readonly bindings: BindingTable;
  readonly keys: ZoneKeys;
  readonly tokens: PresentedTokens;
}) => {
  const { bindings, keys, tokens } = deps;

  const judge = (facts: Needs, presented: Unverified, key: KeyLookup): Verified | Refused => {
    const { token_zone_id: zone_id } = facts;
    if (key === "unavailable") return deny("keys_unavailable", zone_id);
    if (key === "unknown") return deny("token_invalid", "unknown key");
    const claims = tokens.verify(presented, { zone_id, key, version: () => keys.version(zone_id) }, facts.now_ms);
    return typeof claims === "string" ? deny("token_invalid", claims) : { claims };
  };

  const verified = (facts: Needs, presented: Unverified): Judged | Promise<Judged> => {
    const key = keys.find(facts.token_zone_id, presented.decoded.kid);
    return key instanceof Promise ? key.then((found) => judge(facts, presented, found)) : judge(facts, presented, key);
  };

  return load("signature", (facts: Needs): Judged | Promise<Judged> => {
    const { presented, token_zone_id: zone_id } = facts;
    if (presented.kind === "verified") return { claims: presented.claims };
    if (bindings.knows(zone_id)) return verified(facts, presented);
    return bindings
      .latest(zone_id)
      .then(() => (bindings.knows(zone_id) ? verified(facts, presented) : deny("token_invalid", "unknown zone")));
  });
};
