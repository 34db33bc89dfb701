import { intersect, isSubset, parseScope } from "../../domain/scopes.ts";
import { deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";

/** Scopes of the platform itself belong to no resource: they come from the application's own list. */
const PLATFORM = "coordinator.";
const isPlatform = (scope: string): boolean => scope.startsWith(PLATFORM);

/**
 * An exchange: within resource, application and subject token; by default all that these leave. Where a resource declares
 * scopes, a mandate without any is none: an upstream that asks for no particular scope would take it for one that was allowed.
 */
export const exchangeScope = load("scope", (f: Pick<Facts, "request" | "resource" | "application" | "subject">) => {
  const held = parseScope(f.subject.scope);
  if (held === undefined) return deny("scope_malformed");
  const possible = intersect(f.resource.scopes, f.application.scopes, held);
  if (f.request.scope === undefined) {
    const nothing_left = possible.length === 0 && f.resource.scopes.length > 0;
    return nothing_left ? deny("scope_nothing_left", f.resource.identifier) : { scopes: possible };
  }
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
    return { scopes: limited ? f.application.scopes.filter((scope) => known.has(scope)) : f.application.scopes };
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
