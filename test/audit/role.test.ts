import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, afterEach, before, describe, it } from "node:test";
import { createMemory } from "../../src/adapters/memory/index.ts";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { createRedis } from "../../src/adapters/redis/index.ts";
import { createAudit } from "../../src/audit/index.ts";
import { createIngest } from "../../src/audit/ingest.ts";
import { createIngestor } from "../../src/audit/workers/ingestor.ts";
import { AUDIT_GROUP, deadLetterOf, STREAMS } from "../../src/contracts/streams.ts";
import type { AuditEvent } from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import type { Role } from "../../src/http/role.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { createLog } from "../../src/kernel/log.ts";
import { createMetrics } from "../../src/kernel/metrics.ts";
import { StartupFault } from "../../src/kernel/problem.ts";
import type { Database } from "../../src/ports/database.ts";
import type { Streams } from "../../src/ports/streams.ts";
import { entriesOf } from "../../src/ledger/entry.ts";
import { verifyEntry } from "../../src/broadcast/envelope.ts";
import { replayDead } from "../../src/ledger/consumer.ts";
import { eventually } from "../support/eventually.ts";
import { startFaultProxy } from "../support/fault-proxy.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { startRedis } from "../support/redis.ts";
import { auditEvent, auditEvents, eventOf, readEvents, sent, sentUnfitted, writeEvents } from "./events.ts";

const stream_ring = keyring(Buffer.alloc(32, 5));
const audit_ring = keyring(Buffer.alloc(32, 7));
const log = createLog({ level: "silent" });
const DEAD = deadLetterOf(STREAMS.audit);

type OpenStreams = { readonly streams: Streams; close(): Promise<void> };
const STREAM_KINDS: readonly { readonly kind: string; readonly open: () => Promise<OpenStreams> }[] = [
  {
    kind: "Redis",
    async open() {
      const server = await startRedis();
      const redis = createRedis({ url: server.url, log });
      await eventually(async () => {
        await redis.ping();
        return true;
      });
      return {
        streams: redis.streams,
        async close() {
          await redis.close();
          await server.close();
        },
      };
    },
  },
  {
    kind: "streams in process",
    async open() {
      const memory = await createMemory({ clock: systemClock });
      return { streams: memory.streams, close: () => memory.close() };
    },
  },
];

