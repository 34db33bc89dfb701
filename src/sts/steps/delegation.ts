import { type PathFault, pathFault } from "../../domain/delegation.ts";
import { check, type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { Delegations, FoundPath } from "../known/delegations.ts";
import type { Application, ZoneSnapshot } from "../known/snapshot.ts";
import type { Snapshots } from "../known/snapshots.ts";

type Needs = Pick<Facts, "delegation_edge_id" | "application"> &
  Partial<Pick<Facts, "subject">> & { readonly zone: ZoneSnapshot };
type Added = Pick<Facts, "delegation" | "delegation_marked" | "scope_owner">;
type Refused = Denial<
  "delegation_edge_unknown" | "delegation_unavailable" | "delegation_source_gone" | "delegation_graph_behind"
>;

/** The root's application, where every application that passed the authority on is still there. */
const ownerOf = (zone: ZoneSnapshot, { path }: FoundPath): Application | undefined =>
  path.edges.every((edge) => zone.applications.has(edge.issuer_application_id))
    ? zone.applications.get(path.root.issuer_application_id)
    : undefined;

const added = ({ path, marked }: FoundPath, scope_owner: Application | undefined): Added | Refused =>
  scope_owner === undefined
    ? deny("delegation_source_gone")
    : { delegation: path, delegation_marked: marked, scope_owner };

/**
 * The path of an edge from its root, and the application whose authority it passes on. An application may have been made a
 * moment ago: the zone is read anew before one is missed. A reading that is older than the token is no answer.
 */
export const delegation = (delegations: Pick<Delegations, "path">, snapshots: Pick<Snapshots, "latest">) => {
  const withOwner = (f: Needs, found: FoundPath | undefined): Added | Refused | Promise<Added | Refused> => {
    if (found === undefined) return deny("delegation_edge_unknown", f.delegation_edge_id?.slice(0, 64));
    if (found.path.seen.graph_epoch < (f.subject?.delegation_graph_epoch ?? 0)) return deny("delegation_graph_behind");
    const owner = ownerOf(f.zone, found);
    if (owner !== undefined) return added(found, owner);
    return snapshots.latest(f.zone.zone_id).then(
      (zone) => added(found, zone === undefined ? undefined : ownerOf(zone, found)),
      () => deny("delegation_unavailable"),
    );
  };

  return load("delegation", (f: Needs): Added | Refused | Promise<Added | Refused> => {
    const { delegation_edge_id: id } = f;
    if (id === undefined) return { delegation: undefined, delegation_marked: false, scope_owner: f.application };
    const found = delegations.path(f.zone.zone_id, id, f.subject?.delegation_graph_epoch ?? 0);
    if (!(found instanceof Promise)) return withOwner(f, found);
    return found.then(
      (read) => withOwner(f, read),
      () => deny("delegation_unavailable"),
    );
  });
};

const REASONS = {
  broken: "delegation_broken",
  too_deep: "delegation_too_deep",
  revoked: "delegation_revoked",
  source_ended: "delegation_source_ended",
  expired: "delegation_expired",
  widened: "delegation_widened",
  budget_spent: "delegation_budget_spent",
} as const satisfies Record<PathFault, string>;

/** Authority is used by the agent session that received it, and only while all that it came through holds. */
export const delegationHolds = check(
  "delegation_holds",
  (f: Pick<Facts, "delegation" | "delegation_marked" | "agent_session" | "application" | "now_ms">) => {
    const { delegation: path } = f;
    if (path === undefined) return undefined;
    const { target_session_id, receiver_application_id } = path.last;
    if (target_session_id !== f.agent_session?.id || receiver_application_id !== f.application.id)
      return deny("delegation_not_target");
    if (f.delegation_marked) return deny("delegation_revoked");
    const fault = pathFault(path, Math.floor(f.now_ms / 1_000));
    return fault === undefined ? undefined : deny(REASONS[fault]);
  },
);

/** The resource of an exchange, or each that an ambient token names. */
export const resourceDelegated = check(
  "resource_delegated",
  (f: Pick<Facts, "delegation"> & Partial<Pick<Facts, "resource" | "resources">>) => {
    const limit = f.delegation?.resource_id ?? null;
    if (limit === null) return undefined;
    const asked = f.resource === undefined ? (f.resources ?? []) : [f.resource];
    const outside = asked.find((one) => one.id !== limit);
    return outside === undefined ? undefined : deny("resource_not_delegated", outside.identifier);
  },
);
