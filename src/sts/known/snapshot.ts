import { createHash, type KeyObject } from "node:crypto";
import { LRUCache } from "lru-cache";
import * as v from "valibot";
import type { SetMember } from "../../domain/policy-evaluation.ts";
import type { Evaluator } from "../../domain/policy-module.ts";
import { type Jwk, JwkSchema, publicKeyOf } from "../../domain/token.ts";
import type { Clock } from "../../kernel/clock.ts";
import { constant } from "../../kernel/json-text.ts";
import type { Log } from "../../kernel/log.ts";
import type { Database } from "../../ports/database.ts";
import type { PolicyEngine } from "../../ports/policy.ts";
import { readModules, readZone, type ZoneRow } from "../store/zones.ts";

/** A module that could not be loaded is not tried sooner. */
const RELOAD_MS = 30_000;
const MAX_ANNOUNCED = 1_000;

export type Application = {
  readonly id: string;
  /** Newest first. Empty: it can't authenticate by a secret. */
  readonly secrets: readonly StoredSecret[];
  readonly scopes: readonly string[];
  readonly traits: readonly string[];
  readonly rate_limit_per_minute: number | undefined;
  /** It may take mandates that are for any call. */
  readonly unbound_mandates: boolean;
  /** Of how it authenticates by assertions (`ClientCredentials`); undefined: it does not. */
  readonly assertion_version: string | undefined;
};

/** `opens_until_ms`: since the epoch; of the present one Infinity. */
export type StoredSecret = { readonly hash: string; readonly opens_until_ms: number };

export type Resource = {
  readonly id: string;
  readonly identifier: string;
  readonly upstream_url: string;
  readonly scopes: readonly string[];
  /** What an exchange for it takes of a cost budget. */
  readonly cost_units: number;
  /** The application that is its server: it may introspect the mandates for it. */
  readonly application_id: string | null;
  /** What its upstream takes instead of a mandate comes from there. */
  readonly provider_id: string | null;
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

/** All that a decision needs to know of a zone, as of one moment. Applications and resources are frozen throughout. */
export type ZoneSnapshot = {
  readonly zone_id: string;
  readonly applications: ReadonlyMap<string, Application>;
  /** By identifier. */
  readonly resources: ReadonlyMap<string, Resource>;
  readonly resources_by_id: ReadonlyMap<string, Resource>;
  readonly keys: ZoneKeys;
  readonly policy: ZonePolicy;
};

/** A member's module, or that it could not be had. */
type Module = { readonly evaluator: Evaluator | undefined; readonly bytes: number; readonly loaded_ms: number };
/** Of one zone, by policy version. */
export type Modules = ReadonlyMap<string, Module>;

/** What a former reading of the zone left: keys that did not change stay the same objects, and modules are not loaded again. */
export type Former = { readonly keys: ZoneKeys | undefined; readonly modules: Modules };

/** Reads one zone. undefined: there is no such zone. Rejects where the database can't be asked. */
export type ReadSnapshot = (
  zone_id: string,
  former: Former,
) => Promise<{ readonly snapshot: ZoneSnapshot; readonly modules: Modules } | undefined>;

/** The version of a set that a zone was read with. */
export type LoadedPolicy = {
  readonly zone_id: string;
  readonly policy_set_id: string;
  readonly policy_set_version_id: string;
};

export type SnapshotReaderOptions = {
  readonly db: Database;
  readonly engine: PolicyEngine;
  readonly clock: Clock;
  readonly log: Log;
  /** The zone is decided by another version from here on. */
  readonly onPolicy?: ((policy: LoadedPolicy) => void) | undefined;
};

type Active = NonNullable<ZoneRow["active"]>;

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

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
    assertion_version: row.assertion_version ?? undefined,
  });

/** One statement a zone, and one more where modules must be loaded. */
export const createSnapshotReader = (options: SnapshotReaderOptions): ReadSnapshot => {
  const { clock, log } = options;
  /** The policy set that was last logged, by zone. */
  const announced = new LRUCache<string, string>({ max: MAX_ANNOUNCED });
  /** Grows with every change of keys of any zone: no two states of keys have one version. */
  let keys_version = 0;

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

  /** The modules of the active set: those at hand, and the others from the database. */
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
      const { policy_set_id, policy_set_version_id } = active;
      options.onPolicy?.({ zone_id, policy_set_id, policy_set_version_id });
    }
    return {
      state: "active",
      policy_set_id: active.policy_set_id,
      policy_set_version_id: active.policy_set_version_id,
      manifest_sha: active.manifest_sha,
      members,
    };
  };

  return async (zone_id, former) => {
    const row = await readZone(options.db.sql, zone_id);
    if (row === undefined) return undefined;
    const started_ms = clock.monotonic_ms();
    const modules = await modulesOf(zone_id, row.active?.members ?? [], former.modules);
    const resources = row.resources.map((resource) => constant(resource));
    const snapshot: ZoneSnapshot = {
      zone_id,
      applications: new Map(row.applications.map((application) => [application.id, applicationOf(application)])),
      resources: new Map(resources.map((resource) => [resource.identifier, resource])),
      resources_by_id: new Map(resources.map((resource) => [resource.id, resource])),
      keys: keysOf(row.keys, former.keys),
      policy: policyOf(zone_id, row.active, modules, started_ms),
    };
    return { snapshot, modules };
  };
};
