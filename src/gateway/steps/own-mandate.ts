import type { Claims } from "../../domain/token.ts";
import { check, deny } from "../../kernel/pipeline.ts";

/**
 * A mandate that a Gateway obtained for its own hop is for the upstream that got it. One that comes back is an upstream
 * (or who listens there) that plays it again.
 */
export const notOurOwnMandate = check("not_our_own_mandate", ({ claims }: { readonly claims: Claims }) =>
  claims.via === "gateway" ? deny("mandate_played_back") : undefined,
);
