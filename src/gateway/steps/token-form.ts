import { decodeToken, MAX_TOKEN_BYTES } from "../../domain/token.ts";
import type { VerifiedTokens } from "../../domain/verified-tokens.ts";
import { deny, load } from "../../kernel/pipeline.ts";

/**
 * At most 4096 bytes and a token of ours by form. One that was verified before is known by its hash, and is not taken
 * apart again.
 */
export const tokenForm = (verified: VerifiedTokens) =>
  load("token_form", ({ token }: { readonly token: string }) => {
    if (token.length > MAX_TOKEN_BYTES) return deny("token_malformed", `${token.length} bytes`);
    const known = verified.get(token);
    if (known !== undefined) return { known, decoded: undefined, token_zone_id: known.zone_id, exp: known.exp };
    const decoded = decodeToken(token);
    if (decoded === undefined) return deny("token_malformed");
    return { known: undefined, decoded, token_zone_id: decoded.zone_id, exp: decoded.exp };
  });
