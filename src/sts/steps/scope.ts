import { intersect, isPlatformScope, isSubset, parseScope } from "../../domain/scopes.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Resource } from "../known/snapshot.ts";

type Asks = Pick<Facts, "request" | "delegation" | "scope_owner">;

/**
 * Where a resource declares scopes, a token without any is none: an upstream that asks for no particular scope would take
 * it for one that was allowed.
 */
const unlessNothingLeft = (scopes: readonly string[], resources: readonly Resource[]) => {
  const declares = scopes.length === 0 ? resources.find((one) => one.scopes.length > 0) : undefined;
  return declares === undefined ? undefined : deny("scope_nothing_left", declares.identifier);
};

/**
 * What may be given on at all: the application's own list, or what a delegation passes on of its root's. Scopes of the
 * platform belong to no resource and come from the application's own list alone, so no delegation passes them on.
 */
const grantable = ({ delegation, scope_owner }: Pick<Facts, "delegation" | "scope_owner">): readonly string[] =>
  delegation === undefined
    ? scope_owner.scopes
    : intersect(delegation.scopes, scope_owner.scopes).filter((scope) => !isPlatformScope(scope));

/** An exchange: within resource, application or delegation, subject and actor token; by default all that these leave. */
export const exchangeScope = load("scope", (f: Asks & Pick<Facts, "resource" | "subject" | "actor">) => {
  const held = parseScope(f.subject.scope);
  const actors = f.actor === undefined ? held : parseScope(f.actor.scope);
  if (held === undefined || actors === undefined) return deny("scope_malformed");
  const possible = intersect(f.resource.scopes, grantable(f), held, actors);
  if (f.request.scope === undefined) return unlessNothingLeft(possible, [f.resource]) ?? { scopes: possible };
  const wanted = parseScope(f.request.scope);
  if (wanted === undefined) return deny("scope_malformed");
  return isSubset(wanted, possible) ? { scopes: wanted } : deny("scope_not_allowed", f.request.scope.slice(0, 512));
});

/**
 * An ambient token: within the application's list or the delegation, and, where it names resources, within what these have
 * between them. By default all of that.
 */
export const issueScope = load("scope", (f: Asks & Pick<Facts, "resources">) => {
  const limited = f.resources.length > 0;
  const own = grantable(f);
  const known = new Set(f.resources.flatMap((one) => one.scopes));
  if (f.request.scope === undefined) {
    const scopes = limited ? own.filter((scope) => known.has(scope)) : own;
    return unlessNothingLeft(scopes, f.resources) ?? { scopes };
  }
  const wanted = parseScope(f.request.scope);
  if (wanted === undefined) return deny("scope_malformed");
  const fits =
    isSubset(wanted, own) && (!limited || wanted.every((scope) => known.has(scope) || isPlatformScope(scope)));
  return fits ? { scopes: wanted } : deny("scope_not_allowed", f.request.scope.slice(0, 512));
});

/** The scopes of an ambient token that is limited to resources: those that were granted at one of them, and the platform's. */
export const grantedScopes = (f: Pick<Facts, "scopes" | "granted" | "resources">): readonly string[] => {
  if (f.resources.length === 0) return f.scopes;
  const granted = new Set(f.granted.flatMap((one) => one.scopes));
  return f.scopes.filter((scope) => granted.has(scope) || isPlatformScope(scope));
};

/** The same of what policy left. */
export const scopeLeft = check("scope_left", (f: Pick<Facts, "scopes" | "granted" | "resources">) =>
  unlessNothingLeft(
    grantedScopes(f),
    f.granted.map((one) => one.resource),
  ),
);
