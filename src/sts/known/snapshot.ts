import { createHash, type KeyObject } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { LRUCache } from "lru-cache";
import * as v from "valibot";
import type { Evaluator } from "../../domain/policy-module.ts";
import type { SetMember } from "../../domain/policy-evaluation.ts";
import { type Jwk, JwkSchema, publicKeyOf } from "../../domain/token.ts";
import type { Clock } from "../../kernel/clock.ts";
import { isUuid } from "../../kernel/ids.ts";
import { constant } from "../../kernel/json-text.ts";
import type { Log } from "../../kernel/log.ts";
import type { Database } from "../../ports/database.ts";
import type { PolicyEngine } from "../../ports/policy.ts";
import { Unavailable } from "../../ports/streams.ts";
import { readModules, readZone, type ZoneRow } from "../store.ts";

/** How old a snapshot may be that no message has made stale: the signing key is looked for at least this often. */
const MAX_AGE_MS = 30_000;
/** The same while messages may be getting lost: one poll cycle. */
const MAX_AGE_LOST_MS = 1_000;
/**
 * How long a zone may be read for what callers bring and it does not know: milliseconds at once, and of each second. A
 * reading counts for as long as it took, within bounds: a large zone is read less often than a small one.
 */
const ANEW = { burst_ms: 500, per_s_ms: 200, least_ms: 10, most_ms: 500 } as const;
/** From this part of its age on it is read again in the background, so that no caller waits for it. */
const RENEW_AT = 2 / 3;
/** Heads come every 2 s; a stream that was silent for longer is taken for lost. */
const STREAM_SILENT_MS = 3_000;
const MAX_ZONES = 1_000;
/** Modules of all zones together, as they are stored. Above it the zone that holds most of them is read again when it is asked for. */
const MAX_MODULE_BYTES = 512 * 1024 * 1024;
/** A module that could not be loaded is not tried sooner. */
const RELOAD_MS = 30_000;
/** A zone that does not exist is remembered as such for this long. */
const ABSENT_MS = 1_000;
const MAX_ABSENT = 10_000;
/** Look-ups of zones that we don't hold, per second and in a burst: nobody needs to be authenticated to cause one. */
const LOOKUPS_PER_S = 200;
const LOOKUP_BURST = 400;
/** After a load that failed, the next is not tried sooner: a database that is away is not asked at the rate of requests. */
const RETRY_MS = 250;
/** A load that was overtaken by an invalidation begins again, this often. */
const MAX_ATTEMPTS = 3;

export type Application = {
  readonly id: string;
  /** Newest first. Empty: it can't authenticate by a secret. */
  readonly secrets: readonly StoredSecret[];
  readonly scopes: readonly string[];
  readonly traits: readonly string[];
  readonly rate_limit_per_minute: number | undefined;
  /** It may take mandates that are for any call. */
  readonly unbound_mandates: boolean;
};

/** `opens_until_ms`: since the epoch; of the present one Infinity. */
export type StoredSecret = { readonly hash: string; readonly opens_until_ms: number };

export type Resource = {
  readonly id: string;
  readonly identifier: string;
  readonly upstream_url: string;
  readonly scopes: readonly string[];
};

export type ZonePolicy =
  | { readonly state: "none" }
  | {
      readonly state: "active";
      readonly policy_set_id: string;
      readonly policy_set_version_id: string;
      readonly manifest_sha: string;
      /** Not empty. A member without an evaluator makes the set incomplete. */
      readonly members: readonly SetMember[];
    };

export type ZoneKeys = {
  readonly jwks: readonly Jwk[];
  readonly verifying: ReadonlyMap<string, KeyObject>;
  readonly signing: { readonly kid: string; readonly sealed_private: string } | undefined;
  /** Another number whenever the published keys are others. */
  readonly version: number;
};

/** All that a decision needs to know of a zone, as of one moment. Applications and resources are frozen through and through. */
export type ZoneSnapshot = {
  readonly zone_id: string;
  readonly applications: ReadonlyMap<string, Application>;
  /** By identifier. */
  readonly resources: ReadonlyMap<string, Resource>;
  readonly keys: ZoneKeys;
  readonly policy: ZonePolicy;
};

export type Snapshots = {
  /**
   * The zone as it is now, or was a moment ago: at once where it is at hand, else by one load for all who wait.
   * undefined: there is no such zone. Rejects with `Unavailable` where the database can't be asked.
   */
  get(zone_id: string): ZoneSnapshot | undefined | Promise<ZoneSnapshot | undefined>;
  /**
   * The same, by a reading that begins after the call: for what a caller brings that the snapshot does not know, such as
   * the secret of a client that was made a moment ago. One reading answers all who asked before it began; what a zone has
   * no time left for (`ANEW`) waits. Where the database is away: as `get`.
   */
  latest(zone_id: string): Promise<ZoneSnapshot | undefined>;
  /** Something of the zone changed. `warm`: read it again at once, though nobody asks (an activation is to be logged). */
  invalidate(zone_id: string, warm: boolean): void;
  /** Anything may have changed. */
  invalidateAll(): void;
  /** For `createPresentedTokens`. */
  keysVersion(zone_id: string): number;
};

