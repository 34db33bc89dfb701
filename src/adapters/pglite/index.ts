import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync, readdirSync } from "node:fs";
import { extname, join, resolve } from "node:path";
import type { Duplex } from "node:stream";
import { MessageChannel, Worker } from "node:worker_threads";
import { StartupFault } from "../../kernel/problem.ts";
import { type Database, DatabaseUnreachable } from "../../ports/database.ts";
import { createPool, databaseOver, type Pool } from "../postgres/pool.ts";
import { portStream } from "./port-stream.ts";
import type { FromWorker, ToWorker } from "./worker.ts";

export type PgliteOptions = {
  /** The folder that holds the database; made where it is missing. Nobody else may have it open. */
  readonly dir: string;
  /** Sessions of each pool at most. More than a few gain nothing: statements take turns. */
  readonly max?: number;
  readonly onStatement?: (pool_name: string) => void;
  /** The database's thread died, which nothing in this process recovers from. Not called for one that fails to start. */
  readonly onDeath?: (error: Error) => void;
};

/** The embedded database. */
export type PgliteServer = {
  /** A pool of its own, whose statements are counted under `name`. */
  database(name: string): Database;
  /** Ends the pools, then the database. Everything that was committed is in the folder. */
  close(): Promise<void>;
};

/** The PostgreSQL whose folders this build of PGlite reads. */
const MAJOR_VERSION = "18";
const MAX_SESSIONS = 4;
const CONNECT_TIMEOUT_MS = 30_000;
/** Statements take turns, so one may wait for many; and none can be stopped. This only ends a wait that is a fault. */
const SILENCE_TIMEOUT_MS = 60_000;
const CLOSE_TIMEOUT_MS = 10_000;

/** Folders that this process has open. Two backends on one folder destroy it. */
const open_dirs = new Set<string>();

/**
 * Stands beside the folder while the database is made in it. Where it is found at a start, the making was cut short, and
 * what is there is no database: nothing was ever committed to it.
 */
const markerOf = (dir: string): string => `${dir}.unfinished`;

const prepareFolder = (dir: string): void => {
  const version_file = join(dir, "PG_VERSION");
  try {
    if (existsSync(markerOf(dir))) rmSync(dir, { recursive: true, force: true });
    if (!existsSync(version_file)) {
      mkdirSync(dir, { recursive: true, mode: 0o700 });
      // Made by us in one go, or not at all: a folder with something else in it is a damaged or half-restored database.
      if (readdirSync(dir).length > 0) {
        throw new StartupFault(
          `the data folder ${dir} holds files but no PG_VERSION: restore it whole, or name another folder`,
        );
      }
      writeFileSync(markerOf(dir), "", { mode: 0o600 });
      return;
    }
  } catch (error) {
    if (error instanceof StartupFault) throw error;
    const why = error instanceof Error ? error.message : String(error);
    throw new StartupFault(`the data folder ${dir} can't be used (${why}): name one that can be written to`);
  }
  const version = readFileSync(version_file, "utf8").trim();
  if (version === MAJOR_VERSION) return;
  throw new StartupFault(
    `the data folder ${dir} was made by PostgreSQL ${version}, and this build has ${MAJOR_VERSION}: ` +
      `start the build that made it, or name another folder`,
  );
};

/** `.ts` as it is, `.js` when built: the compiler leaves such a URL alone. */
const WORKER_URL = new URL(`./worker${extname(import.meta.url)}`, import.meta.url);

type Deferred = {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
};

const deferred = (): Deferred => {
  let resolve = (): void => {};
  let reject: (error: Error) => void = () => {};
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
};

type Engine = { readonly dial: () => Promise<Duplex>; close(): Promise<void> };

const startEngine = async (dir: string, onDeath: (error: Error) => void): Promise<Engine> => {
  const worker = new Worker(WORKER_URL, { workerData: { dir } });
  const streams = new Set<Duplex>();
  let death: DatabaseUnreachable | undefined;
  let ready = false;
  let closing = false;
  const heard = deferred();
  const closed = deferred();

  const die = (error: Error): void => {
    if (death !== undefined) return;
    death = new DatabaseUnreachable(`the embedded database has stopped: ${error.message}`, error);
    for (const stream of streams) stream.destroy(death);
    heard.reject(death);
    closed.resolve();
    if (ready && !closing) onDeath(death);
  };
  worker.on("message", (told: FromWorker) => {
    if ("ready" in told) heard.resolve();
    else if ("closed" in told) closed.resolve();
    else die(new Error(told.failed));
  });
  worker.on("error", die);
  worker.on("exit", (code) => die(new Error(`its thread ended with code ${code}`)));

  await heard.promise.catch(async (error: unknown) => {
    await worker.terminate();
    throw new StartupFault(`the database in ${dir} does not start: ${error instanceof Error ? error.message : ""}`);
  });
  ready = true;

  return {
    async dial() {
      if (death !== undefined) throw death;
      const { port1, port2 } = new MessageChannel();
      worker.postMessage({ session: port2 } satisfies ToWorker, [port2]);
      const stream = portStream(port1);
      streams.add(stream);
      stream.once("close", () => streams.delete(stream));
      return stream;
    },
    async close() {
      closing = true;
      if (death === undefined) worker.postMessage({ close: true } satisfies ToWorker);
      const giving_up = setTimeout(() => closed.resolve(), CLOSE_TIMEOUT_MS);
      await closed.promise;
      clearTimeout(giving_up);
      await worker.terminate();
    },
  };
};

/**
 * Starts PGlite (PostgreSQL in WebAssembly) in a thread of its own, on `dir`. Rejects with a `StartupFault` where the
 * folder can't be used, is another version's, or is open already. It has one backend: statements of all pools take turns,
 * `listen` never wakes, and a pool's query within `sql.begin` waits for itself.
 */
export const createPglite = async (options: PgliteOptions): Promise<PgliteServer> => {
  const dir = resolve(options.dir);
  if (open_dirs.has(dir)) throw new StartupFault(`the data folder ${dir} is open already`);
  open_dirs.add(dir);
  try {
    prepareFolder(dir);
    const engine = await startEngine(dir, options.onDeath ?? (() => {}));
    rmSync(markerOf(dir), { force: true });
    const pools: Pool[] = [];
    return {
      database(name) {
        const pool = createPool({
          name,
          max: options.max ?? MAX_SESSIONS,
          database: "postgres",
          user: "postgres",
          password: undefined,
          prepare: true,
          parameters: {},
          dial: engine.dial,
          connect_timeout_ms: CONNECT_TIMEOUT_MS,
          silence_timeout_ms: SILENCE_TIMEOUT_MS,
          lifetime_ms: null,
          onStatement: options.onStatement ?? (() => {}),
        });
        pools.push(pool);
        // The backend delivers no notification to a session: the contract has listeners poll as well.
        return databaseOver({ name, pool, listen: async () => async () => {} });
      },
      async close() {
        await Promise.all(pools.map((pool) => pool.close()));
        await engine.close();
        open_dirs.delete(dir);
      },
    };
  } catch (error) {
    open_dirs.delete(dir);
    throw error;
  }
};
