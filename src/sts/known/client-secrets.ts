import { createHmac, randomBytes } from "node:crypto";
import { LRUCache } from "lru-cache";
import { sameBytes } from "../../domain/keyring.ts";
import { HashingBusy, verifySecret } from "../../domain/secret-hash.ts";
import { lengthPrefixed } from "../../kernel/canonical.ts";
import type { Clock } from "../../kernel/clock.ts";
import { type Attempt, createFailedLogins, shareOf } from "./failed-logins.ts";

const MAX_ZONES = 10_000;
const MAX_REMEMBERED_OF_ZONE = 1_000;
/** Secrets of one client that open at the same time: the present one, and the one before it for a while. */
const LIVE_SECRETS = 2;
export type SecretResult =
  | { readonly status: "verified" }
  | { readonly status: "wrong" }
  | { readonly status: "throttled"; readonly retry_after_s: number }
  | { readonly status: "busy" };

export type SecretQuestion = Attempt & {
  readonly secret: string;
  /** The hashes of secrets that open now. None where there is no such client. */
  readonly stored: readonly string[];
  /** The same, read anew: the client may have been made, or its secret replaced, just now. Asked before a refusal. */
  readonly latest: () => Promise<readonly string[]>;
};

export type ClientSecrets = { verify(question: SecretQuestion): Promise<SecretResult> };

/** The keyed hashes of secrets that were right. A zone with many clients forgets its own, and no other's. */
const createRemembered = () => {
  const zones = new LRUCache<string, Map<string, readonly Buffer[]>>({ max: MAX_ZONES });
  return {
    of: (zone_id: string, client_id: string): readonly Buffer[] => zones.get(zone_id)?.get(client_id) ?? [],
    add(zone_id: string, client_id: string, mac: Buffer): void {
      const clients = zones.get(zone_id) ?? new Map<string, readonly Buffer[]>();
      const before = clients.get(client_id) ?? [];
      clients.delete(client_id);
      const [oldest] = clients.keys();
      if (oldest !== undefined && clients.size >= MAX_REMEMBERED_OF_ZONE) clients.delete(oldest);
      clients.set(client_id, [...before, mac].slice(-LIVE_SECRETS));
      zones.set(zone_id, clients);
    },
  };
};

/**
 * Client secrets against their hashes. Failures are counted before anything is asked: an attempt is charged first and given
 * back when it was right, so that many at once don't all pass the count. A wrong secret costs one reading of the zone and no
 * hash, whether there is such a client or not: so neither answer tells it by its time, and strangers fill no queue.
 *
 * A secret that was right is remembered by its keyed hash (the key lives and dies with the process): hashing happens once per
 * secret and process. A remembered secret passes whatever failed from its address: behind a load balancer one address is
 * everybody's, and a stranger's failures would lock all of them out. One that is not remembered waits for the count,
 * right or wrong, so that its answer tells nothing.
 */
export const createClientSecrets = (clock: Clock): ClientSecrets => {
  const mac_key = randomBytes(32);
  const failures = createFailedLogins(clock);
  const remembered = createRemembered();
  const running = new Map<string, Promise<SecretResult>>();

  const macOf = ({ zone_id, client_id, secret }: SecretQuestion, ...stored: readonly string[]): Buffer =>
    createHmac("sha256", mac_key)
      .update(lengthPrefixed([zone_id, client_id, secret, ...stored]))
      .digest();

  /** The keyed hash covers the stored one: a secret that was replaced is not a known one. */
  const isRemembered = (question: SecretQuestion): boolean => {
    const known = remembered.of(question.zone_id, question.client_id);
    if (known.length === 0) return false;
    return question.stored.some((stored) => {
      const mac = macOf(question, stored);
      return known.some((one) => sameBytes(one, mac));
    });
  };

  /** Which of these hashes the secret has. */
  const matchOf = async (secret: string, stored: readonly string[], zone: string): Promise<string | undefined> => {
    for (const one of stored) if (await verifySecret(secret, one, zone)) return one;
    return undefined;
  };

  /** Against what is at hand, and, before it is refused, against what the zone has now. */
  const match = async ({ secret, stored, latest }: SecretQuestion, zone: string): Promise<string | undefined> => {
    const found = await matchOf(secret, stored, zone);
    if (found !== undefined) return found;
    const others = (await latest()).filter((one) => !stored.includes(one));
    return matchOf(secret, others, zone);
  };

  const hash = async (question: SecretQuestion): Promise<SecretResult> => {
    const giveBack = failures.charge(question);
    try {
      const stored = await match(question, shareOf(question));
      if (stored === undefined) return { status: "wrong" };
      remembered.add(question.zone_id, question.client_id, macOf(question, stored));
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
      if (isRemembered(question)) return { status: "verified" };
      const place = `${question.address}/${macOf(question, ...question.stored).toString("base64")}`;
      const same = running.get(place);
      if (same !== undefined) return same; // the same question, asked many times at once, is answered by one hash
      const wait_ms = failures.wait_ms(question);
      if (wait_ms > 0) return { status: "throttled", retry_after_s: Math.ceil(wait_ms / 1_000) };
      const answer = hash(question).finally(() => running.delete(place));
      running.set(place, answer);
      return answer;
    },
  };
};
