import { REPLICA_SEEN_EVERY_S } from "../../contracts/policy-activations.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Log } from "../../kernel/log.ts";
import { type Worker, worker } from "../../kernel/service.ts";
import type { Database } from "../../ports/database.ts";
import { type Activated, deleteReplica, markReplica, writeActivations } from "../store/zones.ts";

/** What is remembered, to be said again where it was lost: as many zones as are held. The oldest is forgotten first. */
const MAX_ZONES = 10_000;
const BATCH = 500;

export type PolicyActivations = Worker & {
  /** This STS has loaded this version for the zone, and decides by it from now on. */
  loaded(policy: Omit<Activated, "since_ms">): void;
};

/**
 * Says which version of each zone's policy this STS runs, soon after it was loaded, and that this STS lives. No request waits for
 * it: where the database is away it is said later. An STS that was taken for dead and lives says all of it again.
 */
export const createPolicyActivations = (options: {
  readonly db: Database;
  readonly replica: string;
  readonly clock: Clock;
  readonly log: Log;
}): PolicyActivations => {
  const { db, replica, clock } = options;
  const running = new Map<string, Activated>();
  const unsaid = new Set<string>();

  const round = async (): Promise<void> => {
    if (await markReplica(db.sql, replica)) for (const zone_id of running.keys()) unsaid.add(zone_id);
    while (unsaid.size > 0) {
      const zones = [...unsaid].slice(0, BATCH);
      const batch = zones.flatMap((zone_id) => running.get(zone_id) ?? []);
      await writeActivations(db.sql, replica, batch);
      for (const { zone_id, since_ms, policy_set_version_id } of batch) {
        const now = running.get(zone_id);
        // another version may have been loaded while this one was written
        if (now?.since_ms === since_ms && now.policy_set_version_id === policy_set_version_id) unsaid.delete(zone_id);
      }
      for (const zone_id of zones) if (!running.has(zone_id)) unsaid.delete(zone_id);
    }
  };

  const rounds = worker({
    name: "sts-policy-activations",
    every_ms: REPLICA_SEEN_EVERY_S * 1_000,
    tick: round,
    onError: (error) => options.log.warn({ err: error }, "which policies run here can't be told now"),
    onStop: () => deleteReplica(db.sql, replica).catch(() => {}), // else it is taken for dead, soon
  });

  return {
    ...rounds,
    loaded(policy) {
      running.delete(policy.zone_id);
      running.set(policy.zone_id, { ...policy, since_ms: clock.now_ms() });
      unsaid.add(policy.zone_id);
      const [oldest] = running.keys();
      if (running.size > MAX_ZONES && oldest !== undefined) running.delete(oldest);
      rounds.wake();
    },
  };
};
