import type { PresentedTokens } from "../../authority/presented-tokens.ts";
import { MAX_TOKEN_BYTES } from "../../domain/token.ts";
import { deny, load } from "../../kernel/pipeline.ts";

/**
 * At most 4096 bytes and a token of ours by form. One that was verified before is known by its hash, and is not taken
 * apart again.
 */
export const tokenForm = (tokens: PresentedTokens) =>
  load("token_form", ({ token }: { readonly token: string }) => {
    if (token.length > MAX_TOKEN_BYTES) return deny("token_malformed", `${token.length} bytes`);
    const presented = tokens.read(token);
    if (presented === undefined) return deny("token_malformed");
    const said = presented.kind === "verified" ? presented.claims : presented.decoded;
    return { presented, token_zone_id: said.zone_id, exp: said.exp };
  });
