import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { createPostgres, type PostgresOptions } from "../../src/adapters/postgres/index.ts";
import { StartupFault } from "../../src/kernel/problem.ts";
import { type Database, isUnavailable } from "../../src/ports/database.ts";
import { makeCertificates, type TestCertificates } from "../support/certificates.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startFaultProxy } from "../support/fault-proxy.ts";
import { createEmptyDatabase, type TestDatabase } from "../support/postgres.ts";
import { type PrivateServer, startPostgresServer } from "../support/provision.ts";

const failureOf = async (work: PromiseLike<unknown>): Promise<Error & { code?: string }> => {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof Error);
    return error;
  }
  return assert.fail("it did not fail");
};

/** Resolves to how long `work` took to be rejected as unavailable. */
const timeToUnavailable = async (work: PromiseLike<unknown>): Promise<number> => {
  const from = performance.now();
  const error = await failureOf(work);
  assert.ok(isUnavailable(error), `${error.name}: ${error.message}`);
  return performance.now() - from;
};

const FAST = { statement_timeout_ms: 300, connect_timeout_ms: 500 } as const;
/** The statement's own limit, the second's grace of the connection, and what a busy machine adds. */
const DEADLINE_MS = 300 + 1_000 + 1_500;

describe("PostgreSQL over a network that fails", () => {
  let database: TestDatabase;
  let direct: Database;
  let proxy: FaultProxy;
  const open: Database[] = [];

  const through = (options: Partial<PostgresOptions> = {}): Database => {
    const url = new URL(database.url);
    url.port = String(proxy.port);
    const db = createPostgres({ url: url.href, name: "faulty", max: 3, ...FAST, ...options });
    open.push(db);
    return db;
  };

  before(async () => {
    database = await createEmptyDatabase();
    direct = createPostgres({ url: database.url, name: "direct", max: 4 });
    const url = new URL(database.url);
    proxy = await startFaultProxy({ host: url.hostname, port: Number(url.port) });
    await direct.sql`create table kept (id text primary key)`;
  });
  after(async () => {
    proxy.heal();
    await Promise.all(open.map((db) => db.close()));
    await proxy.close();
    await direct.close();
    await database.close();
  });

  const kept = async (id: string): Promise<boolean> =>
    (await direct.sql`select 1 from kept where id = ${id}`).length > 0;
  const works = (db: Database): Promise<void> =>
    eventually(async () => {
      assert.equal((await db.sql`select ${1}::int as n`)[0]?.["n"], 1);
    });
  /** Ends the server's side of every connection of `db`, as a restart does. */
  const terminate = (name = "faulty"): Promise<unknown> =>
    direct.sql`select pg_terminate_backend(pid) from pg_stat_activity
      where application_name = ${`caracal ${name}`} and datname = current_database()`;

  it("rejects a statement whose connection has become a black hole, and works again when it is healed", async () => {
    const db = through();
    await works(db);
    proxy.blackHole();
    assert.ok((await timeToUnavailable(db.sql`select 1`)) < DEADLINE_MS);
    assert.ok((await timeToUnavailable(db.ping())) < 1_500);
    proxy.heal();
    await works(db);
  });

  it("rejects a hundred callers of a black hole soon after the first, not one after the other", async () => {
    const db = through();
    await works(db);
    proxy.blackHole();
    const times = await Promise.all(Array.from({ length: 100 }, () => timeToUnavailable(db.sql`select ${1}::int`)));
    assert.ok(Math.max(...times) < 2 * DEADLINE_MS, `the last after ${Math.max(...times)} ms`);
    proxy.heal();
    await works(db);
  });

  it("answers or rejects every caller within the deadline while backends are stopped, though others go on asking", async () => {
    const server = await startPostgresServer(); // its processes are ours to stop
    const url = `postgres://postgres@127.0.0.1:${server.port}/postgres?sslmode=disable`;
    const db = createPostgres({ url, name: "stopped", max: 10, ...FAST });
    const watching = createPostgres({ url, name: "watching", max: 1 });
    await Promise.all(Array.from({ length: 10 }, () => db.sql`select pg_sleep(0.05)`));
    const pids = (
      await watching.sql<{ pid: number }[]>`
        select pid from pg_stat_activity where application_name = 'caracal stopped'`
    ).map((row) => row.pid);
    assert.equal(pids.length, 10);
    for (const pid of pids) process.kill(pid, "SIGSTOP");
    let rejected = 0;
    // Those that wait when the connections are given up may be answered over new ones.
    const timeToSettled = async (work: PromiseLike<unknown>): Promise<number> => {
      const from = performance.now();
      await work.then(undefined, (error: unknown) => {
        assert.ok(isUnavailable(error), String(error));
        rejected += 1;
      });
      return performance.now() - from;
    };
    try {
      const times: Promise<number>[] = [];
      const until_ms = performance.now() + FAST.statement_timeout_ms;
      while (performance.now() < until_ms && times.length < 1_000) {
        times.push(timeToSettled(db.sql`select ${times.length}::int`));
        times.push(timeToSettled(db.sql.begin((tx) => tx`select 1`)));
        await new Promise((resolve) => setImmediate(resolve));
      }
      const slowest = Math.max(...(await Promise.all(times)));
      assert.ok(slowest < DEADLINE_MS, `the last after ${slowest} ms`);
      assert.ok(rejected >= 10);
      await works(db);
    } finally {
      for (const pid of pids) process.kill(pid, "SIGCONT");
      await Promise.all([db.close(), watching.close()]);
      await server.close();
    }
  });

  it("rejects who waits for a connection within one deadline, and does nothing of it later", async () => {
    const db = through({ max: 1, name: "waiting", statement_timeout_ms: 500 });
    let free = (): void => {};
    const held = new Promise<void>((resolve) => {
      free = resolve;
    });
    const holding = db.sql.begin(async (tx) => {
      await tx`select 1`;
      const from = performance.now();
      while (performance.now() - from < 3_000) {
        await tx`select 1`; // it is not idle for longer than it may be
        if (await Promise.race([held.then(() => true), new Promise((resolve) => setImmediate(resolve, false))])) break;
      }
    });
    const waiting = Array.from({ length: 20 }, (_, at) =>
      timeToUnavailable(db.sql`insert into kept values (${`late ${at}`})`),
    );
    const begun = Array.from({ length: 20 }, (_, at) =>
      timeToUnavailable(
        db.sql.begin(async (tx) => {
          await tx`insert into kept values (${`late begun ${at}`})`;
        }),
      ),
    );
    const slowest = Math.max(...(await Promise.all([...waiting, ...begun])));
    assert.ok(slowest < 500 + 1_000 + 1_000, `the last after ${slowest} ms`);
    free();
    await holding;
    await works(db);
    assert.equal((await direct.sql`select 1 from kept where id like 'late%'`).length, 0);
    await db.close();
  });

  it("gives up a statement for which a connection is still being opened, and serves the next on it", async () => {
    const db = through({ max: 1, name: "opening", connect_timeout_ms: 8_000 });
    proxy.delay(700); // several ways there and back before the server is ready
    const late = timeToUnavailable(db.sql`insert into kept values ('opened late')`);
    const begun = timeToUnavailable(
      db.sql.begin(async (tx) => {
        await tx`insert into kept values ('begun late')`;
      }),
    );
    assert.ok(Math.max(await late, await begun) < DEADLINE_MS);
    proxy.delay(0);
    await works(db);
    assert.equal(await kept("opened late"), false);
    assert.equal(await kept("begun late"), false);
    await db.close();
  });

  it("rejects a transaction in a black hole, with what it did undone", async () => {
    const db = through();
    await works(db);
    const failed = db.sql.begin(async (tx) => {
      await tx`insert into kept values ('black hole')`;
      proxy.blackHole();
      await tx`select 1`;
    });
    await timeToUnavailable(failed);
    proxy.heal();
    await works(db);
    await terminate();
    assert.equal(await kept("black hole"), false);
    await works(db);
  });

  it("ends a statement that takes too long, and keeps the connection", async () => {
    const db = through({ max: 1 });
    const [first] = await db.sql`select pg_backend_pid() as pid`;
    const error = await failureOf(db.sql`select pg_sleep(5)`);
    assert.equal(error.code, "57014");
    assert.deepEqual((await db.sql`select pg_backend_pid() as pid`)[0], first);
  });

  it("tells at once that nobody listens, and connects when somebody does", async () => {
    const db = through();
    proxy.refuse();
    assert.ok((await timeToUnavailable(db.sql`select 1`)) < DEADLINE_MS);
    const times = await Promise.all(Array.from({ length: 50 }, () => timeToUnavailable(db.sql`select 1`)));
    assert.ok(Math.max(...times) < DEADLINE_MS);
    proxy.heal();
    await works(db);
  });

  it("comes back from a restart of the server without a failure for who asks later", async () => {
    const db = through();
    await Promise.all(Array.from({ length: 3 }, () => db.sql`select pg_sleep(0.05)`));
    await terminate();
    await eventually(() => assert.equal(proxy.connections(), 0));
    const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => db.sql`select ${i}::int as n`));
    assert.equal(answers.length, 20);
  });

  it("fails only what was running when the server ended the connections", async () => {
    const db = through({ statement_timeout_ms: 5_000 });
    const running = Array.from({ length: 3 }, () => failureOf(db.sql`select pg_sleep(3)`));
    await eventually(async () => {
      const [row] = await direct.sql`
        select count(*)::int as n from pg_stat_activity where application_name = 'caracal faulty' and query like '%pg_sleep(3)%'`;
      assert.equal(row?.["n"], 3);
    });
    await terminate();
    for (const error of await Promise.all(running)) assert.ok(isUnavailable(error), error.message);
    const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => db.sql`select ${i}::int as n`));
    assert.equal(answers.length, 20);
  });

  it("lets a transaction that lost its connection run to its end, and none of it elsewhere", async () => {
    const db = through();
    const seen: string[] = [];
    const failed = failureOf(
      db.sql.begin(async (tx) => {
        await tx`insert into kept values ('first')`;
        proxy.cutAll();
        await eventually(() => assert.equal(proxy.connections(), 0));
        await works(db); // the pool has new connections meanwhile
        for (const id of ["second", "third"]) {
          const error = await failureOf(tx`insert into kept values (${id})`);
          assert.ok(isUnavailable(error));
          seen.push(id);
        }
        const error = await failureOf(tx.savepoint((inner) => inner`insert into kept values ('fourth')`));
        assert.ok(isUnavailable(error));
        await works(db);
        seen.push("end");
      }) as Promise<unknown>,
    );
    assert.ok(isUnavailable(await failed));
    assert.deepEqual(seen, ["second", "third", "end"]);
    for (const id of ["first", "second", "third", "fourth"]) assert.equal(await kept(id), false, id);
    await works(db);
  });

  it("rejects a transaction that ends well in its own eyes, but whose connection is gone", async () => {
    const db = through();
    const failed = db.sql.begin(async (tx) => {
      await tx`insert into kept values ('silent loss')`;
      proxy.cutAll();
      await eventually(() => assert.equal(proxy.connections(), 0));
      return "done";
    });
    assert.ok(isUnavailable(await failureOf(failed)));
    assert.equal(await kept("silent loss"), false);
    await works(db);
  });

  it("says that it can't know what became of a COMMIT that was not answered", async () => {
    const db = through();
    await works(db);
    const failed = db.sql.begin(async (tx) => {
      await tx`insert into kept values ('unknown')`;
      proxy.cutAfter(0);
    });
    const error = await failureOf(failed);
    assert.equal(error.code, "08007");
    proxy.heal();
    await works(db);
  });

  it("survives being cut after any number of bytes, in and out of transactions", async () => {
    const db = through();
    for (let bytes = 0; bytes < 400; bytes += 9) {
      await works(db);
      proxy.cutAfter(bytes);
      const results = await Promise.allSettled([
        db.sql`select ${bytes}::int as n, ${"text"}::text as t`,
        db.sql.begin(async (tx) => {
          await tx`select ${bytes}::int as n`;
          await tx.savepoint((inner) => inner`select 2 as n`);
        }),
        db.sql`select 1`,
      ]);
      for (const result of results) {
        if (result.status === "rejected") assert.ok(isUnavailable(result.reason), String(result.reason));
      }
      proxy.heal();
    }
    await works(db);
  });

  it("keeps answering right while connections are cut again and again", async () => {
    const db = through({ max: 5 });
    let cuts = 0;
    let right = 0;
    let seen = 0;
    let waited = 0;
    // Not before something came through, or nothing may ever on a busy machine; but sometimes while nothing does.
    const cutter = setInterval(() => {
      waited += 1;
      if (right === seen && waited < 20) return;
      seen = right;
      waited = 0;
      cuts += 1;
      proxy.cutAll();
    }, 25);
    const ask = async (worker: number): Promise<void> => {
      for (let i = 0; cuts < 30; i += 1) {
        const wanted = worker * 1_000_000 + i;
        const transaction = i % 3 === 0;
        const asked = transaction
          ? (db.sql.begin(async (tx) => {
              await tx`select ${i}::int`;
              return tx`select ${wanted}::int as n`;
            }) as Promise<readonly { n: number }[]>)
          : db.sql<{ n: number }[]>`select ${wanted}::int as n`;
        try {
          assert.equal((await asked)[0]?.n, wanted);
          right += 1;
        } catch (error) {
          assert.ok(isUnavailable(error), String(error));
        }
      }
    };
    try {
      await Promise.all(Array.from({ length: 8 }, (_, worker) => ask(worker)));
    } finally {
      clearInterval(cutter);
    }
    assert.ok(right > 0);
    await works(db);
  });

  it("wakes a listener on a commit, and again after its connection was lost", async () => {
    const db = through({ name: "listening" });
    let woken = 0;
    const stop = await db.listen("changes", () => {
      woken += 1;
    });
    await eventually(() => assert.ok(woken >= 1, "when it begins"));
    const before_commit = woken;
    await direct.sql`select pg_notify('changes', '')`;
    await eventually(() => assert.ok(woken > before_commit));
    const before_loss = woken;
    proxy.cutAll();
    await eventually(() => assert.ok(woken > before_loss, "it may have missed one"));
    const before_second = woken;
    await direct.sql`select pg_notify('changes', '')`;
    await eventually(() => assert.ok(woken > before_second));
    await stop();
    await eventually(async () => {
      const left = await direct.sql`select 1 from pg_stat_activity where application_name = 'caracal listening'`;
      assert.equal(left.length, 0);
    });
  });

  it("closes at once though connections were lost with their statements, and not needed since", async () => {
    const db = through();
    await works(db);
    const running = Array.from({ length: 3 }, () => failureOf(db.sql`select pg_sleep(0.2)`));
    await eventually(() => proxy.connections() >= 3);
    proxy.cutAll();
    for (const error of await Promise.all(running)) assert.ok(isUnavailable(error), error.message);
    const from = performance.now();
    await db.close();
    const took_ms = performance.now() - from;
    assert.ok(took_ms < 1_000, `it took ${took_ms} ms`);
  });

  it("closes while nothing answers", async () => {
    const db = through();
    await works(db);
    proxy.blackHole();
    const asked = failureOf(db.sql`select 1`);
    await db.close();
    assert.ok(isUnavailable(await asked));
    proxy.heal();
  });

  it("names the place and the reason where it can't connect, and no password", async () => {
    const url = new URL(database.url);
    url.username = "nobody_known";
    url.password = "s3cret";
    const unknown = createPostgres({ url: url.href, name: "x", max: 1, ...FAST });
    const refused = await failureOf(unknown.sql`select 1`);
    assert.equal(refused.code, "28000");
    assert.match(refused.message, /nobody_known/);
    proxy.refuse();
    url.port = String(proxy.port);
    const away = createPostgres({ url: url.href, name: "x", max: 1, ...FAST });
    const failed = await failureOf(away.sql`select 1`);
    assert.match(failed.message, new RegExp(`127.0.0.1:${proxy.port}`));
    for (const error of [refused, failed])
      assert.ok(!JSON.stringify(error, Object.getOwnPropertyNames(error)).includes("s3cret"));
    proxy.heal();
    await unknown.close();
    await away.close();
  });
});

