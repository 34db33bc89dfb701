import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { Redis } from "ioredis";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { policyTemplates } from "../../src/adapters/opa/shipped.ts";
import { createGlobalToken } from "../../src/api/index.ts";
import { verifyEntry } from "../../src/broadcast/envelope.ts";
import { OUTBOX_STREAMS, STREAMS } from "../../src/contracts/streams.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import type { Database } from "../../src/ports/database.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startFaultProxy } from "../support/fault-proxy.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { cleanEnvironment, isReady, killGroup, launch, MAIN, type Run } from "../support/program.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";

const WRITERS = 6;
/** Changes that were answered before the process is killed. */
const BEFORE_KILL = 40;
const KILLS = 3;
/** A killed process holds the lease of the outbox until it runs out. */
const SENT_WITHIN_MS = 120_000;

/** What follows from each change, as `stream kind`; `*`: of as many objects as the row's `revoked` says. */
const FOLLOWS: Readonly<Record<string, readonly string[]>> = {
  "zone.create": [`${STREAMS.config} zone`, `${STREAMS.keys} key`],
  "application.create": [`${STREAMS.config} application`],
  "application.archive": [`${STREAMS.config} application`],
  "application.end_sessions": [`${STREAMS.revoke} session`],
  "session.revoke": [`${STREAMS.revoke} session`],
  "resource.create": [`${STREAMS.config} resource`],
  "resource.update": [`${STREAMS.config} resource`],
  "resource.archive": [`${STREAMS.config} resource`],
  "grant.create": [`${STREAMS.config} grant`],
  "grant.archive": [`${STREAMS.config} grant`, `${STREAMS.revoke} grant`],
  "key.rotate": [`${STREAMS.keys} key`],
  "policy_set.activate": [`${STREAMS.policy} activation`],
};

type Row = { readonly stream: string; readonly zone_id: string; readonly seq: number; readonly fields_json: string };

