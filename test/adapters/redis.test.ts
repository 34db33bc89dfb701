import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { Redis as Client } from "ioredis";
import { createRedis, type Redis } from "../../src/adapters/redis/index.ts";
import { StartupFault } from "../../src/kernel/problem.ts";
import { type AgedEntry, START, type Subscription, Unavailable } from "../../src/ports/streams.ts";
import { eventually } from "../support/eventually.ts";
import { quietLog } from "../support/quiet-log.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";

const TIMEOUT_MS = 300;

describe("the Redis adapter", () => {
  let server: TestRedis;
  const closing: (() => Promise<unknown>)[] = [];
  before(async () => {
    server = await startRedis();
  });
  after(() => server.close());
  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  const connected = (trips?: string[]): Redis => {
    const redis = createRedis({
      url: server.url,
      log: quietLog(),
      command_timeout_ms: TIMEOUT_MS,
      onRoundTrip: (connection) => trips?.push(connection),
    });
    closing.push(() => redis.close());
    return redis;
  };
  const admin = (): Client => {
    const client = new Client(server.url);
    client.on("error", () => undefined);
    closing.push(async () => client.disconnect());
    return client;
  };
  const reading = async (redis: Redis, stream: string, owner = "reader", from = START) => {
    const got: AgedEntry[] = [];
    const errors: unknown[] = [];
    const subscription: Subscription = await redis.streams.subscribeAll({
      owner,
      from: { [stream]: from },
      onEntries: async (_stream, entries) => void got.push(...entries),
      onError: (error) => errors.push(error),
    });
    return { got, errors, subscription };
  };
  const timed = async (work: Promise<unknown>): Promise<{ error: unknown; ms: number }> => {
    const began = performance.now();
    const error = await work.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    return { error, ms: performance.now() - began };
  };

  it("sends all commands of a tick in one round trip, scripts and appends among them", async () => {
    const trips: string[] = [];
    const redis = connected(trips);
    await redis.ping();
    trips.length = 0;
    await Promise.all([
      redis.rateLimit.take("a", 60, 10),
      redis.rateLimit.take("b", 60, 10),
      redis.marks.once("jti", "trip", Date.now(), Date.now() + 1000),
      redis.streams.append("trips", [{ a: "1" }, { a: "2" }]),
    ]);
    assert.deepEqual(trips, ["commands"]);
    await redis.streams.append("trips", [{ a: "3" }]);
    assert.deepEqual(trips, ["commands", "commands"]);
  });

  it("asks for all calls of one tick and key with one command, and for all marks of one tick", async () => {
    const redis = connected();
    const direct = admin();
    await redis.marks.prime();
    const calls = async (): Promise<number> =>
      Number(/cmdstat_evalsha:calls=(\d+)/.exec(await direct.info("commandstats"))?.[1] ?? 0);
    const before_them = await calls();
    const expires_ms = Date.now() + 60_000;
    await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        await Promise.all([
          redis.rateLimit.take(`tick ${i % 2}`, 60, 100),
          redis.marks.once("jti", `tick ${i}`, expires_ms - 1_000, expires_ms),
        ]);
      }),
    );
    assert.equal((await calls()) - before_them, 3);
  });

  it("refuses all that share a command with it when the server is away", async () => {
    const redis = connected();
    await redis.ping();
    await server.stop();
    await eventually(async () => assert.ok((await timed(redis.ping())).error instanceof Unavailable));
    const results = await Promise.allSettled([
      ...Array.from({ length: 5 }, () => redis.rateLimit.take("away", 60, 10)),
      ...Array.from({ length: 5 }, (_, i) => redis.marks.once("jti", `away ${i}`, Date.now(), Date.now() + 1000)),
    ]);
    assert.ok(results.every((one) => one.status === "rejected" && one.reason instanceof Unavailable));
    await server.start();
    await eventually(() => redis.rateLimit.take("away", 60, 10));
  });

  it("tells what an operator must know", async () => {
    const facts = await connected().facts();
    assert.match(facts.version, /^\d+\./);
    assert.equal(facts.role, "master");
    assert.equal(facts.maxmemory_policy, "noeviction");
    assert.equal(facts.auth, false);
  });

  it("refuses an address that is none, in one line", () => {
    for (const url of ["localhost:6379", "http://localhost", ""]) {
      assert.throws(
        () => createRedis({ url, log: quietLog() }),
        (error) => error instanceof StartupFault && error.message.startsWith("REDIS_URL"),
      );
    }
  });

  it("rejects at once with Unavailable while the server is down, and works again when it is back", async () => {
    const redis = connected();
    await redis.ping();
    await server.stop();
    await eventually(async () => assert.ok((await timed(redis.ping())).error instanceof Unavailable));
    for (const work of [
      redis.ping(),
      redis.rateLimit.take("x", 60, 1),
      redis.marks.once("a", "b", 1, 2),
      redis.streams.append("s", [{ a: "b" }]),
      redis.streams.position("s"),
    ]) {
      const { error, ms } = await timed(work);
      assert.ok(error instanceof Unavailable, String(error));
      assert.ok(ms < 100, `${ms} ms`);
    }
    await server.start();
    await eventually(() => redis.ping());
  });

  it("gives up a server that is stopped without closing after its timeout, and does not wait for it a second time", async () => {
    const redis = connected();
    await redis.ping();
    server.pause();
    try {
      const first = await timed(redis.ping());
      assert.ok(first.error instanceof Unavailable);
      assert.ok(first.ms >= TIMEOUT_MS - 50 && first.ms < TIMEOUT_MS * 2, `${first.ms} ms`);
      const second = await timed(redis.rateLimit.take("x", 60, 1));
      assert.ok(second.error instanceof Unavailable);
      assert.ok(second.ms < 100, `${second.ms} ms`);
    } finally {
      server.resume();
    }
    await eventually(() => redis.ping());
  });

  it("never sends a command twice: what timed out is not carried out again after the reconnect", async () => {
    const redis = connected();
    await redis.ping();
    server.pause();
    const { error } = await timed(redis.streams.append("once", [{ a: "1" }]));
    assert.ok(error instanceof Unavailable);
    server.resume();
    await eventually(() => redis.ping());
    assert.ok((await redis.streams.length("once")) <= 1);
  });

  it("takes up a server that forgot its scripts", async () => {
    const redis = connected();
    await redis.marks.prime();
    assert.equal((await redis.rateLimit.take("forgot", 60, 5)).allowed, true);
    await admin().script("FLUSH");
    const results = await Promise.all([1, 2, 3].map(() => redis.rateLimit.take("forgot", 60, 5)));
    assert.ok(results.every((one) => one.allowed));
    assert.equal(await redis.marks.once("jti", "forgot", Date.now() + 1000, Date.now() + 2000), "marked");
  });

  it("refuses ids from before a restart, which may have been used, and takes later ones", async () => {
    const redis = connected();
    await redis.marks.prime();
    const issued_ms = Date.now() + 5;
    await eventually(() => Date.now() > issued_ms);
    assert.equal(await redis.marks.once("jti", "before", issued_ms, issued_ms + 60_000), "marked");
    await server.stop();
    await server.start();
    await eventually(() => redis.ping());
    const result = await redis.marks.once("jti", "before", issued_ms, issued_ms + 60_000);
    assert.ok(result === "lost" || result === "seen", result);
    assert.equal(await redis.marks.once("jti", "unused before", issued_ms, issued_ms + 60_000), "lost");
    assert.equal(await redis.marks.once("jti", "after", Date.now() + 1000, Date.now() + 60_000), "marked");
  });

  it("refuses ids from before a restart also where the server kept what it knew, since the last of it may be missing", async () => {
    const durable = await startRedis({ appendonly: true });
    closing.push(() => durable.close());
    const redis = createRedis({ url: durable.url, log: quietLog(), command_timeout_ms: TIMEOUT_MS });
    closing.push(() => redis.close());
    await redis.marks.prime();
    const issued_ms = Date.now() + 5;
    await eventually(() => Date.now() > issued_ms);
    assert.equal(await redis.marks.once("jti", "used", issued_ms, issued_ms + 60_000), "marked");
    const identity = await redis.streams.identity();
    await durable.stop();
    await durable.start();
    await eventually(() => redis.ping());
    assert.notEqual(await redis.streams.identity(), identity);
    assert.equal(await redis.marks.once("jti", "used", issued_ms, issued_ms + 60_000), "seen");
    assert.equal(await redis.marks.once("jti", "unused", issued_ms, issued_ms + 60_000), "lost");
    assert.equal(await redis.marks.once("jti", "later", Date.now() + 1000, Date.now() + 60_000), "marked");
  });

  it("keeps a mark for all of its id's life, however far the server's clock is ahead", async () => {
    const redis = connected();
    const client = admin();
    await redis.marks.prime();
    await client.hset("caracal:marks:epoch", "since_ms", 0); // so that a time an hour ago is not lost, as by that clock
    const issued_ms = Date.now() - 3_600_000;
    assert.equal(await redis.marks.once("jti", "ahead", issued_ms, issued_ms + 300_000), "marked");
    const left_ms = await client.pttl("caracal:mark:jti:ahead");
    assert.ok(left_ms > 400_000 && left_ms <= 420_000, String(left_ms));
  });

  it("tells a store of marks that fails from an id that was used: it rejects with Unavailable", async () => {
    const redis = connected();
    const client = admin();
    await redis.marks.prime();
    assert.equal(await redis.marks.once("jti", "failing", Date.now() + 50, Date.now() + 60_000), "marked");
    const faults = [
      async () => client.set("caracal:marks:epoch", "no hash"),
      async () => client.config("SET", "maxmemory", "1"),
      async () => server.stop(),
    ];
    for (const fault of faults) {
      await fault();
      const { error } = await timed(redis.marks.once("jti", "another", Date.now() + 50, Date.now() + 60_000));
      assert.ok(error instanceof Unavailable && error.part === "Redis", String(error));
      if (fault !== faults[2]) {
        await client.config("SET", "maxmemory", "0");
        await client.del("caracal:marks:epoch");
      }
    }
    await server.start();
  });

  it("tells what a stream can still take from what the server may use", async () => {
    const redis = connected();
    const client = admin();
    const used = Number(/used_memory:(\d+)/.exec(await client.info("memory"))?.[1]);
    await client.config("SET", "maxmemory", String(used + 10_000_000));
    try {
      const load = await redis.streams.load("caracal.test.load", "nobody");
      assert.ok(load.room_bytes > 8_000_000 && load.room_bytes <= 10_500_000, String(load.room_bytes));
    } finally {
      await client.config("SET", "maxmemory", "0");
    }
  });

  it("refuses ids from before a flush", async () => {
    const redis = connected();
    await redis.marks.prime();
    const issued_ms = Date.now();
    await admin().flushall();
    await eventually(() => Date.now() > issued_ms + 2);
    assert.equal(await redis.marks.once("jti", "flushed", issued_ms, issued_ms + 60_000), "lost");
  });

  it("changes its identity with the server's memory", async () => {
    const redis = connected();
    const before_restart = await redis.streams.identity();
    await server.stop();
    await server.start();
    await eventually(async () => assert.notEqual(await redis.streams.identity(), before_restart));
  });

  it("goes on reading broadcasts after a restart, a flush and a lost group, from where it was", async () => {
    const redis = connected();
    const reader = await reading(redis, "goes-on");
    const numbers = (): string[] => reader.got.map((entry) => entry.fields["n"] as string);
    const append = (n: number) => eventually(() => redis.streams.append("goes-on", [{ n: String(n) }]));
    await append(1);
    await eventually(() => assert.deepEqual(numbers(), ["1"]));
    await server.stop();
    await server.start();
    await append(2);
    await eventually(() => assert.deepEqual(numbers(), ["1", "2"]));
    const direct = admin();
    await direct.flushall();
    await append(3);
    await eventually(() => assert.deepEqual(numbers(), ["1", "2", "3"]));
    await direct.xgroup("DESTROY", "goes-on", "b:reader");
    await append(4);
    await eventually(() => assert.deepEqual(numbers(), ["1", "2", "3", "4"]));
    await direct.del("goes-on");
    await append(5);
    await eventually(() => assert.deepEqual(numbers(), ["1", "2", "3", "4", "5"]));
  });

  it("reads a stream from its beginning that ends before the reader's place: it is another one", async () => {
    const redis = connected();
    await redis.streams.append("another", [{ n: "1" }, { n: "2" }]);
    const reader = await reading(redis, "another", "from-before", "9999999999999-0");
    await redis.streams.append("another", [{ n: "3" }]);
    await eventually(() =>
      assert.deepEqual(
        reader.got.map((entry) => entry.fields["n"]),
        ["1", "2", "3"],
      ),
    );
  });

  it("reads on after the server was paused for longer than it waits for an answer, with the age of what it missed", async () => {
    const redis = connected();
    const reader = await reading(redis, "paused");
    await redis.streams.append("paused", [{ n: "1" }]);
    await eventually(() => assert.equal(reader.got.length, 1));
    server.pause();
    await eventually(() => assert.ok(reader.errors.length > 0), { timeout_ms: 10_000 });
    server.resume();
    await eventually(() => redis.streams.append("paused", [{ n: "2" }]));
    await eventually(() =>
      assert.deepEqual(
        reader.got.map((entry) => entry.fields["n"]),
        ["1", "2"],
      ),
    );
  });

  it("tells a late reader how old an entry is", async () => {
    const redis = connected();
    const direct = admin();
    await direct.xadd("aged", `${Date.now() - 5000}-0`, "n", "1");
    const reader = await reading(redis, "aged", "late");
    await eventually(() => assert.equal(reader.got.length, 1));
    const age_ms = (reader.got[0] as AgedEntry).age_ms;
    assert.ok(age_ms >= 4900 && age_ms < 7000, `${age_ms}`);
  });

  it("sweeps the groups of owners that are gone and leaves those that live", async () => {
    const redis = connected();
    const direct = admin();
    await reading(redis, "swept", "alive");
    await redis.streams.append("swept", [{ n: "1" }]);
    await direct.xgroup("CREATE", "swept", "b:gone", "0");
    const groups = async (): Promise<string[]> =>
      ((await direct.xinfo("GROUPS", "swept")) as string[][]).map((one) => one[1] as string);
    await eventually(async () => assert.deepEqual((await groups()).sort(), ["b:alive", "b:gone"]));
    await redis.streams.trim("swept", 60_000);
    assert.deepEqual(await groups(), ["b:alive"]);
  });

  it("trims no broadcast entry that a living reader has not got", async () => {
    const redis = connected();
    const direct = admin();
    await redis.streams.append("slow", [{ n: "1" }, { n: "2" }]);
    await direct.set("caracal:owner:slow", "1");
    await direct.xgroup("CREATE", "slow", "b:slow", "0");
    await redis.streams.trim("slow", 0);
    assert.equal(await redis.streams.length("slow"), 2);
    await direct.xreadgroup("GROUP", "b:slow", "slow", "COUNT", 1, "NOACK", "STREAMS", "slow", ">");
    await eventually(async () => {
      await redis.streams.trim("slow", 0); // an entry of this very millisecond is not older than it
      assert.equal(await redis.streams.length("slow"), 1);
    });
    await direct.del("caracal:owner:slow");
    await eventually(async () => {
      await redis.streams.trim("slow", 0);
      assert.equal(await redis.streams.length("slow"), 0);
    });
  });

  it("leaves no group and no owner behind when a reader is closed", async () => {
    const redis = connected();
    const direct = admin();
    const reader = await reading(redis, "closed", "tidy");
    await eventually(async () => assert.equal(await direct.exists("caracal:owner:tidy"), 1));
    await eventually(() => assert.notEqual(reader.subscription.polledAt_ms(), undefined));
    await reader.subscription.close();
    assert.equal(await direct.exists("caracal:owner:tidy"), 0);
    assert.deepEqual(await direct.xinfo("GROUPS", "closed"), []);
  });

  it("consumes on after a restart of the server that lost the group", async () => {
    const redis = connected();
    const got: string[] = [];
    await redis.streams.consumeGroup({
      stream: "work",
      group: "workers",
      consumer: "one",
      count: 10,
      claim_after_ms: 1000,
      onEntries: async (entries) => {
        got.push(...entries.map((entry) => entry.fields["n"] as string));
        return entries.map((entry) => entry.id);
      },
      onError: () => undefined,
    });
    await redis.streams.append("work", [{ n: "1" }]);
    await eventually(() => assert.deepEqual(got, ["1"]));
    await admin().flushall();
    await redis.streams.append("work", [{ n: "2" }]);
    await eventually(() => assert.deepEqual(got, ["1", "2"]));
  });

  it("logs in with the password of its address, and says Unavailable where it is wrong", async () => {
    const locked = await startRedis({ password: "open sesame" });
    closing.push(() => locked.close());
    const redis = createRedis({ url: locked.url, log: quietLog() });
    closing.push(() => redis.close());
    await redis.ping();
    assert.equal((await redis.facts()).auth, true);
    const url = new URL(locked.url);
    url.password = "wrong";
    const log = quietLog();
    const intruder = createRedis({ url: url.href, log, command_timeout_ms: TIMEOUT_MS });
    closing.push(() => intruder.close());
    await assert.rejects(intruder.ping(), Unavailable);
    assert.ok(!JSON.stringify(log.lines).includes("open sesame"));
  });
});
