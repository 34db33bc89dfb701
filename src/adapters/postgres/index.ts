import type { Database } from "../../ports/database.ts";
import { parseAddress } from "./address.ts";
import { dial } from "./dial.ts";
import { createPool, databaseOver, listenOn, type PoolOptions } from "./pool.ts";

export type PostgresOptions = {
  /** `postgres://user:password@host:port/database?sslmode=disable|require|verify-ca|verify-full[&sslrootcert=file]`. */
  readonly url: string;
  readonly name: string;
  readonly max: number;
  readonly onStatement?: (pool_name: string) => void;
  /** After which the server ends a statement; 5 s by default. */
  readonly statement_timeout_ms?: number;
  /** 5 s by default. */
  readonly connect_timeout_ms?: number;
  /** What stands before the server; `none` by default. */
  readonly pooler?: Pooler;
};

/**
 * `transaction`: a pooler such as PgBouncer that gives each transaction another server connection. Settings of a connection
 * are refused there, so the server's own deadlines are the database user's (`alter role … set statement_timeout`), and ours
 * alone hold without them. Nothing is prepared, and nobody listens: who would polls.
 */
export type Pooler = "none" | "transaction";

const STATEMENT_TIMEOUT_MS = 5_000;
const CONNECT_TIMEOUT_MS = 5_000;
/** What the server's own word on a statement may need to reach us; then the connection is given up. */
const GRACE_MS = 1_000;
/** So that connections move to where a name leads now, and no backend grows old. */
const LIFETIME_MS = 30 * 60_000;

/**
 * A pool on a PostgreSQL server, 15 or newer. Throws a `StartupFault` where the URL is wrong; does not connect before the
 * first statement. Every statement, and every transaction's begin, has one deadline with three names:
 * - `statement_timeout_ms`: the server itself ends a statement that runs for so long.
 * - `silence_timeout_ms`: a second more. A connection on which an answer is due and nothing comes is given up (`wire.ts`).
 * - `deadline_ms`: the same length, from when it was asked, the wait for a connection included. The caller is rejected
 *   (`isUnavailable`, `statements.ts`).
 * The pool comes back by itself when the server does.
 */
export const createPostgres = (options: PostgresOptions): Database => {
  const address = parseAddress(options.url);
  const statement_timeout_ms = options.statement_timeout_ms ?? STATEMENT_TIMEOUT_MS;
  const connect_timeout_ms = options.connect_timeout_ms ?? CONNECT_TIMEOUT_MS;
  const pooled = options.pooler === "transaction";
  const pool_options: PoolOptions = {
    name: options.name,
    max: options.max,
    database: address.database,
    user: address.user,
    password: address.password,
    prepare: !pooled,
    parameters: {
      application_name: `caracal ${options.name}`,
      ...address.parameters,
      ...(pooled
        ? {}
        : {
            statement_timeout: String(statement_timeout_ms),
            // A transaction that we forgot (a process that was stopped) must not hold its locks for ever.
            idle_in_transaction_session_timeout: String(statement_timeout_ms * 2),
          }),
    },
    dial: () => dial(address, connect_timeout_ms),
    connect_timeout_ms,
    silence_timeout_ms: statement_timeout_ms + GRACE_MS,
    lifetime_ms: LIFETIME_MS,
    onStatement: options.onStatement ?? (() => {}),
  };
  return databaseOver({
    name: options.name,
    pool: createPool(pool_options),
    listen: pooled ? async () => async () => {} : (channel, wake) => listenOn(pool_options, channel, wake),
  });
};
