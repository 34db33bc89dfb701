import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { migrate, readMigrations, requireSchema, schemaVersion } from "../../src/adapters/postgres/migrate.ts";
import { overpoweredUser } from "../../src/adapters/postgres/privileges.ts";
import { insertAdminAudit } from "../../src/authority/admin-audit.ts";
import { revokeSessions } from "../../src/authority/sessions.ts";
import { StartupFault } from "../../src/kernel/problem.ts";
import type { Database } from "../../src/ports/database.ts";
import { eventually } from "../support/eventually.ts";
import { createEmptyDatabase, createTestDatabase } from "../support/postgres.ts";

const faultOf = async (work: Promise<unknown>): Promise<string> => {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof StartupFault, String(error));
    return error.message;
  }
  return assert.fail("it was accepted");
};

describe("migrations", () => {
  let folder: string;
  const closers: (() => Promise<void>)[] = [];

  before(() => {
    folder = mkdtempSync(join(tmpdir(), "caracal-test-migrations-"));
  });
  after(async () => {
    for (const close of closers.toReversed()) await close();
    rmSync(folder, { recursive: true, force: true });
  });

  const open = (url: string, max = 2): Database => {
    const db = createPostgres({ url, name: "migrate", max });
    closers.push(() => db.close());
    return db;
  };
  const empty = async (): Promise<{ readonly db: Database; readonly url: string }> => {
    const database = await createEmptyDatabase();
    closers.push(() => database.close());
    return { db: open(database.url), url: database.url };
  };
  /** A folder with files of its own. */
  const files = (name: string, texts: Readonly<Record<string, string>>): string => {
    const dir = join(folder, name);
    mkdirSync(dir);
    for (const [file, text] of Object.entries(texts)) writeFileSync(join(dir, file), text);
    return dir;
  };
  const tables = async (db: Database): Promise<readonly string[]> =>
    (await db.sql`select tablename from pg_tables where schemaname = 'public' order by tablename`).map((row) =>
      String(row["tablename"]),
    );

  it("bring an empty database to this build's schema, and leave it alone the second time", async () => {
    const { db } = await empty();
    assert.equal(await schemaVersion(db.sql), 0);
    assert.match(await faultOf(requireSchema(db.sql)), /run caracal migrate/);
    const names = readMigrations().map((file) => file.name);
    assert.deepEqual(await migrate(db), { applied: names, version: names.length, not_granted: [] });
    assert.deepEqual(await migrate(db), { applied: [], version: names.length, not_granted: [] });
    assert.equal(await schemaVersion(db.sql), names.length);
    await requireSchema(db.sql);
  });

  it("have the ledger compressed with lz4 where the server knows it, and as before where it does not", async () => {
    const { db } = await empty();
    await migrate(db);
    const [has] = await db.sql<{ lz4: boolean }[]>`
      select 'lz4' = any (enumvals) as lz4 from pg_settings where name = 'default_toast_compression'`;
    const [column] = await db.sql<{ attcompression: string }[]>`
      select attcompression from pg_attribute
      where attrelid = 'audit_events'::regclass and attname = 'metadata_json'`;
    assert.equal(column?.attcompression, has?.lz4 === true ? "l" : "");
  });

  it("run once each, however many processes begin at once", async () => {
    const { url } = await empty();
    const results = await Promise.all(Array.from({ length: 6 }, () => migrate(open(url))));
    assert.deepEqual(
      results.flatMap((result) => result.applied).sort(),
      readMigrations().map((file) => file.name),
    );
  });

  it("leave nothing of a file that fails, and go on from there when it is mended", async () => {
    const { db } = await empty();
    const dir = files("failing", {
      "0001_a.sql": "create table a ();",
      "0002_b.sql": "create table b (); select 1 / 0;",
    });
    await assert.rejects(migrate(db, { dir }), /division by zero/);
    assert.deepEqual(await tables(db), ["a", "schema_migrations"]);
    writeFileSync(join(dir, "0002_b.sql"), "create table b ();");
    assert.deepEqual(await migrate(db, { dir }), { applied: ["0002_b.sql"], version: 2, not_granted: [] });
  });

  it("are taken up by another process when the one that ran them was killed in the middle", async () => {
    const { db, url } = await empty();
    const slow = files("killed", { "0001_a.sql": "create table a (); select pg_sleep(4);" });
    const killed = assert.rejects(migrate(open(url), { dir: slow }));
    await eventually(async () => {
      const [row] = await db.sql<{ pid: number }[]>`
        select pid from pg_stat_activity
        where datname = current_database() and query like '%pg_sleep(4)%' and pid <> pg_backend_pid()`;
      assert.ok(row !== undefined);
      await db.sql`select pg_terminate_backend(${row.pid})`;
    });
    await killed;
    writeFileSync(join(slow, "0001_a.sql"), "create table a ();");
    assert.deepEqual(await migrate(db, { dir: slow }), { applied: ["0001_a.sql"], version: 1, not_granted: [] });
  });

  it("wait for the one that runs, and say so when it takes too long", async () => {
    const { db, url } = await empty();
    const LOCK = 0x6361_7261_63;
    let patient: Promise<{ readonly version: number }> | undefined;
    await db.sql.begin(async (tx) => {
      await tx`select pg_advisory_xact_lock(${LOCK})`;
      assert.match(await faultOf(migrate(open(url), { wait_ms: 50 })), /another process/);
      patient = migrate(open(url));
    });
    assert.equal((await patient)?.version, readMigrations().length);
  });

  it("wait for a table that another session reads without holding up those who come behind, and say so in the end", async () => {
    const { db, url } = await empty();
    const dir = files("held", { "0001_a.sql": "create table a ();" });
    await migrate(db, { dir });
    writeFileSync(join(dir, "0002_b.sql"), "alter table a add column b integer;");
    let patient: Promise<{ readonly applied: readonly string[] }> | undefined;
    await db.sql.begin(async (tx) => {
      await tx`select from a`; // a dump, say: nothing that changes the table gets past it
      const fault = faultOf(migrate(open(url), { dir, wait_ms: 50 }));
      const other = open(url);
      await eventually(async () => {
        const [row] = await other.sql`select 1 from pg_locks where relation = 'a'::regclass and not granted`;
        assert.ok(row !== undefined); // it waits, and whoever comes now waits behind it: not for long
      });
      await other.sql`select from a`;
      assert.match(await fault, /another session has been holding a table/);
      patient = migrate(open(url), { dir });
    });
    assert.deepEqual((await patient)?.applied, ["0002_b.sql"]);
  });

  it("refuse a file that was changed after it was applied, and name it", async () => {
    const { db } = await empty();
    const dir = files("changed", { "0001_a.sql": "create table a ();" });
    await migrate(db, { dir });
    appendFileSync(join(dir, "0001_a.sql"), "-- harmless?\n");
    for (const work of [migrate(db, { dir }), requireSchema(db.sql, { dir })].map(faultOf)) {
      assert.match(await work, /0001_a\.sql was changed after it was applied/);
    }
  });

  it("refuse a database that is newer than this build", async () => {
    const { db } = await empty();
    const dir = files("newer", { "0001_a.sql": "create table a ();", "0002_b.sql": "create table b ();" });
    await migrate(db, { dir });
    rmSync(join(dir, "0002_b.sql"));
    const place = "the data folder .caracal";
    for (const work of [migrate(db, { dir, place }), requireSchema(db.sql, { dir, place })].map(faultOf)) {
      assert.match(
        await work,
        /^the data folder \.caracal has schema 2 \(0002_b\.sql\), newer than this build, which ends at 1/,
      );
    }
  });

  it("refuse a folder with a gap", () => {
    const dir = files("gap", { "0001_a.sql": "", "0003_c.sql": "" });
    assert.throws(() => readMigrations(dir), /0003_c\.sql is out of order/);
  });
});

