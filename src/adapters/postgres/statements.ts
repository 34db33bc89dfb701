import type postgres from "postgres";
import { DatabaseUnreachable, type Sql, type Transaction } from "../../ports/database.ts";

/** A query of postgres.js: what it has and its types do not name. It is handed to `handler` when somebody waits for it. */
type Query = {
  handler: (query: Query) => void;
  /** Null until it is written to a connection. */
  readonly state: object | null;
  strings: readonly string[];
  args: readonly unknown[];
  cancelled: unknown;
  readonly options: { onexecute?: (connection: unknown) => unknown };
  readonly reject: (reason: Error) => void;
  readonly cancel: () => unknown;
};
type Driver = postgres.Sql | postgres.TransactionSql;
type Tagged = (first: unknown, ...rest: readonly unknown[]) => unknown;
type Unsafe = (text: string, ...rest: readonly unknown[]) => unknown;

const isTemplate = (first: unknown): boolean => Array.isArray(first) && "raw" in first;

/**
 * The driver writes nothing after a query on one connection for which this is false, until it is answered. So a connection
 * never has two queries on it: no answer can be taken for another's, whatever the driver gets wrong.
 */
const alone = (): boolean => false;

/** The driver's own calls, with `prepare` done to each query before it is handed out. */
const front = (driver: Driver, prepare: (query: Query) => void): Pick<Sql, "unsafe" | "json"> & Tagged => {
  const prepared = (made: unknown): unknown => {
    prepare(made as Query);
    return made;
  };
  const tag = driver as unknown as Tagged;
  const unsafe = driver.unsafe as unknown as Unsafe;
  return Object.assign(
    (first: unknown, ...rest: readonly unknown[]): unknown =>
      isTemplate(first) ? prepared(tag(first, ...rest)) : tag(first, ...rest),
    { unsafe: ((text, ...rest) => prepared(unsafe(text, ...rest))) as Unsafe as Sql["unsafe"], json: driver.json },
  );
};

/** A transaction's own: its connection is its, and the server and the wire end what takes too long there. */
const within = (driver: postgres.TransactionSql): Transaction =>
  Object.assign(
    front(driver, (query) => {
      query.options.onexecute = alone;
    }),
    {
      savepoint: <T>(run: (inner: Transaction) => Promise<T>): Promise<T> =>
        driver.savepoint((inner) => run(within(inner))) as Promise<T>,
    },
  ) as unknown as Transaction;

/**
 * The pool's statements as callers see them: one at a time on each connection, and each rejected as unavailable after
 * `deadline_ms`, wherever it waits by then. One that was not written is not written any more.
 */
export const boundedStatements = (driver: postgres.Sql, deadline_ms: number): Sql => {
  const tooLate = (): DatabaseUnreachable =>
    new DatabaseUnreachable(`the database did not answer within ${deadline_ms} ms`);

  const giveUp = (query: Query): void => {
    if (query.state === null) {
      query.reject(tooLate());
      query.cancel(); // takes it out of the pool's queue
      // For a connection that is being opened for it. It would skip a cancelled query, and serve nobody from then on.
      query.cancelled = null;
      query.strings = [""];
      query.args = [];
    } else if (query.options.onexecute === alone) {
      query.reject(tooLate());
    } // else a BEGIN, which the driver would leave open if it were rejected now: `begin` gives it up
  };

  const bounded = (query: Query): void => {
    query.options.onexecute ??= alone;
    const enter = query.handler;
    query.handler = (asked) => {
      const timer = setTimeout(giveUp, deadline_ms, asked);
      const settled = (): void => clearTimeout(timer);
      (asked as unknown as Promise<unknown>).then(settled, settled);
      enter(asked);
    };
  };

  const sql = front(driver, bounded);
  // The driver's `begin` asks for its BEGIN here: it waits for a connection as every statement does.
  driver.unsafe = sql.unsafe as postgres.Sql["unsafe"];

  const begin = <T>(
    ...asked: readonly [(tx: Transaction) => Promise<T>] | readonly [string, (tx: Transaction) => Promise<T>]
  ) =>
    new Promise<T>((resolve, reject) => {
      const [mode, run] = asked.length === 2 ? asked : (["", asked[0]] as const);
      let given_up: DatabaseUnreachable | undefined;
      const timer = setTimeout(() => {
        given_up = tooLate();
        reject(given_up);
      }, deadline_ms);
      const begun = driver.begin(mode, (tx) => {
        if (given_up !== undefined) throw given_up; // its BEGIN came too late: it is rolled back at once
        clearTimeout(timer);
        return run(within(tx));
      }) as Promise<T>;
      begun.then(resolve, reject).finally(() => clearTimeout(timer));
    });
  return Object.assign(sql, { begin }) as unknown as Sql;
};
