import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { packageRoot } from "../../kernel/package-root.ts";
import { StartupFault } from "../../kernel/problem.ts";
import { type Database, isHeld, type Queryable, type Sql, type Transaction } from "../../ports/database.ts";
import { grantPrivileges } from "./privileges.ts";

/** One file of `migrations/`. */
export type Migration = {
  readonly version: number;
  /** The file's name. */
  readonly name: string;
  readonly text: string;
  readonly sha256: string;
};

export type MigrateOptions = {
  /** Where the files are; the program's own `migrations/` by default. */
  readonly dir?: string;
  /** How long to wait for another process that is migrating; two minutes by default. */
  readonly wait_ms?: number;
  /** What the operator knows the database as, for faults: `the data folder .caracal`; `the database` by default. */
  readonly place?: string;
};

export type Migrated = {
  /** The files' names, in order, of this run. */
  readonly applied: readonly string[];
  /** The schema's, now. */
  readonly version: number;
  /** A line for each privilege that a role's group lacks and this user could not grant, with the reason. */
  readonly not_granted: readonly string[];
};

const FILE = /^(\d{4})_[a-z0-9_]+\.sql$/;
/** Any constant that nobody else uses: "carac" in ASCII. */
const LOCK = 0x6361_7261_63;
const WAIT_MS = 120_000;
const POLL_MS = 100;
/**
 * How long a file waits for a table that a session of another's holds. While it waits, everybody who comes behind it waits
 * too: so not for long, and then again.
 */
const LOCK_TIMEOUT = "2s";
const LOCK_PAUSE_MS = 1_000;
const PLACE = "the database";

/** The migrations that this build has, in order: 1, 2, 3, … without a gap. */
export const readMigrations = (dir: string = join(packageRoot, "migrations")): readonly Migration[] => {
  const names = readdirSync(dir)
    .filter((name) => name.endsWith(".sql"))
    .sort();
  return names.map((name, index) => {
    const version = Number(FILE.exec(name)?.[1]);
    if (version !== index + 1) {
      throw new StartupFault(
        `migrations/${name} is out of order: file ${index + 1} is named ${String(index + 1).padStart(4, "0")}_name.sql`,
      );
    }
    const bytes = readFileSync(join(dir, name));
    return { version, name, text: bytes.toString("utf8"), sha256: createHash("sha256").update(bytes).digest("hex") };
  });
};

type Applied = { readonly version: number; readonly name: string; readonly sha256: string };

const hasTable = async (sql: Queryable): Promise<boolean> => {
  const [row] = await sql<{ found: boolean }[]>`select to_regclass('schema_migrations') is not null as found`;
  return row?.found === true;
};

const readApplied = async (sql: Queryable): Promise<readonly Applied[]> =>
  sql<Applied[]>`select version, name, sha256 from schema_migrations order by version`;

/** What was applied must be what we have, as far as both go. */
const agree = (migrations: readonly Migration[], applied: readonly Applied[], place: string): void => {
  const newest = applied.at(-1);
  if (newest !== undefined && newest.version > migrations.length) {
    throw new StartupFault(
      `${place} has schema ${newest.version} (${newest.name}), newer than this build, which ends at ` +
        `${migrations.length}: start a build that has it, or restore a copy of the data from before`,
    );
  }
  for (const [index, row] of applied.entries()) {
    const ours = migrations[index];
    if (ours?.version !== row.version || ours.name !== row.name) {
      throw new StartupFault(`${place} holds migration ${row.name}, which this build does not have at its place`);
    }
    if (ours.sha256 !== row.sha256) {
      throw new StartupFault(
        `migrations/${row.name} was changed after it was applied: put the file back, and write the change as a new file`,
      );
    }
  }
};

/** The schema's version; 0 where nothing was applied yet. */
export const schemaVersion = async (sql: Queryable): Promise<number> => {
  if (!(await hasTable(sql))) return 0;
  return (await readApplied(sql)).at(-1)?.version ?? 0;
};

/** For a process that does not migrate: rejects with a `StartupFault` unless the schema is exactly what this build needs. */
export const requireSchema = async (sql: Sql, options: MigrateOptions = {}): Promise<void> => {
  const migrations = readMigrations(options.dir);
  const applied = (await hasTable(sql)) ? await readApplied(sql) : [];
  const place = options.place ?? PLACE;
  agree(migrations, applied, place);
  if (applied.length < migrations.length) {
    throw new StartupFault(
      `${place} has schema ${applied.length}, and this build needs ${migrations.length}: run caracal migrate`,
    );
  }
};

/**
 * The lock is the transaction's: who is killed in the middle loses lock and half-done work together. It is asked for
 * again and again, not waited for: a statement that waits would run into its deadline.
 */
const tryLock = async (tx: Transaction): Promise<boolean> => {
  const [row] = await tx<{ held: boolean }[]>`select pg_try_advisory_xact_lock(${LOCK}) as held`;
  return row?.held === true;
};

/** `busy`: another process migrates, or another session holds a table that the next file changes. */
type Round =
  | { readonly busy: "migrating" | "held" }
  | { readonly busy: false; readonly applied: Migration }
  | { readonly busy: false; readonly applied: undefined; readonly not_granted: readonly string[] };

/** Applies the next file with its row, in one transaction. Where there is none it grants what the groups lack. */
const applyNext = (sql: Sql, migrations: readonly Migration[], place: string): Promise<Round> =>
  sql.begin(async (tx): Promise<Round> => {
    if (!(await tryLock(tx))) return { busy: "migrating" };
    await tx`
      create table if not exists schema_migrations (
        version    integer primary key,
        name       text not null,
        sha256     text not null,
        applied_at timestamptz not null default now()
      )`;
    const applied = await readApplied(tx);
    agree(migrations, applied, place);
    const next = migrations[applied.length];
    if (next === undefined) return { busy: false, applied: undefined, not_granted: await grantPrivileges(tx) };
    await tx.unsafe(`set local lock_timeout = '${LOCK_TIMEOUT}'`);
    await tx.unsafe(next.text).simple();
    await tx`insert into schema_migrations (version, name, sha256) values (${next.version}, ${next.name}, ${next.sha256})`;
    return { busy: false, applied: next };
  });

/**
 * Brings the schema to this build's version. Any number of processes may do so at once: they take turns, file by file.
 * Rejects with a `StartupFault` where an applied file was changed or the schema is newer than this build.
 */
export const migrate = async (db: Database, options: MigrateOptions = {}): Promise<Migrated> => {
  const migrations = readMigrations(options.dir);
  const until = performance.now() + (options.wait_ms ?? WAIT_MS);
  const applied: string[] = [];
  for (;;) {
    const round = await applyNext(db.sql, migrations, options.place ?? PLACE).catch((error: unknown): Round => {
      if (isHeld(error)) return { busy: "held" };
      throw error;
    });
    if (round.busy === false) {
      if (round.applied === undefined) return { applied, version: migrations.length, not_granted: round.not_granted };
      applied.push(round.applied.name);
      continue;
    }
    if (performance.now() > until) {
      throw new StartupFault(
        round.busy === "held"
          ? "another session has been holding a table that the next migration changes: end it (see pg_stat_activity), and migrate again"
          : "another process has been migrating this database for too long: see what it waits for",
      );
    }
    await pause(round.busy === "held" ? LOCK_PAUSE_MS : POLL_MS);
  }
};
