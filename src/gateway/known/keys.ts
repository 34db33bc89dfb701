import type { KeyObject } from "node:crypto";
import { LRUCache } from "lru-cache";
import type { JwksResponse } from "../../contracts/sts.ts";
import { publicKeyOf } from "../../domain/token.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Log } from "../../kernel/log.ts";
import type { Sts } from "../../ports/sts.ts";

/** `unknown`: the zone has no such key. `unavailable`: the STS could not be asked, and what we knew is too old. */
export type KeyLookup = KeyObject | "unknown" | "unavailable";

/**
 * The zones' public keys, from the STS's JWKS: fresh for 5 minutes, then served while they are read again, up to
 * 15 minutes; an empty set is never kept; one question per zone at a time, and a bounded rate of them whatever the tokens
 * say. Zones whose tokens are verified stay: naming a zone in a token, which anybody can, pushes out none of them.
 */
export type ZoneKeys = {
  /** At once where the key is known and fresh, else a promise, which never rejects. */
  find(zone_id: string, kid: string): KeyLookup | Promise<KeyLookup>;
  /**
   * Changes when the zone's keys do; -1 while none are fit for use. For remembered verifications: to be asked for a token
   * of the zone that is verified, no other.
   */
  version(zone_id: string): number;
  /** The zone's keys changed: a withdrawn key must not be served as stale. */
  forget(zone_id: string): void;
  /** Messages were missed: what any zone's keys are now is not known. */
  forgetAll(): void;
};

const FRESH_MS = 5 * 60_000;
const STALE_MS = 15 * 60_000;
/** Zones whose keys have verified a token, of which the one that was used last longest ago goes first. */
const MAX_USED = 3_072;
/** Zones whose keys were read because a token named them, and have verified none yet. */
const MAX_NAMED = 1_024;
/** Questions at a time, and zones that wait for theirs: of a flood of names each costs one, and those behind wait a moment. */
const MAX_READING = 16;
const MAX_WAITING = 2_048;
/** Between two questions about one zone after a failure or an empty answer. */
const RETRY_MS = 1_000;
/** Between two questions about one zone because a token names a `kid` that it does not have: anyone can name one. */
const UNKNOWN_KID_MS = 5_000;
const MAX_PAUSES = 4_096;
/** Questions in a row where keys change faster than they are read. */
const MAX_ATTEMPTS = 5;

type Entry = {
  readonly keys: ReadonlyMap<string, KeyObject>;
  readonly fingerprint: string;
  readonly version: number;
  readonly read_ms: number;
};

/** What a question came to. `none`: the zone has no keys. */
type Outcome = "read" | "none" | "failed";
type Pause = { readonly until_ms: number; readonly answer: "unknown" | "unavailable" };

