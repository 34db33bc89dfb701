import { type JwsKey, type JwsVerdict, readJwks } from "../../domain/jws.ts";
import type { Clock } from "../../kernel/clock.ts";
import { createKeptShares } from "../../kernel/kept-shares.ts";
import type { Log } from "../../kernel/log.ts";
import { type Documents, DocumentUnavailable } from "./documents.ts";

/** Where the keys of a client, or of its workload's issuer, come from. */
export type KeySource =
  | { readonly from: "registration"; readonly keys: readonly JwsKey[] }
  | { readonly from: "jwks_uri"; readonly url: string }
  /** The issuer's own metadata names its `jwks_uri` (OpenID Connect Discovery, 4). */
  | { readonly from: "issuer"; readonly url: string };

/** A set is believed for so long, and while its host is away for so long in all. */
const FRESH_MS = 5 * 60_000;
const STALE_MS = 15 * 60_000;
/** For a key that it does not have, a set is fetched again no sooner: who signs by invented keys causes no more. */
const UNKNOWN_KEY_MS = 5_000;
/** After a failure: twice as long each time, up to the longest. */
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 60_000;
/** Sets of all zones; above it the zone with most of them gives one up. */
const MAX_SETS = 2_048;
/** Log-ins of one zone that wait for sets. */
const MAX_WAITING_OF_ZONE = 64;

type KeySet = { keys: readonly JwsKey[]; fetched_ms: number; tried_ms: number; failures: number };

/** No keys can be had, or too many wait for them. */
export class KeysUnavailable extends Error {}

export type ClientKeys = {
  /**
   * What `judge` says of the source's keys; where it knows none of them, of those that are fetched anew, if it is time.
   * At once where the keys are at hand. Rejects with `KeysUnavailable`.
   */
  judge(zone_id: string, source: KeySource, judge: (keys: readonly JwsKey[]) => JwsVerdict): Promise<JwsVerdict>;
};

/**
 * Key sets by zone and address, nothing shared: what one zone's host does, slow, lying or dead, another zone that names the
 * same host does not hear of. One fetch of a set at a time. A set without a key that could verify is a failure, and no failure
 * replaces a set.
 */
export const createClientKeys = (deps: {
  readonly documents: Documents;
  readonly clock: Clock;
  readonly log: Log;
}): ClientKeys => {
  const { documents, clock, log } = deps;
  const kept = createKeptShares<string, KeySet>(MAX_SETS);
  const fetches = new Map<string, Promise<void>>();
  /** By zone; none stands here at 0. */
  const waiting = new Map<string, number>();

  const jwksOf = async (zone_id: string, source: Exclude<KeySource, { from: "registration" }>): Promise<unknown> => {
    if (source.from === "jwks_uri") return documents.fetch(zone_id, source.url);
    const at = `${source.url.replace(/\/$/, "")}/.well-known/openid-configuration`;
    const metadata = (await documents.fetch(zone_id, at)) as { issuer?: unknown; jwks_uri?: unknown } | null;
    if (metadata?.issuer !== source.url) throw new DocumentUnavailable("the metadata is another issuer's");
    if (typeof metadata.jwks_uri !== "string") throw new DocumentUnavailable("the metadata names no jwks_uri");
    return documents.fetch(zone_id, metadata.jwks_uri);
  };

  const fetchInto = async (set: KeySet, zone_id: string, source: Exclude<KeySource, { from: "registration" }>) => {
    set.tried_ms = clock.monotonic_ms();
    try {
      const keys = readJwks(await jwksOf(zone_id, source));
      if (keys.length === 0) throw new DocumentUnavailable("it holds no key that may be used");
      set.keys = keys;
      set.fetched_ms = set.tried_ms;
      set.failures = 0;
    } catch (error) {
      set.failures += 1;
      log.warn({ err: error, zone_id, url: source.url }, "a client's keys can't be had");
    }
  };

  const mayFetch = (set: KeySet, pause_ms: number): boolean => {
    const back_off_ms = set.failures === 0 ? 0 : Math.min(FIRST_PAUSE_MS * 2 ** (set.failures - 1), LONGEST_PAUSE_MS);
    return clock.monotonic_ms() - set.tried_ms >= Math.max(pause_ms, back_off_ms);
  };

  const waited = async (zone_id: string, fetch: Promise<void>): Promise<void> => {
    const others = waiting.get(zone_id) ?? 0;
    if (others >= MAX_WAITING_OF_ZONE) throw new KeysUnavailable("too many log-ins wait for keys");
    waiting.set(zone_id, others + 1);
    try {
      await fetch;
    } finally {
      const left = (waiting.get(zone_id) ?? 1) - 1;
      if (left === 0) waiting.delete(zone_id);
      else waiting.set(zone_id, left);
    }
  };

  return {
    async judge(zone_id, source, judge) {
      if (source.from === "registration") return judge(source.keys);
      const name = `${source.from} ${source.url}`;
      const place = `${zone_id} ${name}`;
      const set = kept.take(zone_id, name) ?? { keys: [], fetched_ms: -Infinity, tried_ms: -Infinity, failures: 0 };
      kept.put(zone_id, name, set);
      const age_ms = (): number => clock.monotonic_ms() - set.fetched_ms;
      const judged = (): JwsVerdict | undefined => (age_ms() < STALE_MS ? judge(set.keys) : undefined);

      const verdict = judged();
      const needed = verdict === undefined || verdict === "unknown_key";
      let fetch = fetches.get(place);
      if (
        fetch === undefined &&
        (needed || age_ms() >= FRESH_MS) &&
        mayFetch(set, verdict === "unknown_key" ? UNKNOWN_KEY_MS : 0)
      ) {
        fetch = fetchInto(set, zone_id, source).finally(() => fetches.delete(place));
        fetches.set(place, fetch);
      }
      if (verdict !== undefined && (!needed || fetch === undefined)) return verdict;
      if (fetch !== undefined) await waited(zone_id, fetch);
      const later = judged();
      if (later === undefined) throw new KeysUnavailable("the keys can't be had");
      return later;
    },
  };
};