describe("the privileges of a role's database user", () => {
  let url: string;
  let owner: Database;
  const users: Database[] = [];
  let drop: () => Promise<void>;

  before(async () => {
    const database = await createTestDatabase();
    url = database.url;
    owner = createPostgres({ url, name: "owner", max: 1 });
    drop = async () => {
      for (const db of users) await db.close();
      for (const db of users) await owner.sql.unsafe(`drop role ${db.name}`);
      await owner.close();
      await database.close();
    };
    await owner.sql`insert into zones (id, slug, name) values ('z', 'z', 'z')`;
    await owner.sql`
      insert into audit_events (form, zone_id, chain_seq, id, event_type, decision, producer, producer_seq, occurred_at,
        content_sha256, chain_hmac, key_id)
      values (1, 'z', 1, gen_random_uuid(), 't', 'allow', 'p', 1, 'now', '\\x0c', '\\x0d', 'k')`;
  });
  after(() => drop());

  const as = async (group: string): Promise<Database> => {
    const name = `${new URL(url).pathname.slice(1)}_${group}_${users.length}`;
    await owner.sql.unsafe(`create role ${name} login in role ${group}`);
    const user_url = new URL(url);
    user_url.username = name;
    const db = createPostgres({ url: user_url.href, name, max: 1 });
    users.push(db);
    return db;
  };
  const DENIED = { code: "42501" };
  const denied = (db: Database, statement: string): Promise<void> =>
    assert.rejects(async () => db.sql.unsafe(statement), DENIED, statement);

  it("let the ledger's writer add rows and read them, and never change, remove or empty them", async () => {
    const db = await as("caracal_audit");
    await db.sql`
      insert into audit_events (form, zone_id, chain_seq, id, event_type, decision, producer, producer_seq, occurred_at,
        content_sha256, chain_hmac, key_id)
      values (1, 'z', 2, gen_random_uuid(), 't', 'deny', 'p', 2, 'now', '\\x0c', '\\x0d', 'k')`;
    assert.equal((await db.sql`select 1 from audit_events`).length, 2);
    await denied(db, "update audit_events set decision = 'allow'");
    await denied(db, "delete from audit_events");
    await denied(db, "truncate audit_events");
    await denied(db, "alter table audit_events disable trigger all");
    await denied(db, "drop table audit_events");
    await denied(db, "delete from audit_event_ids");
    await denied(db, "select * from zone_keys");
  });

  it("keep admin tokens from the STS, and what the control plane decides as it is", async () => {
    const db = await as("caracal_sts");
    await db.sql`select * from zones, zone_keys, applications, resources, policy_versions`;
    await denied(db, "select * from admin_tokens");
    await denied(db, "select * from audit_events");
    await denied(db, "update applications set scopes = '{all}'");
    await denied(db, "insert into active_policy_sets values ('z', 'p', 'v')");
    await denied(db, "update zone_keys set kid = 'mine'");
    await db.sql.begin(async (tx) => {
      assert.deepEqual(await revokeSessions(tx, "z", { id: "s" }, 1), []);
      const entry = { action: "session.revoke", zone_id: null, object_id: "s" } as const;
      await insertAdminAudit(tx, { actor: "application:a", request_id: "r" }, entry);
    });
    await denied(db, "update sessions set expires_at = now() + interval '1 year'");
    await denied(db, "select * from admin_audit");
    await denied(db, "update admin_audit set actor = 'nobody'");
  });

  it("keep the ledger from the control plane's hand, and immutable versions from everybody", async () => {
    const db = await as("caracal_api");
    await db.sql`select * from audit_events`;
    for (const table of ["audit_events", "audit_heads", "audit_findings"]) await denied(db, `delete from ${table}`);
    await denied(db, "insert into audit_heads values ('z', 1, 'h')");
    await denied(db, "update policy_versions set source = ''");
    await denied(db, "delete from admin_audit");
    await denied(db, "update admin_audit set actor = 'nobody'");
    await denied(db, "delete from bootstrap_use");
  });

  it("let the roles that change something write their outbox, and the coordinator nothing else", async () => {
    const db = await as("caracal_coordinator");
    await db.sql.begin(async (tx) => {
      await tx`insert into stream_seqs (stream, zone_id, seq) values ('s', 'z', 1)
        on conflict (stream, zone_id) do update set seq = stream_seqs.seq + 1`;
      await tx`insert into outbox (stream, zone_id, seq, fields_json) values ('s', 'z', 1, '{}')`;
    });
    await denied(db, "update zones set name = 'mine'");
    await denied(db, "select * from zone_keys");
    await denied(db, "select * from audit_events");
  });

  it("are granted again where one was taken away, and said where this user may not grant it", async () => {
    const db = await as("caracal_sts");
    await owner.sql.unsafe("revoke select on zones from caracal_sts");
    await owner.sql.unsafe("revoke update (failures) on step_up_challenges from caracal_sts");
    await denied(db, "select * from zones");
    const other = await as("caracal_audit");
    await owner.sql.unsafe(`grant create on schema public to ${other.name}`);
    await owner.sql.unsafe(`alter table schema_migrations owner to ${other.name}`);
    assert.deepEqual((await migrate(other)).not_granted, [
      "zones to caracal_sts: not granted (permission denied for table zones)",
      `step_up_challenges to caracal_sts: not granted (permission denied for column "failures" of relation "step_up_challenges")`,
    ]);
    await owner.sql`alter table schema_migrations owner to postgres`;
    await owner.sql.unsafe(`revoke create on schema public from ${other.name}`);
    assert.deepEqual((await migrate(owner)).not_granted, []);
    await db.sql`select * from zones`;
    await db.sql`update step_up_challenges set failures = 1 where false`;
  });

  it("are not needed by a superuser or the owner, who are told from a role's own user", async () => {
    assert.deepEqual(await overpoweredUser(owner.sql), { user: "postgres", because: "is a superuser" });
    const db = await as("caracal_api");
    assert.equal(await overpoweredUser(db.sql), undefined);
    await owner.sql.unsafe(`alter table audit_events owner to ${db.name}`);
    assert.deepEqual(await overpoweredUser(db.sql), { user: db.name, because: "owns the tables" });
    await owner.sql`alter table audit_events owner to postgres`;
  });

  it("let no role make tables of its own", async () => {
    for (const db of users) await denied(db, "create table public.mine ()");
  });
});
