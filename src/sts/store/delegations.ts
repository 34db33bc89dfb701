import { type DelegationEdge, MAX_HOPS } from "../../domain/delegation.ts";
import type { Queryable } from "../../ports/database.ts";

/** A row of `agent_sessions`. `expires_at_s` in seconds since the epoch. */
export type AgentSessionRow = {
  readonly application_id: string;
  /** The one session whose tokens may name it; null: any of its application. */
  readonly session_sid: string | null;
  readonly active: boolean;
  readonly expires_at_s: number;
};

export const readAgentSession = async (
  sql: Queryable,
  zone_id: string,
  id: string,
): Promise<AgentSessionRow | undefined> => {
  const rows = await sql<AgentSessionRow[]>`
    select application_id, session_sid, status = 'active' as active,
           floor(extract(epoch from expires_at))::float8 as expires_at_s
    from agent_sessions where zone_id = ${zone_id} and id = ${id}`;
  return rows[0];
};

/**
 * An edge and those before it, the root first, with the epoch of the zone's graph: one statement, so that they are of one
 * moment. Of a longer path than there may be: the last `MAX_HOPS` + 1 edges. Empty where there is no such edge.
 */
export const readPath = async (
  sql: Queryable,
  zone_id: string,
  id: string,
): Promise<{ readonly edges: readonly DelegationEdge[]; readonly graph_epoch: number }> => {
  const [row] = await sql<{ edges: readonly DelegationEdge[]; graph_epoch: number }[]>`
    with recursive path as (
      select e.zone_id, e.id, e.parent_edge_id, 1 as hop
      from delegation_edges e where e.zone_id = ${zone_id} and e.id = ${id}
      union all
      select p.zone_id, p.id, p.parent_edge_id, c.hop + 1
      from path c join delegation_edges p on p.zone_id = c.zone_id and p.id = c.parent_edge_id
      where c.hop <= ${MAX_HOPS}::int)
    select
      coalesce((select epoch from delegation_epochs where zone_id = ${zone_id}), 0)::float8 as graph_epoch,
      coalesce(json_agg(json_build_object(
        'id', e.id, 'parent_edge_id', e.parent_edge_id,
        'source_session_id', e.source_session_id, 'target_session_id', e.target_session_id,
        'issuer_application_id', e.issuer_application_id, 'receiver_application_id', e.receiver_application_id,
        'resource_id', e.resource_id, 'scopes', e.scopes, 'max_hops', e.max_hops, 'ttl_s', e.ttl_seconds,
        'edge_version', e.edge_version, 'constraints_json', e.constraints_json,
        'expires_at_s', floor(extract(epoch from e.expires_at))::float8, 'revoked', e.revoked_at is not null,
        'source', json_build_object(
          'active', s.status = 'active', 'expires_at_s', floor(extract(epoch from s.expires_at))::float8),
        'budget', case when b.edge_id is not null then json_build_object(
          'exchanges_max', b.exchanges_max, 'exchanges_used', b.exchanges_used, 'cost_max', b.cost_max) end
        ) order by path.hop desc), '[]'::json) as edges
    from path
    join delegation_edges e on e.zone_id = path.zone_id and e.id = path.id
    join agent_sessions s on s.zone_id = e.zone_id and s.id = e.source_session_id
    left join delegation_budgets b on b.zone_id = e.zone_id and b.edge_id = e.id`;
  if (row === undefined) throw new Error("the database did not tell the path of an edge");
  return row;
};

/**
 * Counts one exchange, and its cost, against each of the edges that has a budget: against all or, where one has not enough
 * left, against none (false). One statement. Rows are locked in the order of their ids, so that no two exchanges wait for
 * each other, and judged as they stand once they are locked; the table's own checks hold whatever this statement does.
 */
export const countExchange = async (
  sql: Queryable,
  zone_id: string,
  edge_ids: readonly string[],
  cost_units: number,
): Promise<boolean> => {
  const [row] = await sql<{ budgets: number; counted: number }[]>`
    with budgets as materialized (
      select b.zone_id, b.edge_id,
        coalesce(b.exchanges_used < b.exchanges_max, true)
          and coalesce(b.cost_used + ${cost_units}::bigint <= b.cost_max, true) as enough
      from delegation_budgets b
      where b.zone_id = ${zone_id}
        and b.edge_id in (select jsonb_array_elements_text(${JSON.stringify(edge_ids)}::text::jsonb))
      order by b.edge_id for no key update),
    counted as (
      update delegation_budgets b
      set exchanges_used = b.exchanges_used + 1, cost_used = b.cost_used + ${cost_units}::bigint
      from budgets l
      where b.zone_id = l.zone_id and b.edge_id = l.edge_id and (select bool_and(enough) from budgets)
      returning b.edge_id)
    select (select count(*) from budgets)::int as budgets, (select count(*) from counted)::int as counted`;
  return row !== undefined && row.budgets === edge_ids.length && row.counted === edge_ids.length;
};
