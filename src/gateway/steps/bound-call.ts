import { check, deny } from "../../kernel/pipeline.ts";
import type { Claims, NamedAuthority, Route, Start } from "../facts.ts";

/**
 * A mandate that an agent got itself was allowed for one method and path: for another call nobody has said yes. The path
 * is compared as it goes to policy and upstream: in its plain spelling, without the query and the path form's prefix.
 */
const isForCall = ({ htm, htp }: Claims, method: string, path: string): boolean =>
  (htm === undefined || htm === method) && (htp === undefined || htp === path);

/** It is not exchanged again, so no header makes it another agent's, or one of another delegation. */
const isForAuthority = (claims: Claims, named: NamedAuthority): boolean =>
  (named.agent_session_id === undefined || named.agent_session_id === claims.agent_session_id) &&
  (named.delegation_edge_id === undefined || named.delegation_edge_id === claims.delegation_edge_id);

export const boundCall = check(
  "bound_call",
  (f: Start & NamedAuthority & { readonly claims: Claims; readonly route: Route }) => {
    const { claims } = f;
    if (!isForCall(claims, f.inbound.method, f.route.path)) return deny("mandate_for_another_call");
    return claims.use === "ambient" || isForAuthority(claims, f) ? undefined : deny("mandate_for_another_call");
  },
);
