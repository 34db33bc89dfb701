import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Resource, ZoneSnapshot } from "../known/snapshot.ts";

/** The one resource of an exchange. */
export const resource = load("resource", (f: Pick<Facts, "request"> & { readonly zone: ZoneSnapshot }) => {
  const named = f.request.resources[0];
  const found = named === undefined ? undefined : f.zone.resources.get(named);
  return found === undefined ? deny("resource_unknown", named?.slice(0, 512)) : { resource: found };
});

/** All that an ambient token is to be limited to, each once. */
export const resources = load("resources", (f: Pick<Facts, "request"> & { readonly zone: ZoneSnapshot }) => {
  const found: Resource[] = [];
  for (const named of new Set(f.request.resources)) {
    const known = f.zone.resources.get(named);
    if (known === undefined) return deny("resource_unknown", named.slice(0, 512));
    found.push(known);
  }
  return { resources: found };
});

/** An empty target is no limit. */
export const resourceInTarget = check("resource_in_target", (f: Pick<Facts, "resource" | "subject">) =>
  f.subject.target.length === 0 || f.subject.target.includes(f.resource.identifier)
    ? undefined
    : deny("resource_not_in_target", f.resource.identifier),
);