export const createZoneKeys = (deps: {
  readonly sts: Pick<Sts, "jwks">;
  readonly clock: Clock;
  readonly log: Log;
}): ZoneKeys => {
  const { sts, clock, log } = deps;
  const used = new LRUCache<string, Entry>({ max: MAX_USED });
  const named = new LRUCache<string, Entry>({ max: MAX_NAMED });
  const entryOf = (zone_id: string): Entry | undefined => used.peek(zone_id) ?? named.get(zone_id);
  const keep = (zone_id: string, entry: Entry): void => {
    if (used.has(zone_id)) used.set(zone_id, entry);
    else named.set(zone_id, entry);
  };
  /** Those that wait until one of the questions is answered. */
  const waiting: (() => void)[] = [];
  let asking = 0;
  const reading = new Map<string, Promise<Outcome>>();
  /** Zones that are not asked about again for a while, and what their tokens are told meanwhile. */
  const pauses = new LRUCache<string, Pause>({ max: MAX_PAUSES });
  /** When a zone was last asked about because of an unknown `kid`. */
  const kids_asked_ms = new LRUCache<string, number>({ max: MAX_PAUSES });
  /** Grows with every `forget`: an answer to a question from before it is not kept. */
  let generation = 0;
  let versions = 0;

  const ask = async (zone_id: string): Promise<JwksResponse | undefined> => {
    if (asking < MAX_READING) asking += 1;
    else if (waiting.length >= MAX_WAITING) throw new Error("too many zones' keys are asked for");
    else await new Promise<void>((resolve) => waiting.push(resolve)); // and has the place of one that is over
    try {
      return await sts.jwks(zone_id);
    } finally {
      const next = waiting.shift();
      if (next === undefined) asking -= 1;
      else next();
    }
  };

  const read = async (zone_id: string): Promise<Outcome> => {
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
      const asked_in = generation;
      const answer = await ask(zone_id);
      if (asked_in !== generation) continue; // forgotten meanwhile: what was read may be what was withdrawn
      if (answer === undefined || answer.keys.length === 0) return "none";
      const fingerprint = answer.keys.map(({ kid, x, y }) => `${kid} ${x} ${y}`).join("\n");
      const before = entryOf(zone_id);
      const same = before !== undefined && before.fingerprint === fingerprint;
      keep(zone_id, {
        keys: same ? before.keys : new Map(answer.keys.map((jwk) => [jwk.kid, publicKeyOf(jwk)])),
        fingerprint,
        version: same ? before.version : (versions += 1),
        read_ms: clock.monotonic_ms(),
      });
      return "read";
    }
    return "failed";
  };

  /** One question at a time. Never rejects. */
  const readOnce = (zone_id: string): Promise<Outcome> => {
    const running = reading.get(zone_id);
    if (running !== undefined) return running;
    const started = read(zone_id)
      .catch((error: unknown): Outcome => {
        log.warn({ err: error, zone_id }, "a zone's keys could not be read");
        return "failed";
      })
      .then((outcome) => {
        reading.delete(zone_id);
        if (outcome !== "read") {
          pauses.set(zone_id, {
            until_ms: clock.monotonic_ms() + RETRY_MS,
            answer: outcome === "none" ? "unknown" : "unavailable",
          });
        }
        return outcome;
      });
    reading.set(zone_id, started);
    return started;
  };

  const pauseOf = (zone_id: string): Pause | undefined => {
    const pause = pauses.get(zone_id);
    return pause !== undefined && pause.until_ms > clock.monotonic_ms() ? pause : undefined;
  };

  /** What we have, where it may still be used; past its fresh time it is read again behind the call's back. */
  const usable = (zone_id: string): Entry | undefined => {
    const entry = entryOf(zone_id);
    if (entry === undefined) return undefined;
    const age_ms = clock.monotonic_ms() - entry.read_ms;
    if (age_ms <= FRESH_MS) return entry;
    if (pauseOf(zone_id) === undefined) void readOnce(zone_id);
    return age_ms <= STALE_MS ? entry : undefined;
  };

  const firstRead = async (zone_id: string, kid: string): Promise<KeyLookup> => {
    const pause = pauseOf(zone_id);
    if (pause !== undefined && !reading.has(zone_id)) return pause.answer;
    const outcome = await readOnce(zone_id);
    if (outcome !== "read") return outcome === "none" ? "unknown" : "unavailable";
    return entryOf(zone_id)?.keys.get(kid) ?? "unknown";
  };

  const afterUnknown = (zone_id: string, kid: string): KeyLookup | Promise<KeyLookup> => {
    const now_ms = clock.monotonic_ms();
    const asked_ms = kids_asked_ms.get(zone_id);
    if (asked_ms !== undefined && now_ms - asked_ms < UNKNOWN_KID_MS && !reading.has(zone_id)) return "unknown";
    if (!reading.has(zone_id)) kids_asked_ms.set(zone_id, now_ms);
    return readOnce(zone_id).then(() => usable(zone_id)?.keys.get(kid) ?? "unknown");
  };

  return {
    find(zone_id, kid) {
      const entry = usable(zone_id);
      if (entry === undefined) return firstRead(zone_id, kid);
      return entry.keys.get(kid) ?? afterUnknown(zone_id, kid);
    },
    version(zone_id) {
      const entry = usable(zone_id);
      if (entry === undefined) return -1;
      if (used.get(zone_id) === undefined) {
        named.delete(zone_id);
        used.set(zone_id, entry);
      }
      return entry.version;
    },
    forget(zone_id) {
      generation += 1;
      used.delete(zone_id);
      named.delete(zone_id);
      pauses.delete(zone_id);
    },
    forgetAll() {
      generation += 1;
      used.clear();
      named.clear();
      pauses.clear();
    },
  };
};
