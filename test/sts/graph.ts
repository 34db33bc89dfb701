import { enqueueRevocation } from "../../src/broadcast/outbox-store.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import type { Transaction } from "../../src/ports/database.ts";
import type { Fixture, TestApplication } from "./fixture.ts";

/** Who runs, and who gave what to whom, in one zone: what the Coordinator writes, written by hand. */

export type TestAgent = { readonly id: string; readonly application: TestApplication };
export type EdgeOptions = {
  readonly parent?: string;
  readonly resource_id?: string;
  readonly scopes?: readonly string[];
  readonly max_hops?: number;
  readonly ttl_seconds?: number;
  readonly expires_in_s?: number;
  readonly exchanges_max?: number;
  readonly cost_max?: number;
  readonly constraints?: object;
};

export type Graph = {
  agent(
    application: TestApplication,
    some?: { readonly session_sid?: string; readonly expires_in_s?: number },
  ): Promise<TestAgent>;
  /** Resolves to the edge's id. */
  edge(from: TestAgent, to: TestAgent, some?: EdgeOptions): Promise<string>;
  /** Edges from each to the next, each passed on by the one that received it: the root first. */
  path(agents: readonly TestAgent[], some?: EdgeOptions): Promise<readonly string[]>;
  /** Announced in the transaction of the change, as are the two below. */
  suspend(agent: TestAgent): Promise<void>;
  resume(agent: TestAgent): Promise<void>;
  revoke(edge_id: string): Promise<void>;
  used(edge_id: string): Promise<{ exchanges_used: number; cost_used: number } | undefined>;
};

export const createGraph = (f: Fixture, zone_id: string): Graph => {
  const announced = (work: (tx: Transaction) => Promise<unknown>) =>
    f.control.sql.begin(async (tx) => void (await work(tx)));

  const standing = (agent: TestAgent, status: "active" | "suspended", op: "revoke" | "resume") =>
    announced(async (tx) => {
      const [row] = await tx<{ ends_s: number }[]>`update agent_sessions set status = ${status}, status_since = now()
        where zone_id = ${zone_id} and id = ${agent.id} returning ceil(extract(epoch from expires_at))::float8 as ends_s`;
      const expires_at = (row?.ends_s ?? 0) + 60;
      await enqueueRevocation(tx, { op, kind: "agent_session", id: agent.id, zone_id, expires_at });
    });

  const edge: Graph["edge"] = async (from, to, some = {}) => {
    const id = uuidv7();
    const { exchanges_max = null, cost_max = null } = some;
    await announced(async (tx) => {
      await tx`insert into delegation_edges (zone_id, id, parent_edge_id, source_session_id, target_session_id,
          issuer_application_id, receiver_application_id, resource_id, scopes, max_hops, ttl_seconds, constraints_json, expires_at)
        values (${zone_id}, ${id}, ${some.parent ?? null}, ${from.id}, ${to.id}, ${from.application.id}, ${to.application.id},
          ${some.resource_id ?? null},
          array(select json_array_elements_text(${JSON.stringify(some.scopes ?? ["read", "write"])}::text::json)),
          ${some.max_hops ?? 10}, ${some.ttl_seconds ?? null}, ${JSON.stringify(some.constraints ?? {})}::text::jsonb,
          now() + make_interval(secs => ${some.expires_in_s ?? 1_800}::float8))`;
      if (exchanges_max === null && cost_max === null) return;
      await tx`insert into delegation_budgets (zone_id, edge_id, exchanges_max, cost_max)
        values (${zone_id}, ${id}, ${exchanges_max}, ${cost_max})`;
    });
    return id;
  };

  return {
    async agent(application, some = {}) {
      const id = uuidv7();
      await f.control.sql`insert into agent_sessions (zone_id, id, application_id, session_sid, kind, expires_at)
        values (${zone_id}, ${id}, ${application.id}, ${some.session_sid ?? null}, 'instance',
          now() + make_interval(secs => ${some.expires_in_s ?? 3_600}::float8))`;
      return { id, application };
    },
    edge,
    async path(agents, some = {}) {
      const ids: string[] = [];
      for (const [at, to] of agents.slice(1).entries()) {
        const before = ids.at(-1);
        // Each hop ends a second before the one that it came through, and may be passed on once less often.
        const own = { max_hops: (some.max_hops ?? 10) - at, expires_in_s: (some.expires_in_s ?? 1_800) - at };
        ids.push(
          await edge(agents[at] as TestAgent, to, {
            ...some,
            ...own,
            ...(before === undefined ? {} : { parent: before }),
          }),
        );
      }
      return ids;
    },
    suspend: (agent) => standing(agent, "suspended", "revoke"),
    resume: (agent) => standing(agent, "active", "resume"),
    revoke: (edge_id) =>
      announced(async (tx) => {
        const [row] = await tx<{ ends_s: number }[]>`update delegation_edges set revoked_at = now()
          where zone_id = ${zone_id} and id = ${edge_id} returning ceil(extract(epoch from expires_at))::float8 as ends_s`;
        await tx`insert into delegation_epochs (zone_id, epoch) values (${zone_id}, 1)
          on conflict (zone_id) do update set epoch = delegation_epochs.epoch + 1`;
        const expires_at = (row?.ends_s ?? 0) + 60;
        await enqueueRevocation(tx, { op: "revoke", kind: "delegation_edge", id: edge_id, zone_id, expires_at });
      }),
    async used(edge_id) {
      const [row] = await f.control.sql<{ exchanges_used: number; cost_used: number }[]>`
        select exchanges_used::float8 as exchanges_used, cost_used::float8 as cost_used
        from delegation_budgets where zone_id = ${zone_id} and edge_id = ${edge_id}`;
      return row;
    },
  };
};
