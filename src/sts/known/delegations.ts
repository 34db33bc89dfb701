import { type DelegationEdge, type DelegationPath, pathFault, pathOf } from "../../domain/delegation.ts";
import { chainRevokedBy, type Revocations } from "../../domain/revocation.ts";
import type { Clock } from "../../kernel/clock.ts";
import { isUuid } from "../../kernel/ids.ts";
import { createTurns } from "../../kernel/turns.ts";
import type { Database } from "../../ports/database.ts";
import { type AgentSessionRow, readAgentSession, readPath } from "../store/delegations.ts";
import { createAnnounced } from "./announced.ts";

export type AgentSession = AgentSessionRow & { readonly id: string };
export type FoundAgentSession = { readonly agent_session: AgentSession; readonly marked: boolean };
/** `marked`: on one of its edges, or on an agent session that it leads through. */
export type FoundPath = { readonly path: DelegationPath; readonly marked: boolean };

type Found<T> = T | undefined | Promise<T | undefined>;

/** Who runs, and with whose authority. undefined: there is none in this zone. Rejects where the database can't be asked. */
export type Delegations = {
  agentSession(zone_id: string, id: string): Found<FoundAgentSession>;
  /** The path to an edge. `epoch_min`: of the zone's graph, as the caller knows of it; an older reading is read anew. */
  path(zone_id: string, edge_id: string, epoch_min: number): Found<FoundPath>;
  /** The edges of a path whose budget an exchange of this cost takes from. */
  budgets(path: DelegationPath, cost_units: number): readonly string[];
  /** One at a time for a zone. Rejects with a `Problem` where too many of the zone wait. */
  inTurn<T>(zone_id: string, work: () => Promise<T>): Promise<T>;
  /** A budget of the path turned out to be used up: what was read of it is not so any more. */
  spent(zone_id: string, path: DelegationPath): void;
};

/**
 * A budget is one row, which exchanges wait for one after the other. They wait here and not in connections, of which a zone
 * has one for that, so that a budget that many use at once stops nobody who has none. A zone's minute is never over: what
 * runs one at a time can't take longer.
 */
const COUNTING = {
  running_max: 4,
  zone_waiting_max: 256,
  zones_max: 10_000,
  zone_ms_per_minute: 60_000,
  names: {
    waiting: "exchanges_to_count",
    seconds: "counting_seconds_a_minute",
    busy: "counting_busy",
  },
} as const;

/** Whether an exchange of this cost takes anything of an edge's budget. */
const takes =
  (cost_units: number) =>
  ({ budget }: DelegationEdge): boolean =>
    budget !== null && (budget.exchanges_max !== null || (budget.cost_max !== null && cost_units > 0));

const MAX_AGENT_SESSIONS = 50_000;
/** A path of ten edges takes some 10 KB. */
const MAX_PATHS = 10_000;

const whenRead = <A, B>(value: A | Promise<A>, use: (value: A) => B): B | Promise<B> =>
  value instanceof Promise ? value.then(use) : use(value);

/** Ids come from callers: what can't be one is not looked up. Marks are looked at last, as those of sessions are. */
export const createDelegations = (options: {
  readonly db: Database;
  readonly revocations: Revocations;
  readonly clock: Clock;
  readonly onRead?: (() => void) | undefined;
}): Delegations => {
  const { revocations, clock } = options;
  const { sql } = options.db;
  const turns = createTurns({ ...COUNTING, clock });
  const now_s = (): number => Math.floor(clock.now_ms() / 1_000);
  const agent_sessions = createAnnounced<AgentSession>({
    async read(zone_id, id) {
      options.onRead?.();
      const row = await readAgentSession(sql, zone_id, id);
      return row === undefined ? undefined : { id, ...row };
    },
    holds: ({ active, expires_at_s }) => active && expires_at_s > now_s(),
    max: MAX_AGENT_SESSIONS,
    revocations,
    clock,
  });
  const paths = createAnnounced<DelegationPath>({
    async read(zone_id, edge_id) {
      options.onRead?.();
      const { edges, graph_epoch } = await readPath(sql, zone_id, edge_id);
      return pathOf(edges, graph_epoch);
    },
    holds: (path) => pathFault(path, now_s()) === undefined,
    max: MAX_PATHS,
    revocations,
    clock,
  });

  return {
    agentSession(zone_id, id) {
      if (!isUuid(id)) return undefined;
      return whenRead(agent_sessions.get(zone_id, id), (agent_session) =>
        agent_session === undefined
          ? undefined
          : { agent_session, marked: revocations.revoked(zone_id, "agent_session", id) },
      );
    },
    path(zone_id, edge_id, epoch_min) {
      if (!isUuid(edge_id)) return undefined;
      const found = (path: DelegationPath | undefined): FoundPath | undefined =>
        path === undefined
          ? undefined
          : { path, marked: chainRevokedBy(revocations, zone_id, path.chain) !== undefined };
      const known = paths.get(zone_id, edge_id);
      if (known instanceof Promise || known === undefined || known.seen.graph_epoch >= epoch_min)
        return whenRead(known, found);
      return paths.latest(zone_id, edge_id).then(found);
    },
    budgets: (path, cost_units) => path.edges.filter(takes(cost_units)).map((edge) => edge.id),
    inTurn: (zone_id, work) => turns.take(zone_id, {}, work),
    spent: (zone_id, path) => paths.forget(zone_id, path.last.id),
  };
};
