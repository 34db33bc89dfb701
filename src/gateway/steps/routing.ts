import { MAX_CHALLENGE_FIELD } from "../../contracts/exchange.ts";
import { plainPath } from "../../domain/call.ts";
import { parseScope } from "../../domain/scopes.ts";
import { type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { Inbound, Route, Start } from "../facts.ts";
import { pathFormOf, splitTarget } from "../edge/path.ts";

const say = (description: string) => ({ description });

const fault = (inbound: Inbound): Denial<"routing_refused" | "upgrade_not_supported"> | undefined => {
  if (inbound.framing_fault !== undefined) {
    return deny("routing_refused", undefined, say(`The request's framing is ambiguous: ${inbound.framing_fault}.`));
  }
  if (inbound.client_ids.length > 0) {
    return deny(
      "routing_refused",
      undefined,
      say("X-Caracal-Client-ID is not accepted: the token alone says who calls. Leave it out."),
    );
  }
  if (inbound.wants_websocket) {
    return deny("upgrade_not_supported", undefined, say("Upgrade: websocket is not supported by this Gateway."));
  }
  return undefined;
};

/** A challenge and its answer come together, each once. What they are worth is the STS's to say. */
const challengeFault = ({ challenge_ids, challenge_responses }: Inbound): Denial<"routing_refused"> | undefined => {
  if (challenge_ids.length === 0 && challenge_responses.length === 0) return undefined;
  const once = challenge_ids.length === 1 && challenge_responses.length === 1;
  const fits = [...challenge_ids, ...challenge_responses].every(
    (one) => one !== "" && one.length <= MAX_CHALLENGE_FIELD,
  );
  if (once && fits) return undefined;
  const names = "X-Caracal-Challenge-Id and X-Caracal-Challenge-Response";
  return deny("routing_refused", undefined, say(`Send ${names} together, each once, as the refusal gave them.`));
};

const byHeader = (identifier: string, path: string, query: string): Route => ({
  identifier,
  by_path: undefined,
  prefix: "",
  path,
  query,
});

/** What an id may be spelled with; whether it is one is the STS's to say. */
const ID = /^[\x21-\x7e]{1,128}$/;

const namedOnce = (header: string, values: readonly string[]): Denial<"routing_refused"> | undefined => {
  const [id, another] = values;
  if (id === undefined || (another === undefined && ID.test(id))) return undefined;
  return deny("routing_refused", undefined, say(`${header} must be one id, sent at most once.`));
};

/**
 * Which resource is meant: one `X-Caracal-Resource`, or else the path form. Everything that could make that ambiguous,
 * or that we would have to act on and can't, is refused by name.
 */
export const routing = load("routing", ({ inbound }: Start) => {
  const refused = fault(inbound) ?? challengeFault(inbound);
  if (refused !== undefined) return refused;
  const [scope, another_scope] = inbound.scopes;
  if (another_scope !== undefined) return deny("routing_refused", undefined, say("Send X-Caracal-Scope at most once."));
  if (scope !== undefined && parseScope(scope) === undefined) {
    return deny(
      "routing_refused",
      undefined,
      say("X-Caracal-Scope must be a space-separated list of scopes (RFC 6749, 3.3)."),
    );
  }
  const misnamed =
    namedOnce("X-Caracal-Agent-Session", inbound.agent_sessions) ??
    namedOnce("X-Caracal-Delegation-Edge", inbound.delegation_edges);
  if (misnamed !== undefined) return misnamed;
  const [agent_session_id] = inbound.agent_sessions;
  const [delegation_edge_id] = inbound.delegation_edges;
  const [identifier, another] = inbound.resources;
  if (another !== undefined) return deny("routing_refused", undefined, say("Send X-Caracal-Resource exactly once."));
  const target = splitTarget(inbound.target);
  const path = plainPath(target.path);
  const { query } = target;
  if (identifier !== undefined) {
    if (identifier === "" || identifier.length > 512) {
      return deny("routing_refused", undefined, say("X-Caracal-Resource must be the identifier of a resource."));
    }
    return { route: byHeader(identifier, path, query), scope, agent_session_id, delegation_edge_id };
  }
  const named = pathFormOf(path);
  if (named === undefined) {
    return deny(
      "routing_refused",
      undefined,
      say("Name the resource: send X-Caracal-Resource, or call /r/{zone_id}/{resource_id}/…."),
    );
  }
  const { zone_id, resource_id, prefix, rest } = named;
  const route: Route = { identifier: undefined, by_path: { zone_id, resource_id }, prefix, path: rest, query };
  return { route, scope, agent_session_id, delegation_edge_id };
});
