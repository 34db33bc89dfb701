import { intersect, isSubset, parseScope } from "../../domain/scopes.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Resource } from "../known/snapshot.ts";

/** Scopes of the platform itself belong to no resource: they come from the application's own list. */
const PLATFORM = "coordinator.";
const isPlatform = (scope: string): boolean => scope.startsWith(PLATFORM);

/**
 * Where a resource declares scopes, a token without any is none: an upstream that asks for no particular scope would take
 * it for one that was allowed.
 */
const unlessNothingLeft = (scopes: readonly string[], resources: readonly Resource[]) => {
  const declares = scopes.length === 0 ? resources.find((one) => one.scopes.length > 0) : undefined;
  return declares === undefined ? undefined : deny("scope_nothing_left", declares.identifier);
};

/** An exchange: within resource, application and subject token; by default all that these leave. */
export const exchangeScope = load("scope", (f: Pick<Facts, "request" | "resource" | "application" | "subject">) => {
  const held = parseScope(f.subject.scope);
  if (held === undefined) return deny("scope_malformed");
  const possible = intersect(f.resource.scopes, f.application.scopes, held);
  if (f.request.scope === undefined) return unlessNothingLeft(possible, [f.resource]) ?? { scopes: possible };
  const wanted = parseScope(f.request.scope);
  if (wanted === undefined) return deny("scope_malformed");
  return isSubset(wanted, possible) ? { scopes: wanted } : deny("scope_not_allowed", f.request.scope.slice(0, 512));
});

/**
 * An ambient token: within the application's list, and, where it names resources, within what these have between them.
 * By default the whole list, or all of it that the named resources know.
 */
export const issueScope = load("scope", (f: Pick<Facts, "request" | "resources" | "application">) => {
  const limited = f.resources.length > 0;
  const known = new Set(f.resources.flatMap((one) => one.scopes));
  if (f.request.scope === undefined) {
    const scopes = limited ? f.application.scopes.filter((scope) => known.has(scope)) : f.application.scopes;
    return unlessNothingLeft(scopes, f.resources) ?? { scopes };
  }
  const wanted = parseScope(f.request.scope);
  if (wanted === undefined) return deny("scope_malformed");
  const fits =
    isSubset(wanted, f.application.scopes) &&
    (!limited || wanted.every((scope) => known.has(scope) || isPlatform(scope)));
  return fits ? { scopes: wanted } : deny("scope_not_allowed", f.request.scope.slice(0, 512));
});

/** The scopes of an ambient token that is limited to resources: those that were granted at one of them, and the platform's. */
export const grantedScopes = (f: Pick<Facts, "scopes" | "granted" | "resources">): readonly string[] => {
  if (f.resources.length === 0) return f.scopes;
  const granted = new Set(f.granted.flatMap((one) => one.scopes));
  return f.scopes.filter((scope) => granted.has(scope) || isPlatform(scope));
};

/** The same of what policy left. */
export const scopeLeft = check("scope_left", (f: Pick<Facts, "scopes" | "granted" | "resources">) =>
  unlessNothingLeft(
    grantedScopes(f),
    f.granted.map((one) => one.resource),
  ),
);
