import { constant } from "../kernel/json-text.ts";
import type { PolicyDelegationEdge } from "./policy-input.ts";
import type { DelegationLink } from "./revocation.ts";
import { intersect, isSubset } from "./scopes.ts";

/** The most edges from a root to the one that is used. */
export const MAX_HOPS = 10;

/** What an edge lets through. */
export type Reach = {
  readonly scopes: readonly string[];
  /** null: any resource. */
  readonly resource_id: string | null;
  /** Seconds since the epoch. */
  readonly expires_at_s: number;
  /** Edges from this one on, itself counted: 1 is passed on no further. */
  readonly max_hops: number;
};

/** What may be used of an edge, and what was when it was read; null: without a limit of that kind. */
export type DelegationBudget = {
  readonly exchanges_max: number | null;
  readonly exchanges_used: number;
  readonly cost_max: number | null;
};

/** An edge as it was read. `source`: the agent session that gave the authority. */
export type DelegationEdge = Reach & {
  readonly id: string;
  readonly parent_edge_id: string | null;
  readonly source_session_id: string;
  readonly target_session_id: string;
  readonly issuer_application_id: string;
  readonly receiver_application_id: string;
  /** The longest life of a mandate; null: no limit of its own. */
  readonly ttl_s: number | null;
  readonly edge_version: number;
  readonly constraints_json: unknown;
  readonly revoked: boolean;
  readonly source: { readonly active: boolean; readonly expires_at_s: number };
  readonly budget: DelegationBudget | null;
};

/** Whether a hop gives on no more than was received: of scopes, resources and time. How often it may is `mayPassOn`. */
export const attenuates = (parent: Reach, child: Reach): boolean =>
  isSubset(child.scopes, parent.scopes) &&
  (parent.resource_id === null || child.resource_id === parent.resource_id) &&
  child.expires_at_s <= parent.expires_at_s;

/** Each hop uses up one of its parent's, so that no edge is passed on more often than its root allowed. */
export const mayPassOn = (parent: Reach, child: Reach): boolean => child.max_hops < parent.max_hops;

/** The edges from a root to the one that is used, and what they leave together. Frozen. */
export type DelegationPath = {
  readonly edges: readonly DelegationEdge[];
  /** Those that every edge lets through. */
  readonly scopes: readonly string[];
  /** The one resource that it is limited to; null: any. */
  readonly resource_id: string | null;
  /** The earliest end of an edge or of the agent session that gave it. */
  readonly expires_at_s: number;
  /** The longest life of a mandate; Infinity where no edge limits it. */
  readonly ttl_s: number;
  readonly root: DelegationEdge;
  /** The edge that is used. */
  readonly last: DelegationEdge;
  /** For the token: who the authority came through. */
  readonly chain: readonly DelegationLink[];
  /** For policy: the edge that is used, with its path. */
  readonly seen: PolicyDelegationEdge;
};

const linksOf = (root: DelegationEdge, edges: readonly DelegationEdge[]): readonly DelegationLink[] => [
  { application_id: root.issuer_application_id, agent_session_id: root.source_session_id },
  ...edges.map((edge) => ({
    application_id: edge.receiver_application_id,
    agent_session_id: edge.target_session_id,
    delegation_edge_id: edge.id,
  })),
];

/**
 * Edges, the root first → the path that they are, whether it holds or not (`pathFault`); undefined where there are none.
 * `graph_epoch`: the zone's when they were read.
 */
export const pathOf = (edges: readonly DelegationEdge[], graph_epoch: number): DelegationPath | undefined => {
  const [root, ...others] = edges;
  const last = edges.at(-1);
  if (root === undefined || last === undefined) return undefined;
  const limited = edges.find((edge) => edge.resource_id !== null);
  return constant({
    edges,
    scopes: intersect(last.scopes, ...edges.map((edge) => edge.scopes)),
    resource_id: limited?.resource_id ?? null,
    expires_at_s: Math.min(...edges.flatMap((edge) => [edge.expires_at_s, edge.source.expires_at_s])),
    ttl_s: Math.min(...edges.map((edge) => edge.ttl_s ?? Infinity)),
    root,
    last,
    chain: linksOf(root, [root, ...others]),
    seen: {
      id: last.id,
      source_session_id: last.source_session_id,
      target_session_id: last.target_session_id,
      issuer_application_id: last.issuer_application_id,
      receiver_application_id: last.receiver_application_id,
      resource_id: last.resource_id,
      scopes: last.scopes,
      edge_version: last.edge_version,
      path: edges.map((edge) => edge.id),
      graph_epoch,
      constraints_json: last.constraints_json,
    },
  });
};

/** Why a path gives no authority: the first of these that is so, in this order. */
export type PathFault = "broken" | "too_deep" | "revoked" | "source_ended" | "expired" | "widened" | "budget_spent";

const isLinked = (edge: DelegationEdge, parent: DelegationEdge | undefined): boolean =>
  edge.parent_edge_id === (parent?.id ?? null) &&
  (parent === undefined || edge.source_session_id === parent.target_session_id);

const isSpent = ({ budget }: DelegationEdge): boolean =>
  budget !== null && budget.exchanges_max !== null && budget.exchanges_used >= budget.exchanges_max;

/**
 * The rule that says whether a path holds, by its rows alone; undefined where it does. Whether one of it was revoked since
 * they were read is the revocation state's to say. `now_s`: seconds since the epoch.
 */
export const pathFault = ({ edges }: DelegationPath, now_s: number): PathFault | undefined => {
  const hops = edges.slice(1).map((child, at) => [edges[at] as DelegationEdge, child] as const);
  if (edges.length > MAX_HOPS) return "too_deep";
  if (!edges.every((edge, at) => isLinked(edge, edges[at - 1]))) return "broken";
  if (!hops.every(([parent, child]) => mayPassOn(parent, child))) return "too_deep";
  if (edges.some((edge) => edge.revoked)) return "revoked";
  if (edges.some(({ source }) => !source.active || source.expires_at_s <= now_s)) return "source_ended";
  if (edges.some((edge) => edge.expires_at_s <= now_s)) return "expired";
  if (!hops.every(([parent, child]) => attenuates(parent, child))) return "widened";
  return edges.some(isSpent) ? "budget_spent" : undefined;
};
