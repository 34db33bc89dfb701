import type { Duplex } from "node:stream";
import postgres from "postgres";
import { type Database, DatabaseUnreachable, type Sql } from "../../ports/database.ts";
import { createGate } from "./gate.ts";
import { boundedStatements } from "./statements.ts";
import { driverTypes } from "./types.ts";
import { createWire, PADDING } from "./wire.ts";

export type PoolOptions = {
  /** The pool's name, for the count of statements and for `pg_stat_activity`. */
  readonly name: string;
  /** Connections at most. */
  readonly max: number;
  readonly database: string;
  readonly user: string | undefined;
  readonly password: string | undefined;
  /** Whether statements are kept prepared on their connection. */
  readonly prepare: boolean;
  /** Settings that are sent to the server with the connection. */
  readonly parameters: Readonly<Record<string, string>>;
  readonly dial: () => Promise<Duplex>;
  readonly connect_timeout_ms: number;
  readonly silence_timeout_ms: number;
  /** Milliseconds after which a connection is replaced; null: never. */
  readonly lifetime_ms: number | null;
  readonly onStatement: (pool_name: string) => void;
};

/** A pool of the driver over wires of ours. */
export type Pool = { readonly sql: Sql; close(): Promise<void> };

/** What postgres.js takes and its types do not name. */
type Untyped = { readonly socket: () => Duplex; readonly max_pipeline: number };

const CLOSE_TIMEOUT_S = 5;
/** How long the listening connection waits before it tries again. */
const LISTEN_BACKOFF_S = 0.5;

const settings = (options: PoolOptions, socket: () => Duplex): postgres.Options<{}> => {
  const known: postgres.Options<{}> = {
    host: "database", // the wire dials; postgres.js only prints it
    port: 5432,
    database: options.database,
    ...(options.user === undefined ? {} : { user: options.user }),
    ...(options.password === undefined ? {} : { password: options.password }),
    max: options.max,
    prepare: options.prepare,
    ssl: false, // the wire's business
    fetch_types: false, // a query of its own per connection; the arrays that we use are known
    types: driverTypes as {},
    onnotice: () => {},
    // Behind the wire's own timeout, whose error says more.
    connect_timeout: options.connect_timeout_ms / 1_000 + 1,
    max_lifetime: options.lifetime_ms === null ? null : options.lifetime_ms / 1_000,
    backoff: () => 0, // the gate's business
    connection: { ...options.parameters, ...PADDING },
  };
  // Where the driver's own pipeline is full it does not reserve the connection for a BEGIN that it sends: the transaction
  // fails. `statements.ts` sees to it that a pipeline holds one statement.
  const untyped: Untyped = { socket, max_pipeline: Number.MAX_SAFE_INTEGER };
  return { ...known, ...untyped };
};

/** Makes the pool. No connection is opened before the first statement. */
export const createPool = (options: PoolOptions): Pool => {
  const gate = createGate();
  const wires = new Set<Duplex>();
  let closed = false;

  const socket = (): Duplex => {
    let admitted = false;
    let ready = false;
    const dialling = async (): Promise<Duplex> => {
      if (closed) throw new DatabaseUnreachable("the database was closed");
      await gate.enter();
      admitted = true;
      return options.dial();
    };
    const wire = createWire({
      dial: dialling,
      connect_timeout_ms: options.connect_timeout_ms,
      silence_timeout_ms: options.silence_timeout_ms,
      onStatement: () => options.onStatement(options.name),
      onReady: () => {
        ready = true;
        gate.opened();
      },
      onLost: (reason) => {
        if (admitted) gate.failed(reason, ready); // one that the gate refused is no news to it
      },
    });
    wires.add(wire);
    wire.once("close", () => wires.delete(wire));
    return wire;
  };

  const driver = postgres(settings(options, socket));
  return {
    sql: boundedStatements(driver, options.silence_timeout_ms),
    async close() {
      // postgres.js still holds the statement of a connection that was lost, and waits for its end. Without a wire none comes.
      const unwired = new Promise<void>((resolve) => {
        const check = (): void => {
          if (wires.size === 0) resolve();
        };
        for (const wire of wires) wire.once("close", check);
        check();
      });
      await Promise.race([driver.end({ timeout: CLOSE_TIMEOUT_S }), unwired]);
      closed = true;
      for (const wire of wires) wire.destroy(); // what was still being opened
    },
  };
};

/**
 * Calls `wake` on each notification, and when listening begins or begins again: one may have been missed meanwhile. On a
 * connection of its own, which comes back by itself. Resolves to the function that ends it.
 */
export const listenOn = async (
  options: PoolOptions,
  channel: string,
  wake: () => void,
): Promise<() => Promise<void>> => {
  // postgres.js listens on a pool that it derives from this one, and gives up the function that ends it where the first
  // try fails: ending the pool always works.
  const dial = options.dial;
  const quiet = (): Duplex =>
    createWire({
      dial,
      connect_timeout_ms: options.connect_timeout_ms,
      silence_timeout_ms: options.silence_timeout_ms,
      onStatement: () => options.onStatement(options.name),
      onReady: () => {},
      onLost: () => {},
    });
  const sql = postgres({ ...settings(options, quiet), max: 1, backoff: () => LISTEN_BACKOFF_S });
  let ended = false;
  const call = (): void => {
    if (!ended) wake();
  };
  await sql.listen(channel, call, call).catch(() => {}); // tried again in the background; who listens polls as well
  return async () => {
    ended = true;
    await sql.end({ timeout: 1 });
  };
};

const PING_TIMEOUT_MS = 1_000;

/** Resolves where the database answers within a second. */
export const pingOn = async (sql: Sql): Promise<void> => {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new DatabaseUnreachable(`the database did not answer within ${PING_TIMEOUT_MS} ms`)),
      PING_TIMEOUT_MS,
    );
  });
  const asked = sql`select 1`.then(() => {});
  asked.catch(() => {}); // it may fail after the limit, when nobody waits for it any more
  try {
    await Promise.race([asked, limit]);
  } finally {
    clearTimeout(timer);
  }
};

export type DatabaseParts = Pick<Database, "name"> & { readonly pool: Pool; readonly listen: Database["listen"] };

/** The port over a pool. */
export const databaseOver = (parts: DatabaseParts): Database => ({
  name: parts.name,
  sql: parts.pool.sql,
  listen: parts.listen,
  ping: () => pingOn(parts.pool.sql),
  close: () => parts.pool.close(),
});
