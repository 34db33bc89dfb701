import { commit, type Denial, deny } from "../../kernel/pipeline.ts";
import type { Log } from "../../kernel/log.ts";
import { Problem } from "../../kernel/problem.ts";
import type { Database, Queryable } from "../../ports/database.ts";
import type { Facts } from "../facts.ts";
import type { Delegations } from "../known/delegations.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";
import { consumeChallenge } from "../store/challenges.ts";
import { countExchange } from "../store/delegations.ts";

export type SpendPorts = {
  readonly db: Database;
  readonly delegations: Pick<Delegations, "budgets" | "inTurn" | "spent">;
  readonly onConsumed: () => void;
  readonly log: Log;
};

type Needs = Pick<Facts, "approval" | "delegation" | "resource"> & { readonly zone: ZoneSnapshot };
type Spent = Readonly<Record<string, never>>;
type Refused = Denial<
  | "challenge_consumed"
  | "challenge_unavailable"
  | "delegation_budget_spent"
  | "delegation_budget_busy"
  | "delegation_unavailable"
>;

/** It adds no fact. */
const SPENT: Spent = {};

/**
 * Uses up what this exchange takes: its approval, and one exchange with the resource's cost off every budget on the path. All
 * of it or none, after policy's last word, so that a later deny takes nothing. Of many retries of one approval, at however many
 * replicas, one changes the row. If we die after this line, it is used up and nobody got a mandate; never the other way round.
 */
export const spend = ({ db, delegations, onConsumed, log }: SpendPorts) => {
  const taken = async (sql: Queryable, f: Needs, edge_ids: readonly string[]): Promise<Refused | undefined> => {
    const { zone_id } = f.zone;
    const cost_units = f.resource.cost_units;
    if (edge_ids.length > 0 && !(await countExchange(sql, zone_id, edge_ids, cost_units)))
      return deny("delegation_budget_spent");
    if (f.approval !== undefined && !(await consumeChallenge(sql, zone_id, f.approval.id)))
      return deny("challenge_consumed", f.approval.id);
    return undefined;
  };

  /** A transaction only where there are two statements in it. A refusal takes back what went before it. */
  const takenWhole = async (f: Needs, edge_ids: readonly string[]): Promise<Refused | undefined> => {
    if (f.approval === undefined || edge_ids.length === 0) return taken(db.sql, f, edge_ids);
    let refused: Refused | undefined;
    const transaction = db.sql.begin(async (tx) => {
      refused = await taken(tx, f, edge_ids);
      if (refused !== undefined) throw new Error("refused: rolled back");
    });
    return transaction.then(
      () => undefined,
      (error: unknown) => {
        if (refused === undefined) throw error;
        return refused;
      },
    );
  };

  const failed = (f: Needs, error: unknown): Refused => {
    if (error instanceof Problem) return deny("delegation_budget_busy", undefined, { retry_after_s: 1 });
    log.error({ err: error, zone_id: f.zone.zone_id }, "what an exchange takes can't be written");
    return deny(f.approval === undefined ? "delegation_unavailable" : "challenge_unavailable");
  };

  return commit("spend", (f: Needs): Spent | Promise<Spent | Refused> => {
    const { approval, delegation } = f;
    const edge_ids = delegation === undefined ? [] : delegations.budgets(delegation, f.resource.cost_units);
    if (approval === undefined && edge_ids.length === 0) return SPENT;
    const { zone_id } = f.zone;
    const work = () => takenWhole(f, edge_ids);
    return (edge_ids.length === 0 ? work() : delegations.inTurn(zone_id, work)).then(
      (refused) => {
        if (refused?.reason === "delegation_budget_spent" && delegation !== undefined)
          delegations.spent(zone_id, delegation);
        if (refused !== undefined) return refused;
        if (approval !== undefined) onConsumed();
        return SPENT;
      },
      (error: unknown) => failed(f, error),
    );
  });
};