describe("PostgreSQL over TLS", () => {
  let certificates: TestCertificates;
  let others: TestCertificates;
  let server: PrivateServer;
  let plain: PrivateServer;

  before(async () => {
    certificates = makeCertificates(["localhost"]);
    others = makeCertificates();
    [server, plain] = await Promise.all([
      startPostgresServer({ tls: { cert_file: certificates.cert_file, key_file: certificates.key_file } }),
      startPostgresServer(),
    ]);
  });
  after(async () => {
    await Promise.all([server.close(), plain.close()]);
    certificates.close();
    others.close();
  });

  const connect = async (host: string, port: number, query: string): Promise<boolean> => {
    const db = createPostgres({ url: `postgres://postgres@${host}:${port}/postgres?${query}`, name: "tls", max: 1 });
    try {
      const [row] = await db.sql<{ ssl: boolean }[]>`select ssl from pg_stat_ssl where pid = pg_backend_pid()`;
      return row?.ssl === true;
    } finally {
      await db.close();
    }
  };

  it("encrypts or not as sslmode says", async () => {
    assert.equal(await connect("localhost", server.port, "sslmode=disable"), false);
    assert.equal(await connect("127.0.0.1", server.port, "sslmode=require"), true);
  });

  it("verifies chain and name with verify-full", async () => {
    const root = `sslmode=verify-full&sslrootcert=${certificates.ca_file}`;
    assert.equal(await connect("localhost", server.port, root), true);
    const wrong_name = await failureOf(connect("127.0.0.1", server.port, root));
    assert.match(wrong_name.message, /127\.0\.0\.1/);
    assert.ok(isUnavailable(wrong_name));
    await failureOf(connect("localhost", server.port, "sslmode=verify-full"));
    const wrong_root = `sslmode=verify-full&sslrootcert=${others.ca_file}`;
    assert.match((await failureOf(connect("localhost", server.port, wrong_root))).message, /certificate/);
  });

  it("verifies the chain with verify-ca, and with require where a root is named", async () => {
    for (const mode of ["verify-ca", "require"]) {
      assert.equal(
        await connect("127.0.0.1", server.port, `sslmode=${mode}&sslrootcert=${certificates.ca_file}`),
        true,
      );
      await failureOf(connect("127.0.0.1", server.port, `sslmode=${mode}&sslrootcert=${others.ca_file}`));
    }
  });

  it("never falls back to plain text", async () => {
    const error = await failureOf(connect("127.0.0.1", plain.port, "sslmode=require"));
    assert.match(error.message, /does not speak TLS/);
  });
});

describe("a database URL", () => {
  const faultOf = (url: string): string => {
    try {
      createPostgres({ url, name: "x", max: 1 });
    } catch (error) {
      assert.ok(error instanceof StartupFault);
      return error.message;
    }
    return assert.fail(`${url} was accepted`);
  };

  it("is refused with the reason, and without its password", () => {
    const wrong: readonly (readonly [string, RegExp])[] = [
      ["not a url s3cret", /is not a URL/],
      ["mysql://u:s3cret@h/d", /mysql:.*begins with postgres:/],
      ["postgres://u:s3cret@h/d?sslmode=prefer", /sslmode=prefer is not one of/],
      ["postgres://u:s3cret@h/d?sslmode=verify-full&sslrootcert=/none.pem", /sslrootcert=\/none\.pem can't be read/],
      ["postgres://u:s3cret@h/d?sslmode=require&sslcert=/a", /sslcert and sslkey go together/],
      ["postgres://u:s3cret@h/d?channel_binding=require", /channel_binding/],
      ["postgres://u:s3cret@h/d?host=a,b", /several hosts/],
    ];
    for (const [url, reason] of wrong) {
      const message = faultOf(url);
      assert.match(message, reason);
      assert.ok(!message.includes("s3cret"));
    }
  });
});
