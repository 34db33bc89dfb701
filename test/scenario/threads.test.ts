import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, it } from "node:test";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";
import type { Database } from "../../src/ports/database.ts";
import { makeCertificates } from "../support/certificates.ts";
import { eventually } from "../support/eventually.ts";
import { gatewayHeaders } from "../support/mcp.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { FREE_PORTS, type Program, ROLES, runToEnd, startProgram } from "../support/program.ts";
import { openRaw, type RawConnection } from "../support/raw-http.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";
import { trustCa } from "../support/trust.ts";
import { newRequestId } from "./agent.ts";
import { metricAt, metricsPage, readMetric } from "./metrics.ts";

/** One process of every role on servers: the ledger has a thread of its own, and nobody can tell but by the metrics. */

const CALLERS = 8;
const CALLS_BEFORE_STOP = 150;
const WHO_AM_I = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "whoami" } });
const SECRET = "never-to-be-printed";

type Line = Readonly<Record<string, unknown>> & { readonly message?: string };

/** The log, each line of which has to be whole; between them stands the demo's banner. */
const logOf = (program: Program): readonly Line[] =>
  program
    .stdout()
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Line);

const ambientToken = async ({ quickstart }: Program): Promise<string> => {
  const answer = await fetch(`${quickstart.sts_url}/oauth/2/token`, {
    method: "POST",
    body: new URLSearchParams({
      grant_type: "client_credentials",
      zone_id: quickstart.zone_id,
      client_id: quickstart.application_id,
      client_secret: quickstart.client_secret,
    }),
  });
  const { access_token } = (await answer.json()) as { readonly access_token?: string };
  assert.equal(typeof access_token, "string");
  return String(access_token);
};

/** Calls through the Gateway, several at once, until the program takes no more; the ids of those that were answered with 200. */
const startCallers = (program: Program, access_token: string): { allowed: string[]; ended: Promise<unknown> } => {
  const { gateway_url, resource } = program.quickstart;
  const allowed: string[] = [];
  const caller = async (): Promise<void> => {
    for (;;) {
      const request_id = newRequestId();
      const headers = {
        ...gatewayHeaders({ access_token, resource, request_id }),
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
      };
      const status = await fetch(gateway_url, { method: "POST", headers, body: WHO_AM_I }).then(
        async (answer) => (await answer.text(), answer.status),
        () => undefined, // nobody listens any more
      );
      if (status === undefined) return;
      if (status === 200) allowed.push(request_id);
    }
  };
  return { allowed, ended: Promise.all(Array.from({ length: CALLERS }, caller)) };
};

/** A call at the ledger's port that has begun, and waits for its end. */
const halfACall = async ({ quickstart }: Program): Promise<RawConnection> => {
  const half = await openRaw(quickstart.audit_url);
  half.write("GET /ready HTTP/1.1\r\nHost: localhost\r\n");
  await fetch(`${quickstart.audit_url}/health`); // answered later than those bytes were read
  return half;
};

