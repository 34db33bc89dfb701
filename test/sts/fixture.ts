import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { createEgress, createUpstreams } from "../../src/adapters/egress/index.ts";
import { openJournal } from "../../src/adapters/journal/index.ts";
import { createPolicyCompiler } from "../../src/adapters/opa/compiler.ts";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { createLease } from "../../src/adapters/postgres/lease.ts";
import { createRedis } from "../../src/adapters/redis/index.ts";
import { CALL_FIELDS, GRANT_TOKEN_EXCHANGE, TOKEN_PATH, TOKEN_TYPE_ACCESS_TOKEN } from "../../src/contracts/sts.ts";
import { STREAMS } from "../../src/contracts/streams.ts";
import type { AuditEvent, AuditWriter } from "../../src/domain/audit-event.ts";
import { type Keyring, keyring } from "../../src/domain/keyring.ts";
import { hashSecret } from "../../src/domain/secret-hash.ts";
import { type Claims, ClaimsSchema } from "../../src/domain/token.ts";
import { makeZoneKey } from "../../src/domain/zone-key.ts";
import { bindRole } from "../../src/http/server.ts";
import { type Clock, systemClock } from "../../src/kernel/clock.ts";
import { randomSecret, uuidv7 } from "../../src/kernel/ids.ts";
import { createLog } from "../../src/kernel/log.ts";
import { createMetrics } from "../../src/kernel/metrics.ts";
import type { Database, Transaction } from "../../src/ports/database.ts";
import type { Evaluator } from "../../src/domain/policy-module.ts";
import { Unavailable } from "../../src/ports/streams.ts";
import { createAuditWriter } from "../../src/ledger/writer.ts";
import { createDispatcher } from "../../src/broadcast/dispatcher.ts";
import { enqueueInvalidation, enqueueRevocation } from "../../src/broadcast/outbox-store.ts";
import { createSts, type StsRole } from "../../src/sts/index.ts";
import { readEvents } from "../audit/events.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startFaultProxy } from "../support/fault-proxy.ts";
import { createTestDatabase } from "../support/postgres.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";

/** The token service on real PostgreSQL, Redis and OPA, behind its own HTTP server. */

export type TestApplication = { readonly id: string; readonly secret: string; readonly secret_hash: string | null };
export type TestResource = { readonly id: string; readonly identifier: string };
export type Answer = {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Readonly<Record<string, unknown>>;
};

/** The claims of a token of ours, by their schema; its signature is not asked. */
export const claimsOf = (token: string): Claims =>
  v.parse(ClaimsSchema, JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()));

/** The token of an answer that must have one. */
export const tokenOf = (answer: Answer): string => {
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  return String(answer.body["access_token"]);
};

export type Fixture = {
  readonly url: string;
  readonly issuer_url: string;
  readonly role: StsRole;
  readonly db: Database;
  readonly redis: TestRedis;
  /** Between the role and its database. */
  readonly database: FaultProxy;
  readonly kek: Keyring;
  readonly gateway_ring: Keyring;
  readonly clock: Clock & { forward(ms: number): void };
  /** Lines of the log, as JSON. */
  readonly logged: readonly string[];
  /** What the next appends to the ledger do: `refuse` them without trying. */
  readonly ledger: { refuse: boolean };
  /** What loading a policy module waits for. */
  readonly engine: { gate: Promise<void>; loads: number };
  statements(): number;
  roundTrips(): number;
  metric(line: string): Promise<number>;
  newZone(): Promise<string>;
  newApplication(
    zone_id: string,
    some?: {
      scopes?: readonly string[];
      traits?: readonly string[];
      rate_limit_per_minute?: number;
      public?: boolean;
      unbound_mandates?: boolean;
    },
  ): Promise<TestApplication>;
  newResource(zone_id: string, some?: { scopes?: readonly string[]; upstream_url?: string }): Promise<TestResource>;
  /** Compiles, stores and activates a set of these modules, and announces it. Resolves to the set version's id. */
  activate(zone_id: string, ...sources: readonly (string | Module)[]): Promise<string>;
  /** A change that nobody announces. */
  readonly control: Database;
  /** Runs a change and announces it in its transaction, as the control plane does. */
  change(
    zone_id: string,
    kind: "application" | "resource" | "key" | "zone",
    work: (tx: Transaction) => Promise<unknown>,
  ): Promise<void>;
  revokeSession(zone_id: string, session_id: string): Promise<void>;
  token(
    fields: Readonly<Record<string, string>> | URLSearchParams,
    headers?: Readonly<Record<string, string>>,
  ): Promise<Answer>;
  ambient(zone_id: string, application: TestApplication, fields?: Readonly<Record<string, string>>): Promise<Answer>;
  exchange(
    zone_id: string,
    application: TestApplication,
    subject_token: string,
    resource: string,
    fields?: Readonly<Record<string, string>>,
  ): Promise<Answer>;
  /** Events of the ledger's stream, by request. */
  eventsOf(request_id: string): Promise<readonly AuditEvent[]>;
  events(): Promise<readonly AuditEvent[]>;
  close(): Promise<void>;
};

