import { createHmac, randomBytes } from "node:crypto";
import { LRUCache } from "lru-cache";
import { sameBytes } from "../../domain/keyring.ts";
import { HashingBusy, NO_SECRET, verifySecret } from "../../domain/secret-hash.ts";
import { lengthPrefixed } from "../../kernel/canonical.ts";
import type { Clock } from "../../kernel/clock.ts";

/** Failures of one client from one address: five, then one every 12 s. */
const PAIR = { burst: 5, per_minute: 5 } as const;
/**
 * Failures in one zone from one address, whatever the clients: inventing client ids is no way around the other limit.
 * Zones that do not exist are one, so neither is inventing zones; and no zone's failures lock out the clients of another.
 */
const ADDRESS = { burst: 100, per_minute: 100 } as const;
const MAX_BUCKETS = 20_000;
const MAX_ZONES = 10_000;
const MAX_REMEMBERED_OF_ZONE = 1_000;
/** Stands for every zone that does not exist; no zone has an empty id. */
const NO_ZONE = "";

export type SecretResult =
  | { readonly status: "verified" }
  | { readonly status: "wrong" }
  | { readonly status: "throttled"; readonly retry_after_s: number }
  | { readonly status: "busy" };

export type SecretQuestion = {
  readonly zone_id: string;
  /** Whether there is such a zone: its failures and its hashes are counted as its own then. */
  readonly zone_exists: boolean;
  readonly client_id: string;
  readonly address: string;
  readonly secret: string;
  /** undefined where there is no such client, or one without a secret: costs the same time, and is wrong. */
  readonly stored: string | undefined;
  /** `stored`, asked anew before it is hashed against: the client may have been registered, or its secret changed, just now. */
  readonly latest: () => Promise<string | undefined>;
};

export type ClientSecrets = { verify(question: SecretQuestion): Promise<SecretResult> };

type Rate = { readonly burst: number; readonly per_minute: number };

/** Token buckets of failures. What an attempt takes is given back when it turns out to be right. */
const createFailures = (rate: Rate, clock: Clock) => {
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

/** The keyed hashes of secrets that were right. A zone with many clients forgets its own, and no other's. */
const createRemembered = () => {
  const zones = new LRUCache<string, Map<string, Buffer>>({ max: MAX_ZONES });
  return {
    of: (zone_id: string, client_id: string): Buffer | undefined => zones.get(zone_id)?.get(client_id),
    set(zone_id: string, client_id: string, mac: Buffer): void {
      const clients = zones.get(zone_id) ?? new Map<string, Buffer>();
      clients.delete(client_id);
      const [oldest] = clients.keys();
      if (oldest !== undefined && clients.size >= MAX_REMEMBERED_OF_ZONE) clients.delete(oldest);
      clients.set(client_id, mac);
      zones.set(zone_id, clients);
    },
  };
};

/**
 * Client secrets against their hashes. A failed log-in costs a password hash, so failures are counted before anything is
 * hashed: an attempt is charged first and given back when it was right, so that many at once don't all pass the count. A
 * secret that was right is remembered by its keyed hash (the key lives and dies with the process): hashing happens once per
 * secret and process. A remembered secret passes whatever failed from its address: behind a load balancer one address is
 * everybody's, and a stranger's failures would lock all of them out. One that is not remembered waits for the count,
 * right or wrong, so that its answer tells nothing.
 */
export const createClientSecrets = (clock: Clock): ClientSecrets => {
  const mac_key = randomBytes(32);
  const pairs = createFailures(PAIR, clock);
  const addresses = createFailures(ADDRESS, clock);
  const remembered = createRemembered();
  const running = new Map<string, Promise<SecretResult>>();

  const macOf = ({ zone_id, client_id, secret, stored }: SecretQuestion): Buffer =>
    createHmac("sha256", mac_key)
      .update(lengthPrefixed([zone_id, client_id, stored ?? null, secret]))
      .digest();

  const hash = async (question: SecretQuestion, zone: string, pair: string, address: string): Promise<SecretResult> => {
    pairs.take(pair);
    addresses.take(address);
    const giveBack = (): void => {
      pairs.giveBack(pair);
      addresses.giveBack(address);
    };
    try {
      const stored = await question.latest();
      if (!(await verifySecret(question.secret, stored ?? NO_SECRET, zone))) return { status: "wrong" };
      remembered.set(question.zone_id, question.client_id, macOf({ ...question, stored }));
      giveBack();
      return { status: "verified" };
    } catch (error) {
      giveBack();
      if (error instanceof HashingBusy) return { status: "busy" };
      throw error;
    }
  };

  return {
    async verify(question) {
      const mac = macOf(question);
      const known = remembered.of(question.zone_id, question.client_id);
      // The keyed hash covers the stored one: a secret that was replaced is not the known one.
      if (known !== undefined && sameBytes(known, mac)) return { status: "verified" };
      const zone = question.zone_exists ? question.zone_id : NO_ZONE;
      const address = `${zone}/${question.address}`;
      const pair = `${question.zone_id}/${question.client_id}/${question.address}`;
      const place = `${question.address}/${mac.toString("base64")}`;
      const same = running.get(place);
      if (same !== undefined) return same; // the same question, asked many times at once, is answered by one hash
      const wait_ms = Math.max(pairs.wait_ms(pair), addresses.wait_ms(address));
      if (wait_ms > 0) return { status: "throttled", retry_after_s: Math.ceil(wait_ms / 1_000) };
      const answer = hash(question, zone, pair, address).finally(() => running.delete(place));
      running.set(place, answer);
      return answer;
    },
  };
};
