import { check, deny } from "../../kernel/pipeline.ts";
import type { Claims, Route, Start } from "../facts.ts";

/**
 * A mandate that an agent got itself was allowed for one method and path: for another call nobody has said yes. The path
 * is compared as it goes to policy and upstream: in its plain spelling, without the query and the path form's prefix.
 */
export const boundCall = check(
  "bound_call",
  ({ claims, inbound, route }: Start & { readonly claims: Claims; readonly route: Route }) =>
    (claims.htm === undefined || claims.htm === inbound.method) &&
    (claims.htp === undefined || claims.htp === route.path)
      ? undefined
      : deny("mandate_for_another_call"),
);