export type SnapshotOptions = {
  readonly db: Database;
  readonly engine: PolicyEngine;
  readonly clock: Clock;
  readonly log: Log;
  /** Milliseconds since the invalidation streams were last known to be whole. */
  readonly streamAge_ms: () => number;
  readonly onLoad?: (() => void) | undefined;
  /** Bytes of modules that are held for all zones together; 512 MiB if absent. */
  readonly module_bytes_max?: number;
};

/** A member's module, or that it could not be had. */
type Module = { readonly evaluator: Evaluator | undefined; readonly bytes: number; readonly loaded_ms: number };
/** Of one zone, by version. */
type Modules = ReadonlyMap<string, Module>;
type Held = { readonly snapshot: ZoneSnapshot; readonly modules: Modules; readonly read_ms: number; stale: boolean };
type Load = { result: Promise<ZoneSnapshot | undefined>; generation: number; modules: Modules };

const bytesOf = (modules: Modules): number => {
  let bytes = 0;
  for (const module of modules.values()) bytes += module.bytes;
  return bytes;
};

type Active = NonNullable<ZoneRow["active"]>;

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Token buckets, in milliseconds of reading. What is over is waited out by the next reading. */
const createPaces = (clock: Clock) => {
  const buckets = new LRUCache<string, { left_ms: number; at_ms: number }>({ max: MAX_ZONES });
  const refilled = (zone_id: string): { left_ms: number; at_ms: number } => {
    const now_ms = clock.monotonic_ms();
    const bucket = buckets.get(zone_id) ?? { left_ms: ANEW.burst_ms, at_ms: now_ms };
    const gained_ms = ((now_ms - bucket.at_ms) * ANEW.per_s_ms) / 1_000;
    bucket.left_ms = Math.min(ANEW.burst_ms, bucket.left_ms + gained_ms);
    bucket.at_ms = now_ms;
    return bucket;
  };
  return {
    wait_ms: (zone_id: string): number => Math.max(0, (-refilled(zone_id).left_ms * 1_000) / ANEW.per_s_ms),
    spend(zone_id: string, took_ms: number): void {
      const bucket = refilled(zone_id);
      bucket.left_ms -= Math.min(ANEW.most_ms, Math.max(ANEW.least_ms, took_ms));
      buckets.set(zone_id, bucket);
    },
  };
};

const secretsOf = (row: ZoneRow["applications"][number]): readonly StoredSecret[] => {
  const { secret_hash, previous_secret_hash, previous_secret_expires_ms } = row;
  const present = secret_hash === null ? [] : [{ hash: secret_hash, opens_until_ms: Number.POSITIVE_INFINITY }];
  return previous_secret_hash === null || previous_secret_expires_ms === null
    ? present
    : [...present, { hash: previous_secret_hash, opens_until_ms: previous_secret_expires_ms }];
};

const applicationOf = (row: ZoneRow["applications"][number]): Application =>
  constant({
    id: row.id,
    secrets: secretsOf(row),
    scopes: row.scopes,
    traits: row.traits,
    rate_limit_per_minute: row.rate_limit_per_minute ?? undefined,
    unbound_mandates: row.unbound_mandates,
  });

