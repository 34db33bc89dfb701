import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { createLease } from "../../src/adapters/postgres/lease.ts";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { createRedis, type Redis } from "../../src/adapters/redis/index.ts";
import type { RevocationPage } from "../../src/contracts/sts.ts";
import { deadLetterOf, STREAMS } from "../../src/contracts/streams.ts";
import { keyring } from "../../src/domain/keyring.ts";
import type { Clock } from "../../src/kernel/clock.ts";
import type { Database } from "../../src/ports/database.ts";
import { type Entry, START, type Streams, Unavailable } from "../../src/ports/streams.ts";
import { createDispatcher, type Dispatcher, type DispatcherOptions } from "../../src/broadcast/dispatcher.ts";
import { verifyEntry } from "../../src/broadcast/envelope.ts";
import { createInvalidations } from "../../src/broadcast/invalidations.ts";
import { enqueue, enqueueInvalidation, enqueueRevocation, type OutboxRow } from "../../src/broadcast/outbox-store.ts";
import { createRevocations } from "../../src/broadcast/revocations.ts";
import { eventually } from "../support/eventually.ts";
import { startFaultProxy } from "../support/fault-proxy.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { quietLog } from "../support/quiet-log.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";

const ring = keyring(randomBytes(32));
const NEVER_S = 4_000_000_000;

