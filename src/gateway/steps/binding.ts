import { deny, load } from "../../kernel/pipeline.ts";
import type { Binding, BindingTable } from "../known/bindings.ts";
import type { Claims, Route } from "../facts.ts";

/**
 * (zone, resource) → upstream. The zone is the verified token's; a path that names another finds nothing. A resource may
 * have been made a moment ago: the STS is asked before one is refused.
 */
export const bound = (bindings: BindingTable) =>
  load("binding", ({ claims, route }: { readonly claims: Claims; readonly route: Route }) => {
    const { by_path, identifier } = route;
    const { zone_id } = claims;
    if (by_path !== undefined && by_path.zone_id !== zone_id)
      return deny("resource_not_bound", "the path names another zone");
    const find = (): Binding | undefined =>
      by_path === undefined
        ? bindings.byIdentifier(zone_id, identifier ?? "")
        : bindings.byId(zone_id, by_path.resource_id);
    const binding = find();
    if (binding !== undefined) return { binding };
    return bindings.latest(zone_id).then((asked) => {
      const late = find();
      if (late !== undefined) return { binding: late };
      if (!asked) return deny("bindings_unavailable");
      return deny(bindings.tooLarge(zone_id) ? "zone_too_large" : "resource_not_bound");
    });
  });
