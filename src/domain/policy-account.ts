import { LRUCache } from "lru-cache";
import type { Clock } from "../kernel/clock.ts";
import { createQuarantine, type Quarantine } from "./policy-quarantine.ts";

/** Only zones with a caller that proved itself get an account; an idle one is forgotten first. */
const MAX_ZONES = 10_000;

/** What policy of one zone may take of a process: units a second (a bucket of one second), and what of it is held. */
export type PolicyAccount = Quarantine & {
  /** Milliseconds until the zone has units again; 0 where it has some. */
  wait_ms(): number;
  /** May take the account below zero, by one request's budget for each that runs: later ones wait for it. */
  spend(units: number): void;
};

export type PolicyAccounts = { of(zone_id: string): PolicyAccount };

export const createPolicyAccounts = (options: {
  readonly clock: Clock;
  /** `POLICY_UNITS_PER_SECOND`. */
  readonly units_per_s: number;
}): PolicyAccounts => {
  const { clock, units_per_s } = options;
  const accounts = new LRUCache<string, PolicyAccount>({ max: MAX_ZONES });

  const create = (): PolicyAccount => {
    let left = units_per_s;
    let at_ms = clock.monotonic_ms();
    return {
      ...createQuarantine(clock),
      wait_ms() {
        const now_ms = clock.monotonic_ms();
        left = Math.min(units_per_s, left + ((now_ms - at_ms) / 1_000) * units_per_s);
        at_ms = now_ms;
        return left > 0 ? 0 : ((1 - left) / units_per_s) * 1_000;
      },
      spend(units) {
        left -= units;
      },
    };
  };

  return {
    of(zone_id) {
      const known = accounts.get(zone_id);
      if (known !== undefined) return known;
      const account = create();
      accounts.set(zone_id, account);
      return account;
    },
  };
};