/** Allows whoever has the trait `agent`, and says why not to the others. */
export const ALLOW_AGENTS = `package caracal.authz

default result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": ["agents"], "diagnostics": ["agents only"]}

result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["agents"], "diagnostics": []} if {
	"agent" in input.principal.traits
	not sealed
}

result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": ["sealed"], "diagnostics": [{"sealed": input.resource.identifier}]} if {
	"agent" in input.principal.traits
	sealed
}

sealed if startswith(input.resource.identifier, "resource://sealed")
`;

/** A stored policy module. */
export type Module = { readonly wasm: Uint8Array; readonly wasm_sha256: string };

const compiled = new Map<string, Promise<Module>>();
export const compile = (source: string): Promise<Module> => {
  const known = compiled.get(source);
  if (known !== undefined) return known;
  const compiling = createPolicyCompiler({ log: createLog({ level: "silent" }) })
    .compile(source, uuidv7())
    .then((result) => {
      if (!result.ok) throw new Error(JSON.stringify(result.issues));
      return { wasm: result.policy.wasm, wasm_sha256: result.policy.wasm_sha256 };
    });
  compiled.set(source, compiling);
  return compiling;
};

/** `GATEWAY_PUBLIC_URL`. */
export const GATEWAY_URL = "https://gateway.test";

export type FixtureOptions = {
  readonly rate_limit_per_minute?: number;
  readonly policy_units_per_s?: number;
  readonly gateway?: boolean;
  /** The issuer is where the server is, as stock clients need it; else `https://issuer.test`. */
  readonly issuer_is_server?: boolean;
  /** Without the dispatcher nothing is announced, and no head comes. */
  readonly dispatcher?: boolean;
  /** With the worker that tells which policies run here. */
  readonly activations?: boolean;
};

