import type postgres from "postgres";

/** postgres.js tagged templates: the one SQL dialect of the product, on PostgreSQL 15 and up and on PGlite. */
type Statements = {
  <T extends readonly (object | undefined)[] = postgres.Row[]>(
    template: TemplateStringsArray,
    ...parameters: readonly postgres.ParameterOrFragment<never>[]
  ): postgres.PendingQuery<T>;
  /** A name of a table or a column, quoted. */
  (name: string): postgres.Helper<string, []>;
} & Pick<postgres.Sql, "unsafe" | "json">;
export type Sql = Statements & {
  begin<T>(run: (tx: Transaction) => Promise<T>): Promise<T>;
  begin<T>(mode: string, run: (tx: Transaction) => Promise<T>): Promise<T>;
};
/** Inside `sql.begin`. A pool query in there deadlocks on PGlite: use this one. */
export type Transaction = Statements & { savepoint<T>(run: (inner: Transaction) => Promise<T>): Promise<T> };
/** What a store's function takes where it can run in either. */
export type Queryable = Sql | Transaction;

/**
 * One pool. Contract: a committed transaction survives the process; a statement ends within the adapter's deadline (a
 * black-holed connection included) or is rejected; every statement is counted under the pool's name.
 */
export type Database = {
  /** The pool's name: `sts`, `api`, `outbox`, … the label of `sql_statements_total`. */
  readonly name: string;
  readonly sql: Sql;
  /**
   * Calls `wake` after commits that did `pg_notify(channel, …)`. A hint that may be lost (PGlite never delivers one):
   * who listens polls as well. Resolves to the function that ends it.
   */
  listen(channel: string, wake: () => void): Promise<() => Promise<void>>;
  /** Rejects where the database can't be reached within a second. */
  ping(): Promise<void>;
  close(): Promise<void>;
};

/**
 * No connection to the database, or one that broke or did not answer in time. `code` is the server's SQLSTATE where it
 * gave one. Never carries a statement or a parameter.
 */
export class DatabaseUnreachable extends Error {
  readonly code: string;
  constructor(text: string, cause?: unknown, code = "DATABASE_UNREACHABLE") {
    super(text, cause === undefined ? undefined : { cause });
    this.name = "DatabaseUnreachable";
    this.code = code;
  }
}

const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;

/**
 * SQLSTATEs of a database that is not there for us: connection failures, no resources, deadlines, restarts, and a server
 * that became read-only under us, as the old primary does in a fail-over.
 */
const UNAVAILABLE_SQLSTATE = /^(08...|53...|57014|57P0[1-5]|25006)$/;
/** What postgres.js says when its pool is closing, or gave up. */
const UNAVAILABLE_DRIVER = /^(DATABASE_UNREACHABLE|CONNECT_TIMEOUT|CONNECTION_(CLOSED|ENDED|DESTROYED))$/;
/** What the sockets below it say. */
const UNAVAILABLE_SOCKET = /^(ECONN[A-Z]+|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH)$/;

/** Whether a rejection means that the database is away, not that the statement is wrong: 503, not 500. */
export const isUnavailable = (error: unknown): boolean => {
  if (error instanceof DatabaseUnreachable) return true;
  const code = codeOf(error) ?? "";
  return UNAVAILABLE_SQLSTATE.test(code) || UNAVAILABLE_DRIVER.test(code) || UNAVAILABLE_SOCKET.test(code);
};

const constraintOf = (error: unknown): string | undefined =>
  error instanceof Error && "constraint_name" in error && typeof error.constraint_name === "string"
    ? error.constraint_name
    : undefined;

const violates = (sqlstate: string) => (error: unknown, constraint?: string) =>
  codeOf(error) === sqlstate && (constraint === undefined || constraintOf(error) === constraint);

/** Whether a row with that key is there already. `constraint`: only that constraint or unique index. */
export const isUniqueViolation: (error: unknown, constraint?: string) => boolean = violates("23505");
/** Whether a row that was referred to is missing, or one is still referred to. */
export const isForeignKeyViolation: (error: unknown, constraint?: string) => boolean = violates("23503");
/** Whether a check of the table refused the row. */
export const isCheckViolation: (error: unknown, constraint?: string) => boolean = violates("23514");
/** Whether two transactions got in each other's way (a deadlock, a serialisation failure): the same again may pass. */
export const isConflict = (error: unknown): boolean => /^(40001|40P01)$/.test(codeOf(error) ?? "");
/** Whether another session holds what was to be locked, for longer than `lock_timeout`: the same again may pass. */
export const isHeld = (error: unknown): boolean => codeOf(error) === "55P03";
