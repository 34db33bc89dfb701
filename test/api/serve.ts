import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { createPolicyCompiler } from "../../src/adapters/opa/compiler.ts";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";
import { policyTemplates, withShipped } from "../../src/adapters/opa/shipped.ts";
import { createEgress } from "../../src/adapters/egress/index.ts";
import { createPglite } from "../../src/adapters/pglite/index.ts";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { migrate } from "../../src/adapters/postgres/migrate.ts";
import { type ApiRole, createApi, createGlobalToken } from "../../src/api/index.ts";
import { apiEndpoints, type ApiEndpoints, type ApiOperation } from "../../src/contracts/api.ts";
import type { Endpoint, ResponseOf } from "../../src/contracts/endpoint.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { bindRole } from "../../src/http/server.ts";
import type { ErrorBody } from "../../src/http/problem.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { createLog } from "../../src/kernel/log.ts";
import { createMetrics } from "../../src/kernel/metrics.ts";
import type { Database } from "../../src/ports/database.ts";
import type { Egress } from "../../src/ports/egress.ts";
import type { PolicyCompiler } from "../../src/ports/policy.ts";
import { createTestDatabase } from "../support/postgres.ts";

export const BOOTSTRAP_TOKEN = "bootstrap-4f1c9a7e2d8b6035-9e8d7c6b5a493827";
export const KEK = keyring(Buffer.alloc(32, 7));

/** The guard as in development, with names that need no network. */
export const egressTo = (allowlist: readonly string[]): Egress =>
  createEgress({
    allow_private: false,
    allow_loopback: true,
    allowlist,
    production: false,
    clock: systemClock,
    resolver: async (name) => {
      if (name.endsWith(".example.com")) return ["93.184.215.14"];
      if (name === "inside.example.net") return ["10.0.0.1"];
      throw new Error("no such name");
    },
  });
export const EGRESS = egressTo([]);

export type Answer = {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  readonly body: ErrorBody;
};

/** The role as it is served, over a database of its own. */
export type ServedApi = {
  readonly url: string;
  readonly db: Database;
  /** The same database as its owner. */
  readonly owner: Database;
  readonly role: ApiRole;
  readonly global_token: string;
  /** How often the dispatcher was woken. */
  woken(): number;
  close(): Promise<void>;
};

const log = createLog({ level: process.env["TEST_LOG"] === undefined ? "silent" : "warn" });

type Options = { readonly bootstrap_token?: string; readonly compiler?: PolicyCompiler; readonly egress?: Egress };

/** A migrated database, who owns it where that is another user, and what ends it. */
type Backend = { readonly db: Database; readonly owner?: Database; readonly close: () => Promise<void> };

const onPostgres = async (connections: number): Promise<Backend> => {
  const database = await createTestDatabase();
  const db = createPostgres({ url: database.url, name: "api", max: connections });
  return {
    db,
    close: async () => {
      await db.close();
      await database.close();
    },
  };
};

/** With the rights of the role's group and no other, as in production. */
const asGroup = async (): Promise<Backend> => {
  const database = await createTestDatabase();
  const owner = createPostgres({ url: database.url, name: "owner", max: 1 });
  const user = `api_${randomBytes(6).toString("hex")}`;
  const password = randomBytes(16).toString("hex");
  await owner.sql.unsafe(`create role ${user} login password '${password}' in role caracal_api`);
  const url = new URL(database.url);
  url.username = user;
  url.password = password;
  const db = createPostgres({ url: url.href, name: "api", max: 4 });
  return {
    db,
    owner,
    close: async () => {
      await db.close();
      await owner.sql.unsafe(`drop role ${user}`);
      await owner.close();
      await database.close();
    },
  };
};