export const startFixture = async (options: FixtureOptions = {}): Promise<Fixture> => {
  const [database, redis] = await Promise.all([createTestDatabase(), startRedis()]);
  let statements = 0;
  let round_trips = 0;
  const logged: string[] = [];
  const log = createLog({ level: "info", destination: { write: (line: string) => void logged.push(line) } });
  let offset_ms = 0;
  const clock = {
    now_ms: () => systemClock.now_ms() + offset_ms,
    monotonic_ms: () => systemClock.monotonic_ms() + offset_ms,
    forward(ms: number) {
      offset_ms += ms;
    },
  };
  const behind = new URL(database.url);
  const proxy = await startFaultProxy({ host: behind.hostname, port: Number(behind.port) });
  const through = new URL(database.url);
  through.hostname = "127.0.0.1";
  through.port = String(proxy.port);
  const db = createPostgres({ url: through.href, name: "sts", max: 10, onStatement: () => (statements += 1) });
  const control = createPostgres({ url: database.url, name: "control", max: 4 });
  const shared = createRedis({
    url: redis.url,
    log,
    onRoundTrip: (connection) => {
      if (connection === "commands") round_trips += 1;
    },
  });
  const streams_ring = keyring(Buffer.alloc(32, 1));
  const kek = keyring(Buffer.alloc(32, 2));
  const gateway_ring = keyring(Buffer.alloc(32, 3));
  const dir = mkdtempSync(join(tmpdir(), "caracal-sts-"));
  const journal = await openJournal({ dir, name: "audit", max_bytes: 1_000_000, log });
  const instance_id = uuidv7();
  const writer = createAuditWriter({
    streams: shared.streams,
    ring: streams_ring,
    journal,
    producer: `sts:${instance_id}`,
    clock,
    log,
  });
  const ledger = { refuse: false };
  const audit: AuditWriter = {
    append: (draft) => (ledger.refuse ? Promise.reject(new Unavailable("ledger")) : writer.append(draft)),
    record: (draft) => writer.record(draft),
    flush: () => writer.flush(),
  };
  const real_engine = createPolicyEngine({ budget_units: 50_000 });
  const engine = { gate: Promise.resolve(), loads: 0 };
  const binding = await bindRole({ name: "sts", host: "127.0.0.1", port: 0, tls: undefined, log });
  const url = `http://127.0.0.1:${binding.port}`;
  const issuer_url = options.issuer_is_server === true ? url : "https://issuer.test";
  const metrics = createMetrics();
  const egress = createEgress({ allow_private: false, allow_loopback: true, allowlist: [], production: false, clock });
  const upstreams = createUpstreams({ connect_timeout_ms: 2_000 });
  const role = createSts({
    db,
    streams: shared.streams,
    streams_ring,
    instance_id,
    marks: shared.marks,
    rateLimit: shared.rateLimit,
    pingRedis: () => shared.ping(),
    audit,
    engine: {
      load: async (wasm, zone_id): Promise<Evaluator> => {
        engine.loads += 1;
        await engine.gate;
        return real_engine.load(wasm, zone_id);
      },
    },
    egress,
    upstreams,
    issuer_url,
    gateway_url: GATEWAY_URL,
    kek,
    gateway_ring: options.gateway === false ? undefined : gateway_ring,
    wake: (rows) => dispatcher.wake(rows),
    policy_budget: 50_000,
    policy_units_per_s: options.policy_units_per_s ?? 50_000_000,
    rate_limit_per_minute: options.rate_limit_per_minute ?? 100_000,
    clock,
    log,
    metrics,
  });
  const dispatcher = createDispatcher({
    db: control,
    lease: createLease(control, instance_id),
    streams: shared.streams,
    ring: streams_ring,
    clock: systemClock,
    log,
  });
  // Its statements come when they come, and tests count those of a request.
  const own = role.services.filter(({ name }) => options.activations === true || name !== "sts-policy-activations");
  const services = [writer, ...(options.dispatcher === false ? [] : [dispatcher]), ...own];
  const fail = (error: unknown): void => void logged.push(String(error));
  for (const service of services) await service.start(fail);
  binding.serve(role);
  if (options.dispatcher !== false) {
    await eventually(async () => (await fetch(`${url}/ready`)).status === 200);
  }

  const change: Fixture["change"] = async (zone_id, kind, work) => {
    await control.sql.begin(async (tx) => {
      await work(tx);
      const stream = kind === "key" ? STREAMS.keys : STREAMS.config;
      await enqueueInvalidation(tx, stream, { zone_id, kind, id: zone_id });
    });
    dispatcher.wake();
  };

  const events: Fixture["events"] = async () => {
    await writer.flush();
    const entries = await shared.streams.range(STREAMS.audit, "0-0", 1_000);
    return entries.flatMap((entry) => readEvents(entry.fields) ?? []);
  };

  const token: Fixture["token"] = async (fields, headers = {}) => {
    const response = await fetch(`${url}${TOKEN_PATH}`, { method: "POST", body: new URLSearchParams(fields), headers });
    return {
      status: response.status,
      headers: response.headers,
      body: (await response.json()) as Record<string, unknown>,
    };
  };
  const client = (zone_id: string, application: TestApplication) => ({
    zone_id,
    client_id: application.id,
    client_secret: application.secret,
  });

  return {
    url,
    issuer_url,
    role,
    db,
    control,
    redis,
    database: proxy,
    kek,
    gateway_ring,
    clock,
    logged,
    ledger,
    engine,
    statements: () => statements,
    roundTrips: () => round_trips,
    async metric(line) {
      const found = (await metrics.text()).split("\n").find((one) => one.startsWith(`${line} `));
      return Number(found?.slice(line.length + 1) ?? 0);
    },
    async newZone() {
      const id = uuidv7();
      const key = makeZoneKey(kek, id);
      await change(id, "zone", async (tx) => {
        await tx`insert into zones (id, slug, name) values (${id}, ${id}, 'a zone')`;
        await tx`insert into zone_keys (zone_id, kid, public_jwk, sealed_private)
          values (${id}, ${key.kid}, ${key.public_jwk}, ${key.sealed_private})`;
      });
      return id;
    },
    async newApplication(zone_id, some = {}) {
      const id = uuidv7();
      const secret = randomSecret();
      const secret_hash = some.public === true ? null : await hashSecret(secret, zone_id);
      const list = (items: readonly string[]) => JSON.stringify(items);
      await change(
        zone_id,
        "application",
        (
          tx,
        ) => tx`insert into applications (zone_id, id, name, kind, secret_hash, scopes, traits, rate_limit_per_minute, unbound_mandates)
          values (${zone_id}, ${id}, 'an application', ${secret_hash === null ? "public" : "confidential"}, ${secret_hash},
            array(select json_array_elements_text(${list(some.scopes ?? ["read", "write"])}::text::json)),
            array(select json_array_elements_text(${list(some.traits ?? ["agent"])}::text::json)),
            ${some.rate_limit_per_minute ?? null}, ${some.unbound_mandates ?? false})`,
      );
      return { id, secret, secret_hash };
    },
    async newResource(zone_id, some = {}) {
      const id = uuidv7();
      const identifier = `resource://${id}`;
      await change(
        zone_id,
        "resource",
        (tx) => tx`insert into resources (zone_id, id, identifier, name, upstream_url, scopes)
          values (${zone_id}, ${id}, ${identifier}, 'a resource', ${some.upstream_url ?? "http://upstream.test/base"},
            array(select json_array_elements_text(${JSON.stringify(some.scopes ?? ["read", "write"])}::text::json)))`,
      );
      return { id, identifier };
    },
    async activate(zone_id, ...sources) {
      const modules = await Promise.all(
        sources.map(async (source) => (typeof source === "string" ? compile(source) : source)),
      );
      const [set_id, version_id] = [uuidv7(), uuidv7()];
      await control.sql.begin(async (tx) => {
        await tx`insert into policy_sets (zone_id, id, name) values (${zone_id}, ${set_id}, ${set_id})`;
        await tx`insert into policy_set_versions (zone_id, id, policy_set_id, version, manifest_sha)
          values (${zone_id}, ${version_id}, ${set_id}, 1, 'manifest')`;
        for (const [index, { wasm, wasm_sha256 }] of modules.entries()) {
          const [policy_id, policy_version_id] = [uuidv7(), uuidv7()];
          const given = sources[index];
          const source = typeof given === "string" ? given : "";
          const source_sha256 = createHash("sha256").update(source).digest("hex");
          await tx`insert into policies (zone_id, id, name) values (${zone_id}, ${policy_id}, ${policy_id})`;
          await tx`insert into policy_versions (zone_id, id, policy_id, version, source, source_sha256, wasm, wasm_sha256)
            values (${zone_id}, ${policy_version_id}, ${policy_id}, 1, ${source}, ${source_sha256}, ${Buffer.from(wasm)}, ${wasm_sha256})`;
          await tx`insert into policy_set_entries (zone_id, policy_set_version_id, position, policy_version_id)
            values (${zone_id}, ${version_id}, ${index + 1}, ${policy_version_id})`;
        }
        await tx`insert into active_policy_sets (zone_id, policy_set_id, policy_set_version_id)
          values (${zone_id}, ${set_id}, ${version_id})
          on conflict (zone_id) do update set policy_set_id = excluded.policy_set_id,
            policy_set_version_id = excluded.policy_set_version_id`;
        await enqueueInvalidation(tx, STREAMS.policy, { zone_id, kind: "activation", id: version_id });
      });
      dispatcher.wake();
      return version_id;
    },
    change,
    async revokeSession(zone_id, session_id) {
      await control.sql.begin(async (tx) => {
        const rows = await tx<{ expires_at: number }[]>`update sessions set revoked_at = now()
          where zone_id = ${zone_id} and id = ${session_id} returning extract(epoch from expires_at)::float8 as expires_at`;
        const expires_at = Math.ceil(rows[0]?.expires_at ?? 0) + 60;
        await enqueueRevocation(tx, { op: "revoke", kind: "session", id: session_id, zone_id, expires_at });
      });
      dispatcher.wake();
    },
    token,
    ambient: (zone_id, application, fields = {}) =>
      token({ grant_type: "client_credentials", ...client(zone_id, application), ...fields }),
    exchange: (zone_id, application, subject_token, resource, fields = {}) =>
      token({
        grant_type: GRANT_TOKEN_EXCHANGE,
        ...client(zone_id, application),
        subject_token,
        subject_token_type: TOKEN_TYPE_ACCESS_TOKEN,
        resource,
        [CALL_FIELDS.method]: "GET",
        [CALL_FIELDS.path]: "/",
        ...fields,
      }),
    events,
    eventsOf: async (request_id) => (await events()).filter((event) => event.request_id === request_id),
    async close() {
      await binding.close(1_000);
      for (const service of services.toReversed()) await service.stop(1_000);
      await upstreams.close();
      await shared.close();
      await Promise.all([db.close(), control.close()]);
      await journal.close();
      await proxy.close();
      await Promise.all([database.close(), redis.close()]);
      rmSync(dir, { recursive: true, force: true });
    },
  };
};
