import { createHmac, randomBytes } from "node:crypto";
import { LRUCache } from "lru-cache";
import { sameBytes } from "../domain/keyring.ts";
import { HashingBusy, NO_SECRET, verifySecret } from "../domain/secret-hash.ts";
import { lengthPrefixed } from "../kernel/canonical.ts";
import type { Clock } from "../kernel/clock.ts";

/** Failures of one client from one address: five, then one every 12 s. */
const PAIR = { burst: 5, per_minute: 5 } as const;
/** Failures from one address, whatever the clients: inventing client ids is no way around the other limit. */
const ADDRESS = { burst: 100, per_minute: 100 } as const;
const MAX_BUCKETS = 20_000;
const MAX_REMEMBERED = 10_000;

export type SecretResult =
  | { readonly status: "verified" }
  | { readonly status: "wrong" }
  | { readonly status: "throttled"; readonly retry_after_s: number }
  | { readonly status: "busy" };

export type SecretQuestion = {
  readonly zone_id: string;
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

/**
 * Client secrets against their hashes. A failed log-in costs a password hash, so failures are counted before anything is
 * hashed: an attempt is charged first and given back when it was right, so that many at once don't all pass the count. A
 * secret that was right is remembered by its keyed hash (the key lives and dies with the process): hashing happens once per
 * secret and process. A client that its address has used up is refused with the right secret too, else a guess could be
 * told from its answer.
 */
export const createClientSecrets = (clock: Clock): ClientSecrets => {
  const mac_key = randomBytes(32);
  const pairs = createFailures(PAIR, clock);
  const addresses = createFailures(ADDRESS, clock);
  const remembered = new LRUCache<string, Buffer>({ max: MAX_REMEMBERED });
  const running = new Map<string, Promise<SecretResult>>();

  const macOf = ({ zone_id, client_id, secret, stored }: SecretQuestion): Buffer =>
    createHmac("sha256", mac_key)
      .update(lengthPrefixed([zone_id, client_id, stored ?? null, secret]))
      .digest();

  const hash = async (question: SecretQuestion, client: string, pair: string): Promise<SecretResult> => {
    pairs.take(pair);
    addresses.take(question.address);
    const giveBack = (): void => {
      pairs.giveBack(pair);
      addresses.giveBack(question.address);
    };
    try {
      const stored = await question.latest();
      if (!(await verifySecret(question.secret, stored ?? NO_SECRET))) return { status: "wrong" };
      remembered.set(client, macOf({ ...question, stored }));
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
      const client = `${question.zone_id}/${question.client_id}`;
      const pair = `${client}/${question.address}`;
      const mac = macOf(question);
      const pair_wait_ms = pairs.wait_ms(pair);
      const known = remembered.get(client);
      const right = known !== undefined && sameBytes(known, mac); // covers the stored hash: a changed secret is not the known one
      if (right && pair_wait_ms === 0) return { status: "verified" };
      const place = `${question.address}/${mac.toString("base64")}`;
      const same = running.get(place);
      if (same !== undefined) return same; // the same question, asked many times at once, is answered by one hash
      const wait_ms = Math.max(pair_wait_ms, right ? 0 : addresses.wait_ms(question.address));
      if (wait_ms > 0) return { status: "throttled", retry_after_s: Math.ceil(wait_ms / 1_000) };
      const answer = hash(question, client, pair).finally(() => running.delete(place));
      running.set(place, answer);
      return answer;
    },
  };
};
