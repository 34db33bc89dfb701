import type { Claims } from "../../domain/token.ts";
import { check, Denial, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Resource, ZoneSnapshot } from "../known/snapshot.ts";
import type { Snapshots } from "../known/snapshots.ts";

type Latest = Pick<Snapshots, "latest">;
type Asks = Pick<Facts, "request"> & { readonly zone: ZoneSnapshot };

/** What is judged further on is of the zone in which the resources were found. */
type Found = { readonly zone: ZoneSnapshot; readonly resources: readonly Resource[] };

/**
 * By its identifier, or by the URL at which the Gateway serves it (RFC 8707, 2): a stock client knows no other. With and
 * without the last slash, since clients add and drop it; every other spelling is another name.
 */
const named = (zone: ZoneSnapshot, name: string, gateway_url: string | undefined): Resource | undefined => {
  const known = zone.resources.get(name);
  if (known !== undefined || gateway_url === undefined) return known;
  const under = `${gateway_url}/r/${zone.zone_id}/`;
  if (!name.startsWith(under)) return undefined;
  return zone.resources_by_id.get(name.slice(under.length, name.endsWith("/") ? -1 : undefined));
};

/** Each once, under whatever names. */
const findIn = (zone: ZoneSnapshot, names: ReadonlySet<string>, gateway_url: string | undefined): Found | string => {
  const resources = new Set<Resource>();
  for (const name of names) {
    const known = named(zone, name, gateway_url);
    if (known === undefined) return name;
    resources.add(known);
  }
  return { zone, resources: [...resources] };
};

const foundOr = (found: Found | string) =>
  typeof found === "string" ? deny("resource_unknown", found.slice(0, 512)) : found;

/** A resource may have been made a moment ago: the zone is read anew before one is refused as unknown. */
const find = (snapshots: Latest, f: Asks, gateway_url: string | undefined) => {
  const names = new Set(f.request.resources);
  const found = findIn(f.zone, names, gateway_url);
  if (typeof found !== "string") return found;
  return snapshots.latest(f.zone.zone_id).then(
    (zone) => foundOr(zone === undefined ? found : findIn(zone, names, gateway_url)),
    () => deny("zone_unavailable"),
  );
};

const onlyOne = ({ zone, resources: [one] }: Found) =>
  one === undefined ? deny("resource_unknown") : { zone, resource: one };

/** The one resource of an exchange. `gateway_url`: `GATEWAY_PUBLIC_URL`. */
export const resource = (snapshots: Latest, gateway_url: string | undefined) =>
  load("resource", (f: Asks) => {
    const found = find(snapshots, f, gateway_url);
    if (!(found instanceof Promise)) return onlyOne(found);
    return found.then((late) => (late instanceof Denial ? late : onlyOne(late)));
  });

/** All that an ambient token is to be limited to, each once. */
export const resources = (snapshots: Latest, gateway_url: string | undefined) =>
  load("resources", (f: Asks) => find(snapshots, f, gateway_url));

/** An empty target is no limit. An actor that is limited to resources acts for nobody at others. */
export const resourceInTarget = check(
  "resource_in_target",
  ({ resource: { identifier }, subject, actor }: Pick<Facts, "resource" | "subject" | "actor">) => {
    const reaches = ({ target }: Claims): boolean => target.length === 0 || target.includes(identifier);
    return reaches(subject) && (actor === undefined || reaches(actor))
      ? undefined
      : deny("resource_not_in_target", identifier);
  },
);

/**
 * Its upstream takes a provider's credential, which no part of this version gets. A mandate in its place would be shown to
 * somebody who is not to have it.
 */
export const withoutProvider = check("without_provider", (f: Pick<Facts, "resource">) =>
  f.resource.provider_id === null ? undefined : deny("provider_not_served", f.resource.identifier),
);
