import { setImmediate } from "node:timers/promises";
import { QUOTA_BOUNDS } from "../contracts/api-quotas.ts";
import type { PolicyVerdict } from "../domain/policy-verdict.ts";
import { evaluateInput, requestBudget, type SetMember } from "../domain/policy-evaluation.ts";
import type { Quarantine } from "../domain/policy-quarantine.ts";
import type { Cancellation } from "../kernel/cancel.ts";
import type { Clock } from "../kernel/clock.ts";
import { requestAborted } from "../kernel/problem.ts";
import { createTurns } from "../kernel/turns.ts";
import type { PolicyEngine } from "../ports/policy.ts";

/** A stored member of a set. */
export type StoredMember = { readonly version_id: string; readonly wasm: Uint8Array };

/** What a set said, and what it spent. */
export type Rehearsed = { readonly verdict: PolicyVerdict; readonly units: number };

/** What is evaluated while one has its turn. */
export type Stage = {
  /** As the STS loads them: a member that can't be loaded makes the set incomplete, and that denies. */
  load(members: readonly StoredMember[]): Promise<readonly SetMember[]>;
  /** As the STS evaluates them, after a turn of the event loop; undefined where time or units are spent. */
  evaluate(members: readonly SetMember[], input: object): Promise<Rehearsed | undefined>;
};

/** Evaluations that decide nothing, in turns of the zones: one at a time for a zone, within time and units. */
export type Rehearsal = {
  /** Rejects with `Problem` 429 `quota_exceeded` where the zone is over its share. */
  take<T>(zone_id: string, signal: Cancellation | undefined, work: (stage: Stage) => Promise<T>): Promise<T>;
};

/** Each evaluation has what a request of the STS has; all of one turn together have this much time and so many of those. */
const TURN_MS = 2_000;
const TURN_BUDGETS = 40;
const TURNS = {
  running_max: 2,
  zone_waiting_max: 4,
  zones_max: 1_024,
  zone_ms_per_minute: QUOTA_BOUNDS.simulation_seconds_per_minute.limit * 1_000,
  names: {
    waiting: "waiting_simulations",
    seconds: "simulation_seconds_per_minute",
    busy: "temporarily_unavailable",
  },
} as const;

/** Nobody's failures count here: what is rehearsed is stopped by its bounds alone. */
const NO_QUARANTINE: Quarantine = { holds: () => false, failed: () => {} };

const memberAt = (value: object, name: string): unknown => (value as Readonly<Record<string, unknown>>)[name];
const textAt = (value: object, at: string, name: string): string | undefined => {
  const part = memberAt(value, at);
  const text = typeof part === "object" && part !== null ? memberAt(part, name) : undefined;
  return typeof text === "string" ? text : undefined;
};

export const createRehearsal = ({
  engine,
  clock,
  policy_budget,
  secondsOf,
}: {
  readonly engine: PolicyEngine;
  readonly clock: Clock;
  readonly policy_budget: number;
  /** How many seconds a minute a zone may have, as its quota is now. */
  readonly secondsOf: (zone_id: string) => Promise<number>;
}): Rehearsal => {
  const turns = createTurns({ ...TURNS, clock });
  const stageFor = (zone_id: string, signal: Cancellation | undefined): Stage => {
    const until_ms = clock.monotonic_ms() + TURN_MS;
    let units_left = TURN_BUDGETS * requestBudget(policy_budget).units_left;
    const loadOne = async ({ version_id, wasm }: StoredMember): Promise<SetMember> => ({
      version_id,
      evaluator: await engine.load(wasm, zone_id).catch(() => undefined),
    });
    return {
      async load(members) {
        const loaded: SetMember[] = [];
        for (const member of members) loaded.push(await loadOne(member));
        return loaded;
      },
      async evaluate(members, input) {
        await setImmediate();
        if (signal?.aborted === true) throw requestAborted();
        if (units_left < 0 || clock.monotonic_ms() > until_ms) return undefined;
        const question = {
          input_json: JSON.stringify(input),
          principal: textAt(input, "principal", "id") ?? "",
          path: textAt(input, "action", "path"),
        };
        const { verdict, units } = evaluateInput(members, question, NO_QUARANTINE, requestBudget(policy_budget));
        units_left -= units;
        return { verdict, units };
      },
    };
  };
  return {
    take: async (zone_id, signal, work) => {
      const terms = { signal, seconds_per_minute: await secondsOf(zone_id) };
      return turns.take(zone_id, terms, () => work(stageFor(zone_id, signal)));
    },
  };
};
