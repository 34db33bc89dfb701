import { deny, load } from "../../kernel/pipeline.ts";
import type { BindingTable } from "../known/bindings.ts";
import type { Claims, Route } from "../facts.ts";

/** (zone, resource) → upstream. The zone is the verified token's; a path that names another finds nothing. */
export const bound = (bindings: BindingTable) =>
  load("binding", ({ claims, route }: { readonly claims: Claims; readonly route: Route }) => {
    const { by_path, identifier } = route;
    if (by_path !== undefined && by_path.zone_id !== claims.zone_id)
      return deny("resource_not_bound", "the path names another zone");
    const binding =
      by_path === undefined
        ? bindings.byIdentifier(claims.zone_id, identifier ?? "")
        : bindings.byId(claims.zone_id, by_path.resource_id);
    if (binding !== undefined) return { binding };
    return deny(bindings.tooLarge(claims.zone_id) ? "zone_too_large" : "resource_not_bound");
  });