/** Loads and keeps zones. A load that began before an invalidation is never kept as current. */
export const createSnapshots = (options: SnapshotOptions): Snapshots => {
  const { clock, log, module_bytes_max = MAX_MODULE_BYTES } = options;
  let module_bytes = 0;
  const held = new LRUCache<string, Held>({
    max: MAX_ZONES,
    dispose: ({ modules }) => {
      module_bytes -= bytesOf(modules);
    },
  });
  const loads = new Map<string, Load>();
  const absent = new LRUCache<string, number>({ max: MAX_ABSENT });
  const failures = new LRUCache<string, number>({ max: MAX_ZONES });
  const announced = new LRUCache<string, string>({ max: MAX_ZONES });
  /** Readings that have not begun, by zone: who asks now is answered by them. */
  const awaited = new Map<string, Promise<ZoneSnapshot | undefined>>();
  const paces = createPaces(clock);
  let keys_version = 0;
  let lookups = LOOKUP_BURST;
  let lookups_ms = clock.monotonic_ms();

  /** A token bucket. Only zones that we don't hold draw on it, so that a flood of invented ones stops no known zone. */
  const mayLookUp = (): boolean => {
    const now_ms = clock.monotonic_ms();
    lookups = Math.min(LOOKUP_BURST, lookups + ((now_ms - lookups_ms) / 1_000) * LOOKUPS_PER_S);
    lookups_ms = now_ms;
    if (lookups < 1) return false;
    lookups -= 1;
    return true;
  };

  const keysOf = (rows: ZoneRow["keys"], before: ZoneKeys | undefined): ZoneKeys => {
    const jwks = rows.map((row) => v.parse(JwkSchema, JSON.parse(row.public_jwk)));
    const signing = rows.find((row) => row.signs);
    const same = before !== undefined && JSON.stringify(before.jwks) === JSON.stringify(jwks);
    if (!same) keys_version += 1;
    return {
      jwks,
      verifying: same ? before.verifying : new Map(jwks.map((jwk) => [jwk.kid, publicKeyOf(jwk)])),
      signing: signing === undefined ? undefined : { kid: signing.kid, sealed_private: signing.sealed_private },
      version: same ? before.version : keys_version,
    };
  };

  const loadModule = async (
    zone_id: string,
    version_id: string,
    expected: string,
    wasm: Uint8Array | undefined,
  ): Promise<Evaluator | undefined> => {
    if (wasm === undefined || sha256(wasm) !== expected) {
      log.error(
        { zone_id, policy_version_id: version_id },
        "a stored policy module is missing or not the one that was compiled",
      );
      return undefined;
    }
    try {
      return await options.engine.load(wasm, zone_id);
    } catch (error) {
      log.error(
        { err: error, zone_id, policy_version_id: version_id },
        "a policy module can't be loaded: its set denies everything",
      );
      return undefined;
    }
  };

  /** What is at hand, and the rest from the database. A zone keeps the modules of its active set, and no other zone's matter. */
  const modulesOf = async (zone_id: string, members: Active["members"], at_hand: Modules): Promise<Modules> => {
    const now_ms = clock.monotonic_ms();
    const isUsable = (module: Module | undefined): module is Module =>
      module !== undefined && (module.evaluator !== undefined || now_ms - module.loaded_ms < RELOAD_MS);
    const missing = members.filter(({ version_id }) => !isUsable(at_hand.get(version_id)));
    const modules = new Map<string, Module>();
    for (const { version_id } of members) {
      const module = at_hand.get(version_id);
      if (isUsable(module)) modules.set(version_id, module);
    }
    if (missing.length === 0) return modules;
    const ids = missing.map((member) => member.version_id);
    const stored = await readModules(options.db.sql, zone_id, ids);
    for (const { version_id, wasm_sha256 } of missing) {
      const wasm = stored.get(version_id);
      const evaluator = await loadModule(zone_id, version_id, wasm_sha256, wasm);
      modules.set(version_id, { evaluator, bytes: wasm?.length ?? 0, loaded_ms: now_ms });
    }
    return modules;
  };

  const policyOf = (zone_id: string, active: Active | null, modules: Modules, started_ms: number): ZonePolicy => {
    if (active === null || active.members.length === 0) return { state: "none" };
    const members = active.members.map(({ version_id }) => ({
      version_id,
      evaluator: modules.get(version_id)?.evaluator,
    }));
    if (announced.get(zone_id) !== active.policy_set_version_id) {
      announced.set(zone_id, active.policy_set_version_id);
      const complete = members.every((member) => member.evaluator !== undefined);
      log.info(
        {
          zone_id,
          policy_set_id: active.policy_set_id,
          policy_set_version_id: active.policy_set_version_id,
          manifest_sha: active.manifest_sha,
          members: members.length,
          complete,
          duration_ms: Math.round(clock.monotonic_ms() - started_ms),
        },
        "policy_recompiled",
      );
    }
    return {
      state: "active",
      policy_set_id: active.policy_set_id,
      policy_set_version_id: active.policy_set_version_id,
      manifest_sha: active.manifest_sha,
      members,
    };
  };

  const read = async (zone_id: string, load: Load): Promise<ZoneSnapshot | undefined> => {
    options.onLoad?.();
    const row = await readZone(options.db.sql, zone_id);
    if (row === undefined) return undefined;
    const started_ms = clock.monotonic_ms();
    load.modules = await modulesOf(zone_id, row.active?.members ?? [], load.modules);
    return {
      zone_id,
      applications: new Map(row.applications.map((application) => [application.id, applicationOf(application)])),
      resources: new Map(row.resources.map((resource) => [resource.identifier, constant(resource)])),
      keys: keysOf(row.keys, held.peek(zone_id)?.snapshot.keys),
      policy: policyOf(zone_id, row.active, load.modules, started_ms),
    };
  };

  /** Holds it. Where there are too many modules, the zone with most of them goes, so that none with few does. */
  const keep = (zone_id: string, one: Held): void => {
    held.set(zone_id, one);
    module_bytes += bytesOf(one.modules);
    while (module_bytes > module_bytes_max) {
      let heaviest: { readonly zone_id: string; readonly bytes: number } | undefined;
      for (const [other, { modules }] of held.entries()) {
        const bytes = other === zone_id ? 0 : bytesOf(modules);
        if (bytes >= (heaviest?.bytes ?? 1)) heaviest = { zone_id: other, bytes };
      }
      if (heaviest === undefined) return;
      held.delete(heaviest.zone_id);
    }
  };

  const begin = (zone_id: string): Promise<ZoneSnapshot | undefined> => {
    const running = loads.get(zone_id);
    if (running !== undefined) return running.result;
    const failed_ms = failures.get(zone_id);
    if (failed_ms !== undefined && clock.monotonic_ms() - failed_ms < RETRY_MS)
      return Promise.reject(new Unavailable("database"));
    const attempt = async (load: Load): Promise<ZoneSnapshot | undefined> => {
      for (let attempts = 1; ; attempts += 1) {
        const { generation } = load;
        const read_ms = clock.monotonic_ms();
        const snapshot = await read(zone_id, load);
        const overtaken = load.generation !== generation;
        if (overtaken && attempts < MAX_ATTEMPTS) continue;
        loads.delete(zone_id); // in one step with what follows: an invalidation from here on finds the snapshot itself
        failures.delete(zone_id);
        if (snapshot === undefined) {
          held.delete(zone_id);
          if (!overtaken) absent.set(zone_id, read_ms);
        } else {
          // Overtaken to the last: it answers those who wait, and the next who comes reads again.
          keep(zone_id, { snapshot, modules: load.modules, read_ms, stale: overtaken });
        }
        return snapshot;
      }
    };
    const modules = held.peek(zone_id)?.modules ?? new Map<string, Module>();
    const load: Load = { result: Promise.resolve(undefined), generation: 0, modules };
    loads.set(zone_id, load);
    load.result = attempt(load).catch((error: unknown) => {
      loads.delete(zone_id);
      failures.set(zone_id, clock.monotonic_ms());
      log.error({ err: error, zone_id }, "a zone can't be read");
      throw new Unavailable("database", error);
    });
    return load.result;
  };

  const get: Snapshots["get"] = (zone_id) => {
    const now_ms = clock.monotonic_ms();
    const found = held.get(zone_id);
    if (found !== undefined && !found.stale) {
      const max_age_ms = options.streamAge_ms() <= STREAM_SILENT_MS ? MAX_AGE_MS : MAX_AGE_LOST_MS;
      const age_ms = now_ms - found.read_ms;
      if (age_ms < max_age_ms) {
        if (age_ms >= max_age_ms * RENEW_AT) begin(zone_id).catch(() => {}); // logged; who comes past the age is told
        return found.snapshot;
      }
    }
    if (found !== undefined) return begin(zone_id);
    const absent_ms = absent.get(zone_id);
    if (!isUuid(zone_id) || (absent_ms !== undefined && now_ms - absent_ms < ABSENT_MS)) return undefined;
    if (loads.has(zone_id) || mayLookUp()) return begin(zone_id);
    return Promise.reject(new Unavailable("zone look-up"));
  };

  const readAnew = async (zone_id: string): Promise<ZoneSnapshot | undefined> => {
    const wait_ms = paces.wait_ms(zone_id);
    if (wait_ms > 0) await setTimeout(wait_ms);
    for (let running = loads.get(zone_id); running !== undefined; running = loads.get(zone_id)) {
      await running.result.catch(() => {}); // it began before somebody asked
    }
    awaited.delete(zone_id); // in one step with the beginning
    const began_ms = clock.monotonic_ms();
    try {
      return await begin(zone_id);
    } catch {
      return get(zone_id);
    } finally {
      paces.spend(zone_id, clock.monotonic_ms() - began_ms);
    }
  };

  return {
    get,
    async latest(zone_id) {
      if (held.peek(zone_id) === undefined) return get(zone_id); // look-ups of unknown zones have a bound of their own
      const sooner = awaited.get(zone_id);
      if (sooner !== undefined) return sooner;
      const reading = Promise.resolve().then(() => readAnew(zone_id)); // not before it is known as awaited
      awaited.set(zone_id, reading);
      return reading;
    },
    invalidate(zone_id, warm) {
      absent.delete(zone_id);
      const found = held.peek(zone_id);
      if (found !== undefined) found.stale = true;
      const running = loads.get(zone_id);
      if (running !== undefined) running.generation += 1;
      if (warm) begin(zone_id).catch(() => {}); // logged; the next request tries again
    },
    invalidateAll() {
      absent.clear();
      for (const found of held.values()) found.stale = true;
      for (const load of loads.values()) load.generation += 1;
    },
    keysVersion: (zone_id) => held.peek(zone_id)?.snapshot.keys.version ?? -1,
  };
};