describe("every role in one process on servers, the ledger in a thread of its own", () => {
  let database: TestDatabase | undefined;
  let redis: TestRedis | undefined;
  let db: Database | undefined;
  let env: Record<string, string> = {};
  let program: Program | undefined;
  let dir = "";
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "caracal-"));
    database = await createTestDatabase();
    redis = await startRedis({ appendonly: true });
    db = createPostgres({ url: database.url, name: "test", max: 2 });
    env = { DATABASE_URL: database.url, REDIS_URL: redis.url, LOG_LEVEL: "info" };
  });
  afterEach(async () => {
    await program?.close();
    program = undefined;
  });
  after(async () => {
    await db?.close();
    await redis?.close();
    await database?.close();
    rmSync(dir, { recursive: true, force: true });
  });

  const start = async (more: Readonly<Record<string, string>> = {}): Promise<Program> => {
    program = await startProgram({ env: { ...env, ...more }, data_dir: join(dir, "data") });
    return program;
  };
  /** A start in a folder of its own that is expected to be refused. */
  const refused = async (more: Readonly<Record<string, string>>): Promise<Awaited<ReturnType<typeof runToEnd>>> => {
    const CARACAL_DATA_DIR = join(dir, randomBytes(4).toString("hex"));
    const end = await runToEnd(["--role=all"], {
      env: { CARACAL_ENV: "dev", ...FREE_PORTS, ...env, CARACAL_DATA_DIR, ...more },
    });
    assert.equal(end.code, 1, end.stdout + end.stderr);
    assert.match(end.stderr, /^caracal: .+\n$/, "one line");
    assert.ok(!end.stdout.includes('"serving"') && !(end.stdout + end.stderr).includes(SECRET), end.stdout);
    return end;
  };
  const rowsOf = async (request_ids: readonly string[]): Promise<number> => {
    const [row] = await (db as Database).sql<{ rows: number }[]>`
      select count(*)::int as rows from audit_events
      where event_type = 'token.exchange' and decision = 'allow' and request_id = any(${[...request_ids]})`;
    return row?.rows ?? 0;
  };

  it("says once that it serves, with every port as it is, and each port answers for itself", async () => {
    const { quickstart } = await start();
    const serving = logOf(program as Program).filter((line) => line.message === "serving");
    assert.equal(serving.length, 1);
    const addresses = Object.fromEntries(ROLES.map((role) => [role, quickstart[`${role}_url`]]));
    assert.deepEqual(serving[0]?.["addresses"], addresses);
    assert.ok(!Object.values(addresses).some((url) => url.endsWith(":0")));
    const health = await fetch(`${quickstart.audit_url}/health`);
    assert.deepEqual(await health.json(), { status: "ok", role: "audit" });
    await eventually(() => logOf(program as Program).some((line) => line.message === "the ledger was verified"));
    const verified = logOf(program as Program).find((line) => line.message === "the ledger was verified");
    assert.equal(verified?.["role"], "audit");
  });

  it("shows the ledger's statements, round trips, loop and heap on the ledger's page alone", async () => {
    const { quickstart } = await start();
    const [audit, gateway] = await Promise.all([quickstart.audit_url, quickstart.gateway_url].map(metricsPage));
    for (const [page, own, other] of [
      [audit ?? "", "audit", "sts"],
      [gateway ?? "", "sts", "audit"],
    ] as const) {
      assert.ok(readMetric(page, "sql_statements_total", { pool: own }) > 0, own);
      assert.equal(readMetric(page, "sql_statements_total", { pool: other }), 0, other);
      assert.ok(readMetric(page, "redis_round_trips_total", { connection: "commands" }) > 0);
      assert.match(page, /^nodejs_eventloop_lag_seconds /m);
    }
    const heap = (page: string | undefined): number => readMetric(page ?? "", "nodejs_heap_size_used_bytes");
    assert.ok(heap(audit) > 0 && heap(audit) !== heap(gateway), "each thread has a heap of its own");
  });

  it("holds the thread to the level of the log", async () => {
    const { quickstart } = await start({ LOG_LEVEL: "error" });
    await ambientToken(program as Program); // an event
    await eventually(async () => (await metricAt(quickstart.audit_url, "audit_events_chained")) > 0);
    assert.deepEqual(logOf(program as Program), []);
  });

  it("is refused in one line where the ledger's port is taken", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    try {
      const end = await refused({ AUDIT_PORT: String(port) });
      assert.match(end.stderr, new RegExp(`^caracal: AUDIT_PORT: 127\\.0\\.0\\.1:${port} is taken`));
    } finally {
      server.close();
    }
  });

  it("is refused in one line where the ledger's database user may not in, or its server is down", async () => {
    const stranger = new URL((database as TestDatabase).url);
    stranger.username = "stranger";
    stranger.password = SECRET;
    const end = await refused({ DATABASE_URL_AUDIT: stranger.href });
    assert.match(end.stderr, /^caracal: DATABASE_URL: the database can't be reached \(.*stranger/);
    const nowhere = `postgres://ledger:${SECRET}@127.0.0.1:1/caracal`;
    assert.match((await refused({ DATABASE_URL_AUDIT: nowhere })).stderr, /can't be reached \(.*REFUSED/);
  });

  it("is refused in one line where the TLS files are none", async () => {
    const file = join(dir, "no.pem");
    writeFileSync(file, SECRET);
    const end = await refused({ TLS_CERT_FILE: file, TLS_KEY_FILE: file });
    assert.match(end.stderr, /^caracal: TLS_CERT_FILE and TLS_KEY_FILE are not a certificate/);
  });

  it("told to stop under load ends in good order, and each call that was answered is in the ledger", async (test) => {
    const running = await start();
    const { allowed, ended } = startCallers(running, await ambientToken(running));
    await eventually(() => allowed.length >= CALLS_BEFORE_STOP, { timeout_ms: 20_000 });
    assert.deepEqual(await running.stop(), { code: 0, signal: null }, running.stderr());
    await ended;
    test.diagnostic(`${allowed.length} calls answered, ${await rowsOf(allowed)} in the ledger at the end`);
    assert.ok(!logOf(running).some((line) => line["level"] === "error"), running.stdout());
    await running.start();
    await eventually(async () => assert.equal(await rowsOf(allowed), allowed.length));
  });

  it("told to stop waits for a call at the ledger's port, and told a second time does not", async () => {
    const running = await start({ SHUTDOWN_TIMEOUT: "20s" });
    const half = await halfACall(running);
    running.signal("SIGTERM");
    await eventually(() => logOf(running).some((line) => line.message === "draining"));
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    assert.equal(process.kill(running.pid, 0), true, "it waits");
    const began_ms = performance.now();
    running.signal("SIGTERM");
    assert.deepEqual(await running.exited(), { code: 0, signal: null });
    assert.ok(performance.now() - began_ms < 2_000);
    half.destroy();
  });

  it("lets a call at the ledger's port end when it is told to stop", async () => {
    const running = await start({ SHUTDOWN_TIMEOUT: "20s" });
    const half = await halfACall(running);
    running.signal("SIGTERM");
    await eventually(() => logOf(running).some((line) => line.message === "draining"));
    half.write("\r\n");
    const answer = await half.answer();
    assert.equal(answer?.status, 503);
    assert.match(answer?.body ?? "", /draining/);
    assert.deepEqual(await running.exited(), { code: 0, signal: null });
  });

  it("ends with another code than 0, after a drain, when the thread dies, and loses nothing", async () => {
    const fault_file = join(dir, "fault");
    const running = await start({
      NODE_OPTIONS: `--require=${join(packageRoot, "test", "support", "thread-fault.cjs")}`,
      TEST_THREAD_FAULT_FILE: fault_file,
    });
    const { allowed, ended } = startCallers(running, await ambientToken(running));
    await eventually(() => allowed.length >= CALLS_BEFORE_STOP, { timeout_ms: 20_000 });
    writeFileSync(fault_file, "");
    assert.deepEqual(await running.exited(), { code: 1, signal: null });
    await ended;
    const log = logOf(running);
    const told = log.filter((line) => line.message === "a part of the process failed for good");
    assert.equal(told.length, 1, running.stdout());
    assert.match(JSON.stringify(told[0]), /a fault that nobody caught/);
    assert.ok(log.some((line) => line.message === "draining" && line["why"] === "failure"));
    rmSync(fault_file);
    await running.start();
    // What the thread had taken and not kept is another's to take after 30 s.
    await eventually(async () => assert.equal(await rowsOf(allowed), allowed.length), { timeout_ms: 45_000 });
  });

  it("serves the ledger's port over TLS as the others", async () => {
    const certificates = makeCertificates();
    trustCa(certificates.ca);
    try {
      const { quickstart } = await start({
        TLS_CERT_FILE: certificates.cert_file,
        TLS_KEY_FILE: certificates.key_file,
      });
      assert.match(quickstart.audit_url, /^https:/);
      assert.equal((await fetch(`${quickstart.audit_url}/ready`)).status, 200);
    } finally {
      certificates.close();
    }
  });
});