const onPglite = async (): Promise<Backend> => {
  const dir = mkdtempSync(join(tmpdir(), "caracal-api-"));
  const server = await createPglite({ dir });
  const db = server.database("api");
  await migrate(db);
  return {
    db,
    close: async () => {
      await server.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
};

export const serveApi = (options: Options = {}): Promise<ServedApi> => serveOn(() => onPostgres(8), options);
/** All of its statements go over one connection, which knows what it has read. */
export const serveApiOnOneConnection = (): Promise<ServedApi> => serveOn(() => onPostgres(1), {});
export const serveApiAsGroup = (options: Options = {}): Promise<ServedApi> => serveOn(asGroup, options);
export const serveEmbeddedApi = (options: Options = {}): Promise<ServedApi> => serveOn(onPglite, options);

const serveOn = async (start: () => Promise<Backend>, options: Options): Promise<ServedApi> => {
  const { db, owner = db, close } = await start();
  let woken = 0;
  const role = createApi({
    db,
    compiler: withShipped(createPolicyCompiler({ log })),
    engine: createPolicyEngine({ budget_units: 50_000 }),
    policy_budget: 50_000,
    templates: policyTemplates,
    clock: systemClock,
    wake: () => {
      woken += 1;
    },
    log,
    metrics: createMetrics(),
    kek: KEK,
    egress: EGRESS,
    key_delay_s: 300,
    rate_limit_per_minute: 6_000,
    ...options,
  });
  const serving = await bindRole({ name: "api", host: "127.0.0.1", port: 0, tls: undefined, log });
  serving.serve(role);
  const { token } = await createGlobalToken(owner, { label: "tests" });
  return {
    url: `http://127.0.0.1:${serving.port}`,
    db,
    owner,
    role,
    global_token: token,
    woken: () => woken,
    async close() {
      await serving.close(1_000);
      await close();
    },
  };
};

/** Any request at all. A string body goes as it is. */
export const send = async (
  url: string,
  request: {
    method?: string;
    path: string;
    token?: string | undefined;
    body?: unknown;
    headers?: Record<string, string>;
  },
): Promise<Answer> => {
  const has_body = request.body !== undefined;
  const response = await fetch(url + request.path, {
    method: request.method ?? "GET",
    headers: {
      ...(request.token === undefined ? {} : { authorization: `Bearer ${request.token}` }),
      ...(has_body ? { "content-type": "application/json" } : {}),
      ...request.headers,
    },
    ...(has_body ? { body: typeof request.body === "string" ? request.body : JSON.stringify(request.body) } : {}),
    signal: AbortSignal.timeout(20_000),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, body: text === "" ? {} : JSON.parse(text) };
};

type Parts = {
  readonly params?: Record<string, string>;
  readonly query?: Record<string, string>;
  readonly body?: unknown;
};

/**
 * Calls an operation by its name in the table of contracts. An answer that succeeds must have the contract's status and exactly
 * the fields of its response: one too many may be a hash or a key.
 */
export const call = async (
  url: string,
  token: string | undefined,
  name: ApiOperation,
  parts: Parts = {},
): Promise<Answer> => {
  const endpoint: Endpoint = apiEndpoints[name];
  const path = endpoint.path.replace(/\{([a-z_]+)\}/g, (_, field: string) =>
    encodeURIComponent(parts.params?.[field] ?? "missing"),
  );
  const query = parts.query === undefined ? "" : `?${new URLSearchParams(parts.query)}`;
  const answer = await send(url, { method: endpoint.method, path: path + query, token, body: parts.body });
  if (answer.status < 400) {
    assert.equal(answer.status, endpoint.status, `${name}: ${answer.text}`);
    if (endpoint.response === undefined) assert.equal(answer.text, "");
    else assert.deepEqual(v.parse(endpoint.response, answer.body), answer.body);
  } else {
    assert.equal(typeof answer.body.error, "string", `${name}: ${answer.text}`);
    assert.equal(typeof answer.body.message, "string");
    assert.equal(answer.body.requestId, answer.headers.get("x-request-id"));
  }
  return answer;
};

/** As `call`, but another status than the contract's fails the test. */
export const expectOk = async <const N extends ApiOperation>(
  url: string,
  token: string | undefined,
  name: N,
  parts: Parts = {},
): Promise<ResponseOf<ApiEndpoints[N]>> => {
  const answer = await call(url, token, name, parts);
  assert.equal(answer.status, apiEndpoints[name].status, `${name}: ${answer.status} ${answer.text}`);
  return answer.body as unknown as ResponseOf<ApiEndpoints[N]>;
};

let slugs = 0;

/** A fresh zone, and a full token that is bound to it. */
export const makeZone = async (api: ServedApi): Promise<{ readonly zone_id: string; readonly token: string }> => {
  slugs += 1;
  const zone = await expectOk(api.url, api.global_token, "createZone", {
    body: { slug: `zone-${slugs}`, name: `Zone ${slugs}` },
  });
  const zone_id = zone.id;
  const made = await expectOk(api.url, api.global_token, "createAdminToken", { body: { label: "zone", zone_id } });
  return { zone_id, token: made.token ?? "" };
};
