import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { createEmptyDatabase, type TestDatabase } from "../support/postgres.ts";
import { eventually } from "../support/eventually.ts";
import {
  allReady,
  bounded,
  cleanEnvironment,
  FREE_PORTS,
  killGroup,
  launch,
  MAIN,
  type Quickstart,
  runToEnd,
} from "../support/program.ts";

/** What an operator does to the program beside calling it: commands by secrets in files, a stop too early, a pipe closed. */

const WITHIN_MS = 30_000;

describe("an operator's commands", () => {
  let dir = "";
  let database: TestDatabase | undefined;
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "caracal-"));
    database = await createEmptyDatabase();
    writeFileSync(join(dir, "database-url"), `${database.url}\n`);
  });
  after(async () => {
    await database?.close();
    rmSync(dir, { recursive: true, force: true });
  });

  const command = (args: readonly string[], env: Readonly<Record<string, string>> = {}): ReturnType<typeof runToEnd> =>
    runToEnd(args, { env: { CARACAL_ENV: "dev", DATABASE_URL_FILE: join(dir, "database-url"), ...env }, cwd: dir });

  it("take the database's URL from a file: the schema is made, and a token that was printed once is kept as its hash", async () => {
    const migrated = await command(["migrate"]);
    assert.equal(migrated.code, 0, migrated.stderr);
    assert.match(migrated.stdout, /^Applied /);
    const made = await command(["admin-token", "create", "--global", "--label", "from a file"]);
    assert.equal(made.code, 0, made.stderr);
    const db = createPostgres({ url: database?.url ?? "", name: "test", max: 1 });
    try {
      const rows = await db.sql<
        { token_sha256: string; label: string }[]
      >`select token_sha256, label from admin_tokens`;
      const token_sha256 = createHash("sha256").update(made.stdout.trim()).digest("hex");
      assert.deepEqual([...rows], [{ token_sha256, label: "from a file" }]);
    } finally {
      await db.close();
    }
  });

  it("name a file that can't be read, and a variable that is set twice", async () => {
    const missing = await command(["migrate"], { DATABASE_URL_FILE: "/no/such/file" });
    assert.equal(missing.code, 2);
    assert.match(missing.stderr, /^caracal: DATABASE_URL_FILE: \/no\/such\/file can't be read[^\n]*\n$/);
    const twice = await command(["migrate"], { DATABASE_URL: database?.url ?? "" });
    assert.equal(twice.code, 2);
    assert.match(twice.stderr, /^caracal: DATABASE_URL: is set beside DATABASE_URL_FILE[^\n]*\n$/);
  });

  it("refuse a label that would deceive who reads it", async () => {
    for (const label of ["", " blank", "line\nfeed", "\u202eright to left", "x".repeat(201)]) {
      const end = await command(["admin-token", "create", "--global", "--label", label]);
      assert.equal(end.code, 2, JSON.stringify(label));
      assert.match(end.stderr, /^caracal: --label: must [^\n]*\n$/);
      assert.equal(end.stdout, "");
    }
  });
});

describe("a process whose surroundings go away", () => {
  let dir = "";
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "caracal-"));
  });
  after(() => rmSync(dir, { recursive: true, force: true }));

  const launched = (folder: string): ReturnType<typeof launch> =>
    launch(
      process.execPath,
      [MAIN, "--role=all"],
      cleanEnvironment({ CARACAL_ENV: "dev", CARACAL_DATA_DIR: folder, LOG_LEVEL: "info", ...FREE_PORTS }),
    );
  const quickstartIn = (folder: string): Quickstart =>
    JSON.parse(readFileSync(join(folder, "quickstart.json"), "utf8")) as Quickstart;

  it("is told to stop while it starts: it ends with 0, leaves nothing half-done, and starts again", async () => {
    const folder = join(dir, randomBytes(4).toString("hex"));
    const early = launched(folder);
    try {
      // The folder is the first thing that it makes, before ports, database and demo.
      await eventually(() => existsSync(join(folder, "format")), { timeout_ms: WITHIN_MS, every_ms: 1 });
      early.child.kill("SIGTERM");
      const end = await bounded("a stop in mid-start", WITHIN_MS, early.exited);
      assert.deepEqual(end, { code: 0, signal: null }, early.stderr());
      assert.equal(early.stderr(), "");
      assert.ok(!existsSync(join(folder, "quickstart.json")), "nobody is sent to ports where nobody is");
    } finally {
      killGroup(early.pid, "SIGKILL");
    }
    const again = launched(folder);
    try {
      await eventually(() => allReady(quickstartIn(folder)), { timeout_ms: WITHIN_MS, every_ms: 20 });
      again.child.kill("SIGTERM");
      assert.equal((await bounded("the second stop", WITHIN_MS, again.exited)).code, 0);
    } finally {
      killGroup(again.pid, "SIGKILL");
    }
  });

  it("loses who reads its output: it serves on, and neither its banner nor its log lines end it", async () => {
    const folder = join(dir, randomBytes(4).toString("hex"));
    const run = launched(folder);
    try {
      run.child.stdout?.destroy();
      run.child.stderr?.destroy();
      await eventually(() => allReady(quickstartIn(folder)), { timeout_ms: WITHIN_MS, every_ms: 20 });
      const { api_url, admin_token } = quickstartIn(folder);
      // Each of these is a line in the log: a zone's token at the door of all zones.
      for (let attempt = 0; attempt < 20; attempt += 1) {
        const answer = await fetch(`${api_url}/v1/zones`, {
          method: "POST",
          headers: { authorization: `Bearer ${admin_token}`, "content-type": "application/json" },
          body: JSON.stringify({ slug: "another", name: "Another" }),
        });
        assert.equal(answer.status, 403, await answer.text());
      }
      await allReady(quickstartIn(folder));
      run.child.kill("SIGTERM");
      assert.deepEqual(await bounded("the end", WITHIN_MS, run.exited), { code: 0, signal: null });
    } finally {
      killGroup(run.pid, "SIGKILL");
    }
  });
});
