import type { KeyObject } from "node:crypto";
import { LRUCache } from "lru-cache";
import type { Keyring } from "../../domain/keyring.ts";
import { openZoneKey } from "../../domain/zone-key.ts";
import type { Clock } from "../../kernel/clock.ts";

/** No opened key is held for longer. */
const OPEN_MS = 15 * 60_000;
const MAX_KEYS = 1_000;

export type SigningKeys = {
  /** The private key. Throws where the seal does not open: wrong KEK, or a row that was moved. */
  open(zone_id: string, kid: string, sealed_private: string): KeyObject;
  /** Drops those whose time is up, so that they don't lie in memory until somebody asks for them. */
  sweep(): void;
};

export const createSigningKeys = (kek: Keyring, clock: Clock): SigningKeys => {
  const opened = new LRUCache<string, { key: KeyObject; sealed_private: string; opened_ms: number }>({ max: MAX_KEYS });
  const over = (opened_ms: number): boolean => clock.monotonic_ms() - opened_ms >= OPEN_MS;
  return {
    open(zone_id, kid, sealed_private) {
      const place = `${zone_id}/${kid}`;
      const found = opened.get(place);
      // Sealed anew, under another KEK: it must open under ours again.
      if (found !== undefined && found.sealed_private === sealed_private && !over(found.opened_ms)) return found.key;
      const key = openZoneKey(kek, zone_id, kid, sealed_private);
      opened.set(place, { key, sealed_private, opened_ms: clock.monotonic_ms() });
      return key;
    },
    sweep() {
      for (const [place, { opened_ms }] of opened.entries()) if (over(opened_ms)) opened.delete(place);
    },
  };
};