describe("a control plane that is killed", () => {
  let database: TestDatabase;
  let db: Database;
  let redis: TestRedis;
  let way: FaultProxy;
  let env: Record<string, string>;
  let run: Run;
  let url = "";
  let token = "";
  const folder = mkdtempSync(join(tmpdir(), "caracal-killed-"));
  const streams_key = randomBytes(32);

  before(async () => {
    database = await createTestDatabase();
    db = createPostgres({ url: database.url, name: "test", max: 4 });
    redis = await startRedis();
    const at = new URL(redis.url);
    way = await startFaultProxy({ host: at.hostname, port: Number(at.port) });
    at.hostname = "127.0.0.1";
    at.port = String(way.port);
    env = cleanEnvironment({
      CARACAL_ENV: "dev",
      CARACAL_DATA_DIR: folder,
      DATABASE_URL: database.url,
      REDIS_URL: at.href,
      STREAMS_HMAC_KEY: streams_key.toString("hex"),
      ZONE_KEK: randomBytes(32).toString("hex"),
      API_PORT: "0",
      LOG_LEVEL: "info",
    });
    token = (await createGlobalToken(db, { label: "test" })).token;
  });
  after(async () => {
    if (run !== undefined) killGroup(run.pid, "SIGKILL");
    await run?.exited;
    await db.close();
    await way.close();
    await redis.close();
    await database.close();
    rmSync(folder, { recursive: true, force: true });
  });

  const start = async (): Promise<void> => {
    run = launch(process.execPath, [MAIN, "--role=api"], env);
    url = await eventually(
      () => {
        if (run.ended() !== undefined) throw new Error(`it ended: ${run.stdout()} ${run.stderr()}`);
        const found = /"api":"(http:[^"]+)"/.exec(run.stdout())?.[1];
        if (found === undefined) throw new Error(`it says no address: ${run.stdout()} ${run.stderr()}`);
        return found;
      },
      { timeout_ms: 60_000 },
    );
  };
  const ready = () => eventually(() => isReady(url), { timeout_ms: 60_000 });

  /** Ids of requests that were answered with 2xx. */
  const answered: string[] = [];
  const ask = async <T>(method: string, path: string, body?: object): Promise<T> => {
    const request_id = uuidv7();
    const answer = await fetch(url + path, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        "x-request-id": request_id,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    if (method !== "GET") answered.push(request_id);
    return (text === "" ? undefined : JSON.parse(text)) as T;
  };

  type Made = { readonly id: string };
  let zones: readonly string[] = [];

  /** One life of things in a zone, as far as it comes: each change says something to the caches, or ends authority. */
  const live = async (zone_id: string): Promise<void> => {
    const at = `/v1/zones/${zone_id}`;
    const app = await ask<Made>("POST", `${at}/applications`, { name: "a", kind: "public" });
    const resource = await ask<Made>("POST", `${at}/resources`, {
      identifier: `resource://${uuidv7()}`,
      name: "R",
      upstream_url: "https://r.example.com",
      scopes: ["s"],
    });
    const sessions = [uuidv7(), uuidv7(), uuidv7()];
    await db.sql`
      insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at)
      select ${zone_id}, id, ${app.id}, 'ann', 'user', now() + interval '1 hour' from unnest(${sessions}::text[]) as s (id)`;
    const grant = { application_id: app.id, resource_id: resource.id, subject: "i|ann", scopes: ["s"] };
    const { id } = await ask<Made>("POST", `${at}/grants`, grant);
    await ask("POST", `${at}/sessions/${sessions[0]}/revoke`);
    await ask("PATCH", `${at}/resources/${resource.id}`, { upstream_url: "https://s.example.com" });
    await ask("POST", `${at}/keys/rotate`, { force: true });
    await ask("DELETE", `${at}/grants/${id}`);
    await ask("DELETE", `${at}/resources/${resource.id}`);
    await ask("DELETE", `${at}/applications/${app.id}`);
  };

  /** Writers that go on until the process is gone. Resolves when it is, and they are. */
  const writeUntilKilled = async (more: number): Promise<void> => {
    const before_ = answered.length;
    let killed = false;
    const writers = Array.from({ length: WRITERS }, async (_, n) => {
      while (!killed) {
        await live(zones[n % zones.length] ?? "").catch((error: unknown) => {
          if (!killed) throw error; // the connection died with the process
        });
      }
    });
    await eventually(() => answered.length >= before_ + more, { timeout_ms: 60_000, every_ms: 1 });
    killed = true;
    killGroup(run.pid, "SIGKILL");
    await Promise.all(writers);
    await run.exited;
  };

  const rowsOf = () =>
    db.sql<Row[]>`select stream, zone_id, seq::float8 as seq, fields_json from outbox order by stream, zone_id, seq`;
  const pending = async (): Promise<number> =>
    (await db.sql<[{ n: number }]>`select count(*)::int as n from outbox where sent_at is null`)[0].n;

  it("loses nothing that it answered, and sends all that it committed, in order, each zone's by itself", async (test) => {
    await start();
    await ready();
    const made = [];
    for (const slug of ["one", "two"]) made.push(await ask<Made>("POST", "/v1/zones", { slug, name: slug }));
    zones = made.map(({ id }) => id);
    const [template] = await policyTemplates();
    const at = `/v1/zones/${zones[0]}`;
    const policy = await ask<Made>("POST", `${at}/policies`, { name: "p" });
    const version = await ask<Made>("POST", `${at}/policies/${policy.id}/versions`, { source: template?.source });
    const set = await ask<Made>("POST", `${at}/policy-sets`, { name: "s" });
    const entries = [{ policy_version_id: version.id }];
    const set_version = await ask<Made>("POST", `${at}/policy-sets/${set.id}/versions`, { entries });
    await ask("POST", `${at}/policy-sets/${set.id}/activate`, { version_id: set_version.id });

    for (let kills = 0; kills < KILLS; kills += 1) {
      await writeUntilKilled(BEFORE_KILL);
      await start();
      await ready();
    }
    // Between commit and publishing, for certain: nothing leads to the streams while these are written.
    way.refuse();
    way.cutAll();
    await writeUntilKilled(BEFORE_KILL);
    const unsent = await pending();
    assert.ok(unsent >= BEFORE_KILL, `${unsent} rows were committed and not sent`);
    way.heal();
    await start();
    await eventually(async () => (await pending()) === 0, { timeout_ms: SENT_WITHIN_MS, every_ms: 100 });

    // What was answered is there: by its request's id, in the same transaction as the change.
    const audited = await db.sql<{ request_id: string; action: string; revoked: number | null }[]>`
      select request_id, action, (detail_json::jsonb ->> 'revoked')::int as revoked from admin_audit`;
    const known = new Set(audited.map(({ request_id }) => request_id));
    assert.deepEqual(
      answered.filter((request_id) => !known.has(request_id)),
      [],
    );

    // Each change left exactly what follows from it.
    const expected = new Map<string, number>();
    for (const { action, revoked } of audited) {
      for (const what of FOLLOWS[action] ?? []) expected.set(what, (expected.get(what) ?? 0) + (revoked ?? 1));
    }
    const rows = await rowsOf();
    const found = new Map<string, number>();
    for (const { stream, fields_json } of rows) {
      const what = `${stream} ${(JSON.parse(fields_json) as { kind: string }).kind}`;
      found.set(what, (found.get(what) ?? 0) + 1);
    }
    assert.deepEqual([...found].toSorted(), [...expected].toSorted());
    const [ended] = await db.sql<[{ n: number }]>`select count(*)::int as n from sessions where revoked_at is not null`;
    assert.equal(found.get(`${STREAMS.revoke} session`), ended.n, "what is marked is told");

    // Each zone's are numbered without a gap, and came in that order, whole and signed, the first time that they came.
    const ring = keyring(streams_key);
    const client = new Redis(redis.url);
    try {
      let sent = 0;
      for (const stream of OUTBOX_STREAMS) {
        const raw = await client.xrange(stream, "-", "+");
        const first = new Map<string, Map<number, string>>();
        for (const [, flat] of raw) {
          const fields: Record<string, string> = {};
          for (let i = 0; i < flat.length; i += 2) fields[flat[i] ?? ""] = flat[i + 1] ?? "";
          assert.ok(verifyEntry(ring, stream, fields));
          const { zone_id = "", seq = "", kind, id } = fields;
          if (kind === undefined) continue; // a head
          const of_zone = first.get(zone_id) ?? new Map<number, string>();
          first.set(zone_id, of_zone);
          if (!of_zone.has(Number(seq))) of_zone.set(Number(seq), `${kind} ${id}`);
        }
        for (const zone_id of zones) {
          const of_zone = rows.filter((row) => row.stream === stream && row.zone_id === zone_id);
          const told = of_zone.map(({ fields_json }) => {
            const { kind, id } = JSON.parse(fields_json) as { kind: string; id: string };
            return `${kind} ${id}`;
          });
          assert.deepEqual(
            of_zone.map(({ seq }) => seq),
            told.map((_, n) => n + 1),
          );
          assert.deepEqual(
            [...(first.get(zone_id)?.keys() ?? [])],
            of_zone.map(({ seq }) => seq),
            `${stream} in order`,
          );
          assert.deepEqual([...(first.get(zone_id)?.values() ?? [])], told);
          sent += told.length;
        }
      }
      test.diagnostic(
        `${answered.length} changes answered, ${rows.length} messages, ${unsent} of them sent after the last kill`,
      );
      assert.equal(sent, rows.length);
    } finally {
      client.disconnect();
    }
  });
});
