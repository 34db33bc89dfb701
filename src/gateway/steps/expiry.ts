import { check, deny } from "../../kernel/pipeline.ts";

/** What a token must still have, in seconds: an exchange and a call fit in, so that none dies on the way. */
const MIN_LEFT_S = 35;

/** Before the signature is verified: a lie about `exp` gains nothing here, and the truth saves the work. */
export const notExpiring = check("not_expiring", ({ exp, now_ms }: { readonly exp: number; readonly now_ms: number }) =>
  exp - now_ms / 1000 > MIN_LEFT_S ? undefined : deny("token_expiring"),
);
