import { LRUCache } from "lru-cache";
import type { Clock } from "../../kernel/clock.ts";

/** So many wrong answers within so long put a client off for a while. */
const FAILURES = 5;
const WITHIN_MS = 120_000;
const COOLDOWN_MS = 300_000;
/** One that is forgotten begins anew: what a single challenge takes is counted in its row, by all replicas together. */
const MAX_CLIENTS = 20_000;

type Client = { failed_ms: readonly number[]; until_ms: number };

/** Wrong answers to challenges, counted for each client in this process. */
export type AnswerThrottle = {
  /** Milliseconds until the client may answer again; 0: now. */
  wait_ms(zone_id: string, client_id: string): number;
  failed(zone_id: string, client_id: string): void;
};

export const createAnswerThrottle = (clock: Clock): AnswerThrottle => {
  const clients = new LRUCache<string, Client>({ max: MAX_CLIENTS });
  const nameOf = (zone_id: string, client_id: string): string => `${zone_id}/${client_id}`;
  return {
    wait_ms(zone_id, client_id) {
      const client = clients.get(nameOf(zone_id, client_id));
      return client === undefined ? 0 : Math.max(0, client.until_ms - clock.monotonic_ms());
    },
    failed(zone_id, client_id) {
      const now_ms = clock.monotonic_ms();
      const before = clients.get(nameOf(zone_id, client_id));
      const failed_ms = [...(before?.failed_ms ?? []).filter((at_ms) => now_ms - at_ms < WITHIN_MS), now_ms];
      const client =
        failed_ms.length >= FAILURES
          ? { failed_ms: [], until_ms: now_ms + COOLDOWN_MS }
          : { failed_ms, until_ms: before?.until_ms ?? 0 };
      clients.set(nameOf(zone_id, client_id), client);
    },
  };
};