for (const { kind, open } of STREAM_KINDS) {
  describe(`the audit role on ${kind}`, () => {
    let database: TestDatabase;
    let db: Database;
    let opened: OpenStreams;
    let streams: Streams;
    const running: Role[] = [];

    const newRole = (on: Database = db, consumer = uuidv7()): Role =>
      createAudit({
        db: on,
        streams,
        stream_ring,
        audit_ring,
        max_deliveries: 3,
        consumer,
        clock: systemClock,
        log,
        metrics: createMetrics(),
      });
    const start = async (role: Role): Promise<void> => {
      running.push(role);
      for (const service of role.services) await service.start((error) => assert.fail(String(error)));
    };
    const stop = async (role: Role): Promise<void> => {
      for (const service of role.services.toReversed()) await service.stop(5_000);
    };
    const put = (events: readonly AuditEvent[]) => streams.append(STREAMS.audit, writeEvents(stream_ring, events));
    const kept = async (zone_id: string): Promise<readonly string[]> => {
      const rows = await db.sql<
        { id: string }[]
      >`select id from audit_events where zone_id = ${zone_id} order by chain_seq`;
      return rows.map((row) => row.id);
    };
    const faults = async (role: Role): Promise<readonly string[]> =>
      (await Promise.all(role.ready.map(async (check) => check.fault()))).filter((fault) => fault !== undefined);
    const idsOf = (events: readonly AuditEvent[]): readonly string[] => events.map((event) => event.id);

    before(async () => {
      database = await createTestDatabase();
      db = createPostgres({ url: database.url, name: "audit", max: 4 });
      opened = await open();
      streams = opened.streams;
    });
    afterEach(async () => {
      for (const role of running.splice(0)) await stop(role);
      await streams.remove(
        DEAD,
        (await streams.range(DEAD, "0-0", 1_000)).map((entry) => entry.id),
      );
    });
    after(async () => {
      await opened.close();
      await db.close();
      await database.close();
    });

    it("buries, after its deliveries, an entry that it trips over, and keeps those around it", async () => {
      const zone_id = uuidv7();
      const events = auditEvents(3, { zone_id, producer: uuidv7() });
      const poison = events[1]?.id;
      const ingest = createIngest({ db, ring: audit_ring, onFindings: () => {}, onFilled: () => {} });
      let tries = 0;
      const dead: string[] = [];
      const ingestor = createIngestor({
        db,
        streams,
        ring: stream_ring,
        ingest: {
          async ingest(given) {
            if (given.length === 1 && given[0] !== undefined && eventOf(given[0].values).id === poison) tries += 1;
            if (given.some(({ values }) => eventOf(values).id === poison))
              throw new TypeError("what no reader thought of");
            return ingest.ingest(given);
          },
        },
        consumer: uuidv7(),
        max_deliveries: 3,
        clock: systemClock,
        log,
        onIngested: () => {},
        onDead: (reason) => dead.push(reason),
      });
      await ingestor.start((error) => assert.fail(String(error)));
      try {
        for (const event of events) await put([event]);
        await eventually(async () => assert.deepEqual(await kept(zone_id), [events[0]?.id, events[2]?.id]));
        await eventually(() => assert.deepEqual(dead, ["max_deliveries"]));
        assert.ok(tries >= 3, String(tries));
        assert.equal(await streams.length(DEAD), 1);
      } finally {
        await ingestor.stop(5_000);
      }
    });

    it("chains what the stream brings, is ready, and counts it", async () => {
      const zone_id = uuidv7();
      const events = auditEvents(300, { zone_id, producer: uuidv7() });
      const role = newRole();
      await start(role);
      await put(events.slice(0, 5));
      await put(events.slice(5));
      await eventually(async () => assert.deepEqual(await kept(zone_id), idsOf(events)));
      await eventually(async () => assert.deepEqual(await faults(role), []));
      await eventually(async () => {
        const text = await role.metrics.text();
        assert.match(text, /^audit_events_chained 300$/m);
        assert.match(text, /^audit_findings\{kind="chain_break"\} 0$/m);
        assert.match(text, /^stream_lag_seconds 0$/m);
        assert.match(text, /^dlq_depth\{stream="caracal\.audit\.events\.dlq"\} 0$/m);
      });
      await eventually(async () => assert.equal(await streams.backlog(STREAMS.audit, AUDIT_GROUP), 0));
    });

    it("leaves nothing to come again where it is stopped right behind a commit", async () => {
      const zone_id = uuidv7();
      const role = newRole();
      await start(role);
      await put(auditEvents(1, { zone_id, producer: uuidv7() }));
      await eventually(async () => assert.equal((await kept(zone_id)).length, 1));
      running.splice(running.indexOf(role), 1);
      await stop(role);
      assert.equal(await streams.backlog(STREAMS.audit, AUDIT_GROUP), 0);
    });

    it("keeps once what was committed by a process that died before it acknowledged", async () => {
      const zone_id = uuidv7();
      const events = auditEvents(10, { zone_id, producer: uuidv7() });
      const consumer = uuidv7();
      const ingest = createIngest({ db, ring: audit_ring, onFindings: () => {}, onFilled: () => {} });
      let committed = false;
      const died = await streams.consumeGroup({
        stream: STREAMS.audit,
        group: AUDIT_GROUP,
        consumer,
        count: 10,
        claim_after_ms: 30_000,
        async onEntries() {
          await ingest.ingest(events.map(sent));
          committed = true;
          return []; // the process ends here
        },
        onError: (error) => assert.fail(String(error)),
      });
      await put(events);
      await eventually(() => committed);
      await died.close();
      const role = newRole(db, consumer);
      await start(role);
      await eventually(async () => assert.match(await role.metrics.text(), /^audit_events_duplicate 10$/m));
      assert.deepEqual(await kept(zone_id), idsOf(events));
    });

    it("acts on no forged entry, and puts it with the dead letters", async () => {
      const zone_id = uuidv7();
      const [entry] = writeEvents(keyring(Buffer.alloc(32, 6)), auditEvents(1, { zone_id }));
      const [signed] = writeEvents(stream_ring, auditEvents(1, { zone_id }));
      const role = newRole();
      await start(role);
      await streams.append(STREAMS.audit, [entry ?? {}, { ...signed, events: `${signed?.["events"] ?? ""} ` }]);
      await eventually(async () => assert.equal(await streams.length(DEAD), 2));
      assert.deepEqual(await kept(zone_id), []);
      await eventually(async () => {
        assert.match(await role.metrics.text(), /^audit_dead_letters 2$/m);
        assert.match(await role.metrics.text(), /^dlq_depth\{.*\} 2$/m);
      });
    });

    it("buries a poisoned event alone, as an entry that can be played again, and keeps those around it", async () => {
      const zone_id = uuidv7();
      const producer = uuidv7();
      const events = auditEvents(5, { zone_id, producer });
      // More than an index takes, and nothing that could be compressed.
      const request_id = randomBytes(6_000).toString("base64");
      const poison = auditEvent({ zone_id, producer, producer_seq: 6, request_id });
      const role = newRole();
      await start(role);
      const all = [...events.slice(0, 2), poison, ...events.slice(2)];
      const texts = all.map((event) => sentUnfitted(event).text);
      await streams.append(STREAMS.audit, entriesOf(stream_ring, texts));
      await eventually(async () => assert.deepEqual(await kept(zone_id), idsOf(events)));
      const [dead] = await eventually(async () => {
        const entries = await streams.range(DEAD, "0-0", 10);
        return entries.length === 1 && entries;
      });
      const { _dead_id, _dead_reason, ...fields } = dead?.fields ?? {};
      assert.deepEqual([_dead_id, verifyEntry(stream_ring, STREAMS.audit, fields)], [poison.id, true]);
      assert.match(_dead_reason ?? "", /database refused: 54000/);
      assert.deepEqual(readEvents(fields), [poison]);
      // Played again, it is poison still, and comes back; nothing is lost and nothing is kept twice.
      assert.deepEqual(await replayDead({ streams, ring: stream_ring, stream: STREAMS.audit, limit: 10 }), {
        moved: 1,
        kept: 0,
      });
      await eventually(async () => assert.equal(await streams.length(DEAD), 1));
      assert.deepEqual(await kept(zone_id), idsOf(events));
    });

    it("waits for a database that went away, is not ready meanwhile, buries nothing, and goes on by itself", async () => {
      const proxy = await startFaultProxy({ port: Number(new URL(database.url).port) });
      const url = new URL(database.url);
      url.port = String(proxy.port);
      url.hostname = "127.0.0.1";
      const through = createPostgres({ url: url.href, name: "audit", max: 2 });
      try {
        const zone_id = uuidv7();
        const events = auditEvents(9, { zone_id, producer: uuidv7() });
        const role = newRole(through);
        await start(role);
        await put(events.slice(0, 3));
        await eventually(async () => assert.equal((await kept(zone_id)).length, 3));
        await eventually(async () => assert.deepEqual(await faults(role), []));
        proxy.refuse();
        proxy.cutAll();
        await put(events.slice(3, 6));
        await put(events.slice(6));
        await eventually(async () => assert.deepEqual(await faults(role), ["the database does not take events"]));
        assert.ok((await streams.backlog(STREAMS.audit, AUDIT_GROUP)) > 0);
        proxy.heal();
        await eventually(async () => assert.deepEqual(await kept(zone_id), idsOf(events)), { timeout_ms: 15_000 });
        await eventually(async () => assert.deepEqual(await faults(role), []));
        assert.equal(await streams.length(DEAD), 0);
        await stop(running.pop() ?? role);
      } finally {
        await through.close();
        await proxy.close();
      }
    });

    it("drains while the database is away, without an acknowledgement, and the next process goes on", async () => {
      const proxy = await startFaultProxy({ port: Number(new URL(database.url).port) });
      const url = new URL(database.url);
      url.port = String(proxy.port);
      url.hostname = "127.0.0.1";
      const through = createPostgres({ url: url.href, name: "audit", max: 2 });
      const consumer = uuidv7();
      try {
        const zone_id = uuidv7();
        const events = auditEvents(4, { zone_id, producer: uuidv7() });
        const role = newRole(through, consumer);
        await start(role);
        await eventually(async () => assert.deepEqual(await faults(role), []));
        proxy.refuse();
        proxy.cutAll();
        await put(events);
        await eventually(async () => assert.equal((await faults(role)).length, 1));
        await stop(running.pop() ?? role);
        assert.deepEqual(await kept(zone_id), []);
        await start(newRole(db, consumer));
        await eventually(async () => assert.deepEqual(await kept(zone_id), idsOf(events)));
      } finally {
        proxy.heal();
        await through.close();
        await proxy.close();
      }
    });

    it("does not start without the database, and says what to do in one line", async () => {
      const nowhere = createPostgres({
        url: "postgres://nobody@127.0.0.1:1/none?sslmode=disable",
        name: "audit",
        max: 1,
      });
      const [ingestor] = newRole(nowhere).services;
      await assert.rejects(
        async () => ingestor?.start(() => {}),
        (error) =>
          error instanceof StartupFault && error.faults.length === 1 && /DATABASE_URL.*PostgreSQL/.test(error.message),
      );
      await nowhere.close();
    });

    it("answers every page that is not the server's with 404 in the general shape", async () => {
      const role = newRole();
      const server: Server = createServer(role.handle);
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      try {
        const answer = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/audit`, {
          headers: { "x-request-id": "req-1" },
        });
        const body = (await answer.json()) as Record<string, unknown>;
        assert.deepEqual([answer.status, body["error"], body["requestId"]], [404, "not_found", "req-1"]);
      } finally {
        server.closeAllConnections();
        server.close();
      }
    });
  });
}
