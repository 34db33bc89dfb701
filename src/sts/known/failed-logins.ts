import { LRUCache } from "lru-cache";
import type { Clock } from "../../kernel/clock.ts";

/** Failures of one client from one address: five, then one every 12 s. */
const PAIR = { burst: 5, per_minute: 5 } as const;
/**
 * Failures in one zone from one address, whatever the clients: inventing client ids is no way around the other limit.
 * Zones that do not exist are one, so neither is inventing zones; and no zone's failures lock out the clients of another.
 */
const ADDRESS = { burst: 100, per_minute: 100 } as const;
const MAX_BUCKETS = 20_000;
/** Stands for every zone that does not exist; no zone has an empty id. */
const NO_ZONE = "";

type Rate = { readonly burst: number; readonly per_minute: number };

/** Token buckets of failures. What an attempt takes is given back when it turns out to be right. */
const createBuckets = (rate: Rate, clock: Clock) => {
  const buckets = new LRUCache<string, { left: number; at_ms: number }>({ max: MAX_BUCKETS }); // names of bounded length, see request.ts
  const refilled = (name: string): { left: number; at_ms: number } => {
    const now_ms = clock.monotonic_ms();
    const bucket = buckets.get(name) ?? { left: rate.burst, at_ms: now_ms };
    bucket.left = Math.min(rate.burst, bucket.left + ((now_ms - bucket.at_ms) * rate.per_minute) / 60_000);
    bucket.at_ms = now_ms;
    return bucket;
  };
  return {
    /** Milliseconds until an attempt may be made; 0: now. */
    wait_ms(name: string): number {
      const { left } = refilled(name);
      return left >= 1 ? 0 : Math.ceil(((1 - left) * 60_000) / rate.per_minute);
    },
    take(name: string): void {
      const bucket = refilled(name);
      bucket.left -= 1;
      buckets.set(name, bucket);
    },
    giveBack(name: string): void {
      const bucket = refilled(name);
      bucket.left = Math.min(rate.burst, bucket.left + 1);
    },
  };
};

/** Who tries to log in, and where from. */
export type Attempt = {
  readonly zone_id: string;
  /** Whether there is such a zone: its failures are counted as its own then. */
  readonly zone_exists: boolean;
  readonly client_id: string;
  readonly address: string;
};

/** The share of an attempt's zone: in what is counted, and in what is hashed. */
export const shareOf = ({ zone_id, zone_exists }: Attempt): string => (zone_exists ? zone_id : NO_ZONE);

export type FailedLogins = {
  /** Milliseconds until the next attempt may be made; 0: now. */
  wait_ms(attempt: Attempt): number;
  /** Charges the attempt before it is tried, so that many at once don't all pass the count; call what it returns where it was right. */
  charge(attempt: Attempt): () => void;
};

/** Counts failures per client and address, and per zone and address. */
export const createFailedLogins = (clock: Clock): FailedLogins => {
  const pairs = createBuckets(PAIR, clock);
  const addresses = createBuckets(ADDRESS, clock);
  const namesOf = (attempt: Attempt) => ({
    pair: `${attempt.zone_id}/${attempt.client_id}/${attempt.address}`,
    address: `${shareOf(attempt)}/${attempt.address}`,
  });
  return {
    wait_ms(attempt) {
      const { pair, address } = namesOf(attempt);
      return Math.max(pairs.wait_ms(pair), addresses.wait_ms(address));
    },
    charge(attempt) {
      const { pair, address } = namesOf(attempt);
      pairs.take(pair);
      addresses.take(address);
      return () => {
        pairs.giveBack(pair);
        addresses.giveBack(address);
      };
    },
  };
};