describe("the dispatcher", () => {
  let test_database: TestDatabase;
  let db: Database;
  let server: TestRedis;
  let redis: Redis;
  let streams: Streams;
  const running: { stop(deadline_ms: number): Promise<void> }[] = [];
  let owners = 0;
  before(async () => {
    [test_database, server] = await Promise.all([createTestDatabase(), startRedis()]);
    db = createPostgres({ url: test_database.url, name: "outbox", max: 6 });
    redis = createRedis({ url: server.url, log: quietLog(), command_timeout_ms: 500 });
    streams = redis.streams;
  });
  beforeEach(async () => {
    await db.sql`truncate outbox, stream_seqs, leases`;
    for (const stream of [...Object.values(STREAMS), deadLetterOf(STREAMS.revoke), deadLetterOf(STREAMS.keys)]) {
      await streams.remove(
        stream,
        (await streams.range(stream, START, 10_000)).map((entry) => entry.id),
      );
    }
  });
  afterEach(async () => {
    await Promise.all(running.splice(0).map((one) => one.stop(2000)));
  });
  after(async () => {
    await redis?.close();
    await db?.close();
    await Promise.all([server?.close(), test_database?.close()]);
  });

  const fakeClock = (): Clock & { advance(ms: number): void } => {
    let offset_ms = 0;
    return {
      now_ms: () => Date.now() + offset_ms,
      monotonic_ms: () => performance.now() + offset_ms,
      advance: (ms) => {
        offset_ms += ms;
      },
    };
  };
  const dispatcher = (given: Partial<DispatcherOptions> = {}) => {
    const log = quietLog();
    const clock = fakeClock();
    const one: Dispatcher = createDispatcher({
      db,
      lease: createLease(db, `owner-${++owners}`),
      streams,
      ring,
      log,
      clock,
      ...given,
    });
    running.push(one);
    return { one, log, clock };
  };
  const commitRevocation = (id: string, zone_id = "z1", op: "revoke" | "resume" = "revoke"): Promise<OutboxRow> =>
    db.sql.begin((tx) =>
      enqueueRevocation(tx, { op, kind: "session", id, zone_id, expires_at: NEVER_S }),
    ) as Promise<OutboxRow>;
  const revoke = async (...given: Parameters<typeof commitRevocation>): Promise<number> =>
    (await commitRevocation(...given)).seq;
  const invalidate = async (id: string, zone_id = "z1"): Promise<number> => {
    const row = await db.sql.begin((tx) => enqueueInvalidation(tx, STREAMS.keys, { zone_id, kind: "key", id }));
    return (row as OutboxRow).seq;
  };
  const all = (stream: string): Promise<readonly Entry[]> => streams.range(stream, START, 10_000);
  const messages = async (stream: string): Promise<Entry[]> =>
    (await all(stream)).filter((entry) => entry.fields["head"] === undefined);
  const heads = async (stream: string): Promise<Entry[]> =>
    (await all(stream)).filter((entry) => entry.fields["head"] !== undefined);
  const loadSnapshot = async (): Promise<RevocationPage> => {
    const position = await streams.position(STREAMS.revoke);
    const rows = await db.sql<{ zone_id: string; seq: number; events: { op: string; id: string }[] }[]>`
      select zone_id, max(seq)::float8 as seq, json_agg(fields_json::json order by seq) as events
      from outbox where stream = ${STREAMS.revoke} group by zone_id`;
    return {
      position,
      zones: rows.map(({ zone_id, seq, events }) => {
        const marks = new Set<string>();
        for (const event of events) {
          if (event.op === "revoke") marks.add(event.id);
          else marks.delete(event.id);
        }
        return { zone_id, seq, marks: [...marks].map((id) => ({ kind: "session" as const, id, expires_at: NEVER_S })) };
      }),
    };
  };
  const follow = async () => {
    const anomalies: string[] = [];
    const service = createRevocations({
      streams,
      ring,
      owner: `reader-${++owners}`,
      loadSnapshot,
      clock: { now_ms: () => Date.now(), monotonic_ms: () => performance.now() },
      log: quietLog(),
      onAnomaly: (kind) => anomalies.push(kind),
    });
    running.push(service);
    await service.start(() => undefined);
    await eventually(() => assert.equal(service.fault(), undefined));
    return { service, anomalies };
  };

  it("does not leave a revocation lying with a holder that died: whoever hears of it sends it, and it is marked later", async () => {
    const dead = createLease(db, "died with the lease");
    const held = await dead.acquire("outbox", 60_000);
    const { one } = dispatcher();
    await one.start((error) => assert.fail(String(error)));
    const { service } = await follow();
    const seq = await revoke("s1");
    one.wake();
    await eventually(() => assert.ok(service.revoked("z1", "session", "s1")));
    assert.equal(one.leads(), false);
    const [row] = await db.sql<{ sent: boolean }[]>`select sent_at is not null as sent from outbox where seq = ${seq}`;
    assert.equal(row?.sent, false, "only the holder marks");
    if (held !== undefined) await dead.release(held);
    await eventually(async () => {
      const [now] = await db.sql<
        { sent: boolean }[]
      >`select sent_at is not null as sent from outbox where seq = ${seq}`;
      assert.equal(now?.sent, true);
    });
  });

  it("leaves the lease to another where it can't reach the streams, and readers stay young", async () => {
    const target = new URL(server.url);
    const proxy = await startFaultProxy({ host: target.hostname, port: Number(target.port) });
    target.hostname = "127.0.0.1";
    target.port = String(proxy.port);
    const cut_off = createRedis({ url: target.href, log: quietLog(), command_timeout_ms: 500 });
    try {
      const first = dispatcher({ streams: cut_off.streams }).one;
      await first.start((error) => assert.fail(String(error)));
      await eventually(() => assert.ok(first.leads()));
      const second = dispatcher().one;
      await second.start((error) => assert.fail(String(error)));
      const { service } = await follow();
      proxy.blackHole();
      await eventually(() => assert.ok(second.leads() && !first.leads()), { timeout_ms: 6_000 });
      const seq = await revoke("s1");
      await eventually(() => assert.ok(service.revoked("z1", "session", "s1")), { timeout_ms: 1_000 });
      await eventually(async () => {
        const [row] = await db.sql<
          { sent: boolean }[]
        >`select sent_at is not null as sent from outbox where seq = ${seq}`;
        assert.equal(row?.sent, true);
        assert.ok(service.age_ms() < 4_000);
      });
    } finally {
      await Promise.all(running.splice(0).map((one) => one.stop(2000)));
      await cut_off.close();
      await proxy.close();
    }
  });

  for (const leading of [true, false]) {
    const who = leading ? "its own" : "another's";
    it(`sends what this process revoked though the database stops behind the commit, ${who} the lease`, async () => {
      const target = new URL(test_database.url);
      const proxy = await startFaultProxy({ host: target.hostname, port: Number(target.port) });
      target.hostname = "127.0.0.1";
      target.port = String(proxy.port);
      const stopping = createPostgres({ url: target.href, name: "outbox", max: 2 });
      const other = createLease(db, "leads elsewhere");
      const held = leading ? undefined : await other.acquire("outbox", 60_000);
      try {
        const { one } = dispatcher({ db: stopping, lease: createLease(stopping, `owner-${++owners}`) });
        await one.start((error) => assert.fail(String(error)));
        await eventually(() => assert.equal(one.leads(), leading));
        const { service } = await follow();
        proxy.blackHole();
        one.wake([await commitRevocation("s1")]);
        await eventually(() => assert.ok(service.revoked("z1", "session", "s1")), { timeout_ms: 1_000 });
        proxy.heal();
        if (held !== undefined) await other.release(held);
        await eventually(async () => {
          const [row] = await db.sql<{ sent: boolean }[]>`select bool_and(sent_at is not null) as sent from outbox`;
          assert.equal(row?.sent, true, "and the outbox goes on where it was");
        });
      } finally {
        await Promise.all(running.splice(0).map((one) => one.stop(2000)));
        await stopping.close();
        await proxy.close();
      }
    });
  }

  it("numbers a zone's messages without gaps, in the order of commit, under concurrency", async () => {
    await Promise.all(Array.from({ length: 60 }, (_, i) => revoke(`s${i}`, `z${i % 3}`)));
    await assert.rejects(
      db.sql.begin(async (tx) => {
        await enqueueRevocation(tx, { op: "revoke", kind: "session", id: "rolled back", zone_id: "z1", expires_at: 1 });
        throw new Error("rolled back");
      }),
    );
    assert.equal(await revoke("after", "z1"), 21);
    const rows = await db.sql<{ zone_id: string; seqs: number[] }[]>`
      select zone_id, json_agg(seq order by id) as seqs from outbox group by zone_id order by zone_id`;
    for (const row of rows)
      assert.deepEqual(
        row.seqs,
        row.seqs.map((_, i) => i + 1),
      );
  });

  it("refuses fields that it could not tell from its own, and messages that no stream should carry", async () => {
    for (const name of ["zone_id", "seq", "head", "_sig"]) {
      await assert.rejects(
        db.sql.begin((tx) => enqueue(tx, { stream: STREAMS.revoke, zone_id: "z1", fields: { [name]: "1" } })),
        RangeError,
      );
    }
    await assert.rejects(
      db.sql.begin((tx) => enqueue(tx, { stream: STREAMS.revoke, zone_id: "z1", fields: { a: "x".repeat(20_000) } })),
      RangeError,
    );
  });

  it("sends what was committed, signed, in order, once, with the head behind it", async () => {
    await revoke("s1");
    await revoke("s2");
    await revoke("s1", "z2");
    await invalidate("k1");
    const { one } = dispatcher();
    await one.tick();
    await one.tick();
    const sent = await messages(STREAMS.revoke);
    assert.deepEqual(
      sent.map(({ fields }) => `${fields["zone_id"]} ${fields["seq"]} ${fields["op"]} ${fields["id"]}`),
      ["z1 1 revoke s1", "z1 2 revoke s2", "z2 1 revoke s1"],
    );
    assert.ok((await all(STREAMS.revoke)).every((entry) => verifyEntry(ring, STREAMS.revoke, entry.fields)));
    const last = (await all(STREAMS.revoke)).at(-1)?.fields;
    assert.deepEqual([last?.["head"], last?.["total"], last?.["zones"]], ["1", "3", "2"]);
    assert.equal((await messages(STREAMS.keys)).length, 1);
    const [row] = await db.sql<{ left: number }[]>`select count(*)::int as left from outbox where sent_at is null`;
    assert.equal(row?.left, 0);
  });

  it("sends heads every 2 s, of streams that nobody ever wrote to as well", async () => {
    const { one, clock } = dispatcher();
    await one.tick();
    await one.tick();
    assert.equal((await heads(STREAMS.policy)).length, 1);
    clock.advance(2000);
    await one.tick();
    const found = await heads(STREAMS.policy);
    assert.deepEqual(
      found.map((entry) => entry.fields["total"]),
      ["0", "0"],
    );
  });

  it("reaches a reader well within a second of the commit, woken by it", async () => {
    const { one } = dispatcher();
    await one.start(() => undefined);
    const { service } = await follow();
    await eventually(() => one.leads());
    const taken: number[] = [];
    for (let i = 0; i < 20; i += 1) {
      const began = performance.now();
      await revoke(`s${i}`);
      await eventually(() => service.revoked("z1", "session", `s${i}`), { every_ms: 1 });
      taken.push(performance.now() - began);
    }
    taken.sort((a, b) => a - b);
    assert.ok((taken.at(-2) as number) < 250, `${taken.join(" ")}`);
  });

  it("lets one of two dispatchers work, and the other take over when it stops", async () => {
    const first = dispatcher();
    const second = dispatcher();
    await first.one.tick();
    await second.one.tick();
    assert.ok(first.one.leads() && !second.one.leads());
    await revoke("s1");
    await second.one.tick();
    assert.equal((await messages(STREAMS.revoke)).length, 0);
    await first.one.stop(1000);
    await second.one.tick();
    assert.ok(second.one.leads());
    assert.equal((await messages(STREAMS.revoke)).length, 1);
  });

  it("loses nothing and shows readers no hole while two dispatchers race and the lease goes back and forth", async () => {
    const { service, anomalies } = await follow();
    const pair = [dispatcher(), dispatcher()];
    for (const { one } of pair) await one.start(() => undefined);
    const ids: string[] = [];
    for (let round = 0; round < 8; round += 1) {
      await Promise.all(
        Array.from({ length: 10 }, async (_, i) => {
          const id = `s${round}-${i}`;
          ids.push(id);
          await revoke(id, `z${i % 3}`);
        }),
      );
      await db.sql`update leases set expires_at = '-infinity'`;
    }
    for (const [i, id] of ids.entries())
      await eventually(() => service.revoked(`z${(i % 10) % 3}`, "session", id), { timeout_ms: 10_000 });
    await eventually(async () =>
      assert.equal(await db.sql`select 1 from outbox where sent_at is null`.then((rows) => rows.length), 0),
    );
    assert.deepEqual(anomalies, []);
  });

  it("waits out a Redis that is away without giving any row up, and readers come back young", async () => {
    const { one } = dispatcher();
    await one.start(() => undefined);
    const { service } = await follow();
    await revoke("before");
    await eventually(() => service.revoked("z1", "session", "before"));
    await server.stop();
    await revoke("meanwhile");
    await eventually(async () =>
      assert.equal(
        await redis.ping().then(
          () => false,
          (error: unknown) => error instanceof Unavailable,
        ),
        true,
      ),
    );
    await server.start();
    await eventually(() => service.revoked("z1", "session", "meanwhile"), { timeout_ms: 10_000 });
    const [row] = await db.sql<
      { dead: number }[]
    >`select count(*)::int as dead from outbox where dead_at is not null or attempts > 1`;
    assert.equal(row?.dead, 0);
    await eventually(() => assert.ok(service.age_ms() < 3000 && service.fault() === undefined), { timeout_ms: 10_000 });
    assert.ok(service.revoked("z1", "session", "before"));
  });

  it("sends the last minutes again after the streams' memory was lost, which a reader takes or ignores as it must", async () => {
    const { one, clock } = dispatcher();
    await revoke("s1");
    await revoke("s2");
    await one.tick();
    const { service, anomalies } = await follow();
    await server.stop();
    await server.start();
    await eventually(() => redis.ping());
    assert.equal((await messages(STREAMS.revoke)).length, 0);
    clock.advance(2000);
    await one.tick();
    assert.deepEqual(
      (await messages(STREAMS.revoke)).map((entry) => entry.fields["id"]),
      ["s1", "s2"],
    );
    await revoke("s3");
    await one.tick();
    await eventually(() => service.revoked("z1", "session", "s3"));
    assert.deepEqual(anomalies, []);
  });

  it("keeps a row that can't be sent in front of its zone's others only, and gives it up in the end", async () => {
    const { seq: bad } = (await db.sql.begin(async (tx) =>
      enqueueRevocation(tx, { op: "revoke", kind: "session", id: "bad", zone_id: "z1", expires_at: 1 }),
    )) as OutboxRow;
    await db.sql`update outbox set fields_json = '{"id": 1}' where zone_id = 'z1' and seq = ${bad}`;
    await revoke("behind", "z1");
    await revoke("beside", "z2");
    const { one, log, clock } = dispatcher();
    await one.tick();
    assert.deepEqual(
      (await messages(STREAMS.revoke)).map((entry) => entry.fields["id"]),
      ["beside"],
    );
    for (let i = 0; i < 10; i += 1) {
      await db.sql`update outbox set retry_at = now() - interval '1 second' where retry_at is not null`;
      clock.advance(2000);
      await one.tick();
    }
    assert.deepEqual(
      (await messages(STREAMS.revoke)).map((entry) => entry.fields["id"]),
      ["beside", "behind"],
    );
    const [letter, ...more] = await all(deadLetterOf(STREAMS.revoke));
    assert.deepEqual(more, []);
    assert.deepEqual([letter?.fields["seq"], letter?.fields["fields_json"]], ["1", '{"id": 1}']);
    assert.ok(log.lines.some((line) => line.level === "error" && /revocation was given up/.test(line.message)));
  });

  it("keeps revocations moving while another stream's lane is stuck", async () => {
    const stuck: Streams = {
      ...streams,
      append: (stream, entries) =>
        stream === STREAMS.revoke ? streams.append(stream, entries) : new Promise(() => undefined),
    };
    const { one } = dispatcher({ streams: stuck });
    await invalidate("k1");
    await one.start(() => undefined);
    await eventually(() => one.leads());
    await revoke("s1");
    await eventually(async () => assert.equal((await messages(STREAMS.revoke)).length, 1));
    await one.stop(100);
    running.length = 0;
  });

  it("marks nothing for a holder that lost its lease meanwhile; the next one sends it again", async () => {
    await revoke("s1");
    const first = dispatcher();
    const slow: Streams = {
      ...streams,
      append: async (stream, entries) => {
        const ids = await streams.append(stream, entries);
        await db.sql`update leases set owner = 'another', fence = fence + 1, expires_at = now() + interval '1 minute'`;
        return ids;
      },
    };
    const late = dispatcher({ streams: slow });
    await assert.rejects(late.one.tick(), /held by another/);
    const [row] = await db.sql<{ left: number }[]>`select count(*)::int as left from outbox where sent_at is null`;
    assert.equal(row?.left, 1);
    await db.sql`update leases set expires_at = '-infinity'`;
    await first.one.tick();
    assert.deepEqual(
      (await messages(STREAMS.revoke)).map((entry) => entry.fields["seq"]),
      ["1", "1"],
    );
  });

  it("deletes rows a week after they were sent, and no other", async () => {
    await revoke("old");
    await revoke("young");
    const { one } = dispatcher();
    await one.tick();
    await revoke("waiting");
    await db.sql`update outbox set sent_at = now() - interval '8 days' where seq = 1`;
    await one.tick();
    const rows = await db.sql<{ seq: number }[]>`select seq::float8 as seq from outbox order by seq`;
    assert.deepEqual(
      rows.map((row) => row.seq),
      [2, 3],
    );
  });

  it("tells caches what changed, and to forget everything where a message is missing", async () => {
    const told: string[] = [];
    let lost = 0;
    const caches = createInvalidations({
      streams,
      ring,
      owner: `caches-${++owners}`,
      topics: [STREAMS.keys, STREAMS.config],
      onInvalidate: (topic, message) => told.push(`${topic} ${message.zone_id} ${message.kind} ${message.id}`),
      onLost: () => {
        lost += 1;
      },
      clock: { now_ms: () => Date.now(), monotonic_ms: () => performance.now() },
      log: quietLog(),
    });
    running.push(caches);
    await caches.start(() => undefined);
    await eventually(() => assert.equal(lost, 1));
    const { one, clock } = dispatcher();
    await one.tick();
    await invalidate("k1");
    await one.tick();
    await eventually(() => assert.deepEqual(told, [`${STREAMS.keys} z1 key k1`]));
    await invalidate("stolen", "z2");
    await db.sql`update outbox set sent_at = now() - interval '1 hour' where sent_at is null`;
    clock.advance(2000);
    await one.tick();
    await eventually(() => assert.equal(lost, 2));
    await invalidate("k2");
    await one.tick();
    await eventually(() => assert.equal(told.length, 2));
    clock.advance(2000);
    await one.tick();
    await eventually(() => assert.equal(caches.fault(), undefined));
    assert.equal(lost, 2);
  });
});
