import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { createPglite, type PgliteServer } from "../../src/adapters/pglite/index.ts";
import { StartupFault } from "../../src/kernel/problem.ts";
import { type Database, isUnavailable } from "../../src/ports/database.ts";
import { eventually } from "../support/eventually.ts";

const faultOf = async (work: Promise<unknown>): Promise<string> => {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof StartupFault, String(error));
    return error.message;
  }
  return assert.fail("it was accepted");
};

describe("the embedded database", () => {
  let folder: string;
  let dir: string;
  let server: PgliteServer;
  let db: Database;
  const counts: Record<string, number> = {};
  const onStatement = (name: string): void => {
    counts[name] = (counts[name] ?? 0) + 1;
  };

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "caracal-test-pglite-"));
    dir = join(folder, "database");
    server = await createPglite({ dir, onStatement });
    db = server.database("first");
    await db.sql`create table kept (id text primary key)`;
  });
  after(async () => {
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it("refuses a second start on its folder, and does no harm to the first", async () => {
    assert.match(await faultOf(createPglite({ dir })), new RegExp(`${dir} is open already`));
    await db.ping();
  });

  it("has one folder for many pools, whose transactions do not mix", async () => {
    const second = server.database("second");
    const work = (pool: Database, name: string): Promise<void>[] =>
      Array.from({ length: 20 }, async (_, i) => {
        await pool.sql
          .begin(async (tx) => {
            await tx`insert into kept values (${`${name} ${i}`})`;
            await tx`select 1`;
            if (i % 2 === 1) throw new Error("odd");
          })
          .catch(() => {});
      });
    await Promise.all([...work(db, "first"), ...work(second, "second")]);
    const [row] = await db.sql`select count(*)::int as n from kept where id like 'first %' or id like 'second %'`;
    assert.equal(row?.["n"], 20);
    assert.ok((counts["first"] ?? 0) > 0 && (counts["second"] ?? 0) > 0);
    await second.close();
  });

  it("refuses COPY FROM STDIN, and goes on", async () => {
    await assert.rejects(async () => db.sql.unsafe("copy kept from stdin"), { code: "0A000" });
    await assert.rejects(async () => db.sql`/* twice */ COPY kept (id) FROM STDIN`, { code: "0A000" });
    await assert.rejects(
      db.sql.begin(async (tx) => {
        await tx`insert into kept values ('beside a copy')`;
        await tx.unsafe("copy kept from stdin");
      }),
      { code: "0A000" },
    );
    assert.equal((await db.sql`select 1 from kept where id = 'beside a copy'`).length, 0);
  });

  it("rolls back the transaction of a pool that was closed in the middle of it", async () => {
    const doomed = server.database("doomed");
    let begun = false;
    const left = doomed.sql
      .begin(async (tx) => {
        await tx`insert into kept values ('left open')`;
        begun = true;
        await new Promise<never>(() => {});
      })
      .then(
        () => assert.fail("it ended well"),
        () => {},
      );
    await eventually(() => begun);
    const waiting = db.sql`select 1 as n`; // it has to wait for its turn
    await doomed.close();
    await left;
    assert.equal((await waiting)[0]?.["n"], 1);
    assert.equal((await db.sql`select 1 from kept where id = 'left open'`).length, 0);
  });

  it("forgets the prepared statements of a session that ended", async () => {
    const passing = server.database("passing");
    await Promise.all(Array.from({ length: 8 }, (_, i) => passing.sql`select ${i}::int as passing_by`));
    await passing.close();
    await eventually(async () => {
      const rows = await db.sql`select name from pg_prepared_statements where statement like '%as passing_by'`;
      assert.equal(rows.length, 0);
    });
  });

  it("keeps the event loop free while a statement is long", async () => {
    let last = performance.now();
    let longest_ms = 0;
    const beat = setInterval(() => {
      longest_ms = Math.max(longest_ms, performance.now() - last);
      last = performance.now();
    }, 5);
    await db.sql`select count(*) from generate_series(1, 2000000)`;
    clearInterval(beat);
    assert.ok(longest_ms < 250, `it stood still for ${longest_ms} ms`);
  });

  it("is there again, with all that was committed, after it was closed", async () => {
    const again = join(folder, "again");
    const first = await createPglite({ dir: again });
    await first.database("x").sql`create table kept as select 'here' as id`;
    await first.close();
    await assert.rejects(
      async () => first.database("x").sql`select 1`,
      (error) => isUnavailable(error),
    );
    const second = await createPglite({ dir: again });
    assert.equal((await second.database("x").sql`select id from kept`)[0]?.["id"], "here");
    await second.close();
  });

  it("begins anew where its making was cut short", async () => {
    const cut = join(folder, "cut");
    mkdirSync(cut);
    writeFileSync(join(cut, "PG_VERSION"), "18\n");
    writeFileSync(`${cut}.unfinished`, "");
    const mended = await createPglite({ dir: cut });
    await mended.database("x").ping();
    assert.equal(existsSync(`${cut}.unfinished`), false);
    await mended.close();
  });

  it("does not begin anew over files that have lost their PG_VERSION", async () => {
    const damaged = join(folder, "damaged");
    mkdirSync(join(damaged, "base"), { recursive: true });
    assert.match(await faultOf(createPglite({ dir: damaged })), /holds files but no PG_VERSION: restore it whole/);
    assert.deepEqual(readdirSync(damaged), ["base"]);
    assert.ok(!existsSync(`${damaged}.unfinished`));
  });

  it("refuses a folder of another version, and one that it can't write to", async () => {
    const other = join(folder, "other");
    mkdirSync(other);
    writeFileSync(join(other, "PG_VERSION"), "99\n");
    assert.match(await faultOf(createPglite({ dir: other })), /other was made by PostgreSQL 99, and this build has 18/);
    writeFileSync(join(folder, "a file"), "");
    assert.match(await faultOf(createPglite({ dir: join(folder, "a file", "database") })), /can't be used/);
  });

  it("says why it does not start on a folder that is broken", async () => {
    const broken = join(folder, "broken");
    mkdirSync(broken);
    writeFileSync(join(broken, "PG_VERSION"), "18\n");
    assert.match(await faultOf(createPglite({ dir: broken })), /broken does not start/);
  });

  it("loses nothing that was committed when its process is killed", async () => {
    const killed = join(folder, "killed");
    const child = fork(join(fileURLToPath(new URL(".", import.meta.url)), `pglite-child${extname(import.meta.url)}`), [
      killed,
    ]);
    let committed = 0;
    child.on("message", (n: number) => {
      committed = n;
      if (n === 200) child.kill("SIGKILL");
    });
    await new Promise((resolve) => child.once("exit", resolve));
    assert.ok(committed >= 200);
    const revived = await createPglite({ dir: killed });
    const [row] = await revived.database("x").sql`select count(*)::int as n, max(n)::int as last from numbers`;
    assert.ok(
      Number(row?.["n"]) >= committed && row?.["n"] === row?.["last"],
      `${committed} were committed, ${row?.["n"]} are there`,
    );
    await revived.close();
  });
});
