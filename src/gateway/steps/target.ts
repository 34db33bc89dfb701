import { check, deny } from "../../kernel/pipeline.ts";
import type { Binding, Claims } from "../facts.ts";

/** The resource is one that the token is limited to. An ambient token without a list is limited by policy alone. */
export const targeted = check(
  "target",
  ({ claims, binding }: { readonly claims: Claims; readonly binding: Binding }) => {
    if (claims.use === "ambient" && claims.target.length === 0) return undefined;
    return claims.target.includes(binding.identifier) ? undefined : deny("resource_not_targeted");
  },
);
