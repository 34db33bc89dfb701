import type { Claims } from "../../domain/token.ts";
import { check, Denial, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Resource, ZoneSnapshot } from "../known/snapshot.ts";
import type { Snapshots } from "../known/snapshots.ts";

type Latest = Pick<Snapshots, "latest">;
type Asks = Pick<Facts, "request"> & { readonly zone: ZoneSnapshot };

/** What is judged further on is of the zone in which the resources were found. */
type Found = { readonly zone: ZoneSnapshot; readonly resources: readonly Resource[] };

const findIn = (zone: ZoneSnapshot, names: ReadonlySet<string>): Found | string => {
  const resources: Resource[] = [];
  for (const name of names) {
    const known = zone.resources.get(name);
    if (known === undefined) return name;
    resources.push(known);
  }
  return { zone, resources };
};

const foundOr = (found: Found | string) =>
  typeof found === "string" ? deny("resource_unknown", found.slice(0, 512)) : found;

/** A resource may have been made a moment ago: the zone is read anew before one is refused as unknown. */
const find = (snapshots: Latest, f: Asks) => {
  const names = new Set(f.request.resources);
  const found = findIn(f.zone, names);
  if (typeof found !== "string") return found;
  return snapshots.latest(f.zone.zone_id).then(
    (zone) => foundOr(zone === undefined ? found : findIn(zone, names)),
    () => deny("zone_unavailable"),
  );
};

const onlyOne = ({ zone, resources: [one] }: Found) =>
  one === undefined ? deny("resource_unknown") : { zone, resource: one };

/** The one resource of an exchange. */
export const resource = (snapshots: Latest) =>
  load("resource", (f: Asks) => {
    const found = find(snapshots, f);
    if (!(found instanceof Promise)) return onlyOne(found);
    return found.then((late) => (late instanceof Denial ? late : onlyOne(late)));
  });

/** All that an ambient token is to be limited to, each once. */
export const resources = (snapshots: Latest) => load("resources", (f: Asks) => find(snapshots, f));

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
