import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";
import type { Database } from "../../src/ports/database.ts";
import { eventually } from "../support/eventually.ts";
import { createEmptyDatabase, type TestDatabase } from "../support/postgres.ts";
import { cleanEnvironment, killGroup, launch, MAIN, runToEnd } from "../support/program.ts";

/** `caracal migrate` as deployments run it: from every machine at once, and killed where it stands. */

const AT_ONCE = 4;
const FILES = readdirSync(join(packageRoot, "migrations")).filter((name) => name.endsWith(".sql")).length;

describe("caracal migrate", () => {
  let database: TestDatabase | undefined;
  let db: Database | undefined;
  let env: Record<string, string> = {};
  const sql = (): Database["sql"] => (db as Database).sql;
  const versions = async (): Promise<readonly number[]> => {
    const rows = await sql()<{ version: number }[]>`select version from schema_migrations order by version`;
    return rows.map((row) => row.version);
  };
  const every = Array.from({ length: FILES }, (_, at) => at + 1);

  before(async () => {
    database = await createEmptyDatabase();
    db = createPostgres({ url: database.url, name: "test", max: 2 });
    env = { CARACAL_ENV: "dev", MIGRATE_DATABASE_URL: database.url };
  });
  after(async () => {
    await db?.close();
    await database?.close();
  });

  it("killed in the middle leaves nothing half done, and the next one does it all", async () => {
    // Who makes a table of the same name, and has not committed, holds a migration at exactly that place.
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const holding = sql()
      .begin(async (tx) => {
        await tx`create table outbox (in_the_way integer)`;
        await held;
        throw new Error("out of the way");
      })
      .catch(() => undefined);
    const run = launch(process.execPath, [MAIN, "migrate"], cleanEnvironment(env));
    const waiting = (): Promise<readonly { pid: number }[]> => sql()<{ pid: number }[]>`
      select pid from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid() and wait_event_type = 'Lock'`;
    try {
      await eventually(async () => ((await waiting()).length === 1 ? true : null), { timeout_ms: 10_000 });
      killGroup(run.pid, "SIGKILL");
      assert.equal((await run.exited).signal, "SIGKILL");
    } finally {
      release();
      await holding;
    }
    // The server goes on with what it was sent, finds nobody to answer, and takes it back.
    await eventually(async () => {
      const [row] = await sql()<{ others: number }[]>`
        select count(*)::int as others from pg_stat_activity
        where datname = current_database() and application_name like '%migrate%'`;
      return row?.others === 0;
    });
    const [left] = await sql()<{ tables: number }[]>`
      select count(*)::int as tables from pg_tables where schemaname = current_schema()`;
    assert.equal(left?.tables, 0, "no table of the first file is left");

    const again = await runToEnd(["migrate"], { env });
    assert.equal(again.code, 0, again.stderr);
    assert.deepEqual(await versions(), every);
  });

  it("from several machines at once ends well at each, and every file was applied once", async () => {
    const fresh = await createEmptyDatabase();
    const own = createPostgres({ url: fresh.url, name: "test", max: 1 });
    try {
      const ends = await Promise.all(
        Array.from({ length: AT_ONCE }, () =>
          runToEnd(["migrate"], { env: { ...env, MIGRATE_DATABASE_URL: fresh.url } }),
        ),
      );
      for (const end of ends) assert.equal(end.code, 0, end.stderr);
      const told = ends.flatMap((end) => end.stdout.match(/\d{4}_[a-z0-9_]+\.sql/g) ?? []);
      assert.equal(told.length, FILES, `each file was applied by one of them: ${told.join(", ")}`);
      assert.equal(new Set(told).size, FILES);
      const rows = await own.sql<{ version: number }[]>`select version from schema_migrations order by version`;
      assert.deepEqual(
        rows.map((row) => row.version),
        every,
      );
    } finally {
      await own.close();
      await fresh.close();
    }
  });

  it("a second time says that there is nothing to do", async () => {
    const end = await runToEnd(["migrate"], { env });
    assert.equal(end.code, 0, end.stderr);
    assert.match(end.stdout, /nothing to do/);
  });
});
