import { Duplex } from "node:stream";
import { DatabaseUnreachable } from "../../ports/database.ts";
import {
  BACKEND,
  commandComplete,
  eachMessage,
  errorFields,
  errorResponse,
  FRONTEND,
  leadingTexts,
  readyForQuery,
  STARTUP,
  startupMessage,
  startupParameters,
  statusOf,
  type TransactionStatus,
  wholeMessages,
  withoutRoutine,
} from "./messages.ts";

export type WireOptions = {
  /** A stream to the server, connected and, where that is asked for, secured. Its errors name no secret. */
  readonly dial: () => Promise<Duplex>;
  /** The time from dialling to the server's first ReadyForQuery. */
  readonly connect_timeout_ms: number;
  /** The time for which the server may be silent while an answer is due. */
  readonly silence_timeout_ms: number;
  /** Once per statement that was sent (BEGIN and COMMIT are statements). */
  readonly onStatement: () => void;
  /** The server accepted the connection. */
  readonly onReady: () => void;
  /** The connection is gone, and it was not the driver that ended it. */
  readonly onLost: (reason: DatabaseUnreachable) => void;
};

/**
 * postgres.js forgets to reset its write timer where a connection closes with a statement not yet written: the next
 * connection's startup message is then put behind that statement and never sent, and the connection is as good as gone.
 * A message of 1024 bytes and more it writes at once, and resets the timer. So its startup message is made as long by
 * this parameter, which the server never sees: the wire takes it out, and drops what stands before the startup message.
 */
export const PADDING: Readonly<Record<string, string>> = { caracal_padding: "x".repeat(1_024) };

/** SQLSTATEs for what the server can't say itself any more. */
const CONNECTION_FAILURE = "08006";
const RESOLUTION_UNKNOWN = "08007";
/**
 * What the server says of a prepared statement that is not what the driver takes it for: it is gone (26000), its columns
 * are others (0A000, of `RevalidateCachedQuery`), or the columns that it writes have another type (42804, of
 * `transformAssignedExpr`). What the driver remembers of this connection is wrong then, so the connection ends.
 */
const STALE_CODE = "26000";
const STALE_ROUTINES: ReadonlySet<string> = new Set([
  "FetchPreparedStatement",
  "RevalidateCachedQuery",
  "transformAssignedExpr",
]);
const isStale = (code: string | undefined, routine: string | undefined): boolean =>
  code === STALE_CODE || (routine !== undefined && STALE_ROUTINES.has(routine));

/** How long a server may take to close its side after we closed ours. */
const CLOSE_TIMEOUT_MS = 1_000;
/** postgres.js takes a stream that asks it to wait for one that refused the statement: never ask. */
const UNBOUNDED = Number.MAX_SAFE_INTEGER;

/** What ends a transaction. `rollback to …` does not. */
type Verb = "commit" | "rollback" | undefined;
const verbOf = (statement: string): Verb => {
  const text = statement.trim().toLowerCase();
  return text === "commit" || text === "rollback" ? text : undefined;
};

const EXTENDED: ReadonlySet<number> = new Set([
  FRONTEND.parse,
  FRONTEND.bind,
  FRONTEND.describe,
  FRONTEND.execute,
  FRONTEND.close,
  FRONTEND.flush,
]);

const withoutRoutines = (bytes: Buffer, errors: readonly { readonly from: number; readonly to: number }[]): Buffer => {
  const parts: Buffer[] = [];
  let at = 0;
  for (const { from, to } of errors) {
    parts.push(bytes.subarray(at, from), withoutRoutine(bytes.subarray(from, to)));
    at = to;
  }
  parts.push(bytes.subarray(at));
  return Buffer.concat(parts);
};

/** The first message that the driver wrote, without what an earlier connection left before it and without the padding. */
const cleanStartup = (chunk: Buffer): Buffer => {
  let at = 0;
  // Typed messages begin with a letter, the startup message with the high byte of its length.
  while (at + 5 <= chunk.length && chunk[at] !== 0) at += 1 + chunk.readInt32BE(at + 1);
  const first = chunk.subarray(at);
  if (first.length < 8 || first.readInt32BE(4) === STARTUP.cancel) return first;
  return startupMessage(
    Object.fromEntries(Object.entries(startupParameters(first)).filter(([name]) => !(name in PADDING))),
  );
};

/**
 * What the driver takes for its socket, one for each connection. Its modes, in order:
 *
 * - **opening**: it dials, sends the startup message without the padding, and passes on what is said until the server's
 *   first ReadyForQuery. `connect_timeout_ms` is for all of that.
 * - **serving**: messages pass both ways. Each ReadyForQuery tells whether a transaction is open. `silence_timeout_ms` runs
 *   while an answer is due, and only bytes of the server end it: what we write meanwhile is no sign of life.
 * - **lost**: nothing goes to the server any more. Outside of a transaction the socket closes with the reason. Within one
 *   postgres.js would write the rollback, or the next statement, to a socket that is null and take the process down, or
 *   send it on the next connection, outside of any transaction. So we answer as a server does in a failed transaction: an
 *   error to everything until the driver has rolled back, then the socket closes. A COMMIT on its way gets 08007, as
 *   nobody can know what became of it.
 * - **closed**.
 *
 * Serving ends in lost upon:
 * - the socket's end or error, silence, or what is not the protocol;
 * - a fatal error of the server: as an answer the driver would hold it against the next connection's first statement;
 * - an error that shows the driver's prepared statements to be stale. What else is in that chunk is dropped unread;
 * - a Sync that closes nothing: the driver failed to write a statement, and counts answers wrongly from then on.
 *
 * Every other error passes, without the name of the server's routine: for some of them the driver would send a statement
 * again after those that were written since, and take their answers for its own. Statements are counted on their way.
 */
export const createWire = (options: WireOptions): Duplex => {
  let inner: Duplex | undefined;
  let started = false;
  let ready = false;
  let cancelling = false;
  /** Syncs and simple queries that wait for their ReadyForQuery, oldest first, by what they end. */
  const due: Verb[] = [];
  /** Messages of the extended protocol were sent that no Sync closes yet. */
  let unsynced = false;
  /** The driver closed with a Sync what it never began: it failed to write a statement, and lost count of its answers. */
  let unwritten = false;
  let status: TransactionStatus = "I";
  /** What ended the connection, from then on. */
  let lost: DatabaseUnreachable | undefined;
  /** After an error the protocol skips everything up to the next Sync. */
  let skipping = false;
  /** What the statement that is being sent ends. */
  let verb: Verb;
  /** Prepared statements that end a transaction, by name. The name without letters is taken again and again. */
  const endings = new Map<string, Verb>();
  const cut = wholeMessages();

  const giveUp = (): void =>
    lose(
      new DatabaseUnreachable(
        ready
          ? `the database did not answer within ${options.silence_timeout_ms} ms`
          : `the database did not accept a connection within ${options.connect_timeout_ms} ms`,
      ),
    );
  const connect_timer = setTimeout(giveUp, options.connect_timeout_ms);
  let silence_timer: NodeJS.Timeout | undefined;
  /** Begins or ends the watch over the server's silence; `heard`: it said something, so its time begins anew. */
  const watch = (heard: boolean): void => {
    if (!ready || lost !== undefined) return;
    if (due.length === 0 && !unsynced) {
      clearTimeout(silence_timer);
      silence_timer = undefined;
    } else if (silence_timer === undefined) {
      silence_timer = setTimeout(giveUp, options.silence_timeout_ms);
    } else if (heard) {
      silence_timer.refresh();
    }
  };

  const within = (): Buffer =>
    errorResponse(CONNECTION_FAILURE, `the connection was lost within the transaction: ${lost?.message ?? ""}`);

  /** The driver is out of the transaction. It must read the answer first: a stream that is destroyed drops the rest. */
  const leave = (): void => {
    status = "I";
    setImmediate(() => wire.destroy(lost));
  };

  /** Answers one Sync or Query in the server's stead. */
  const answerLost = (ends: Verb, was_sent: boolean): void => {
    if (status === "I") return;
    if (ends === "rollback") {
      wire.push(Buffer.concat([commandComplete("ROLLBACK"), readyForQuery("I")]));
      leave();
    } else if (ends === "commit") {
      const unknown = `the connection was lost in COMMIT, which may or may not have been done: ${lost?.message ?? ""}`;
      wire.push(was_sent ? errorResponse(RESOLUTION_UNKNOWN, unknown) : within());
      wire.push(readyForQuery("I"));
      leave();
    } else {
      wire.push(Buffer.concat([within(), readyForQuery("E")]));
    }
  };

  const lose = (reason: DatabaseUnreachable): void => {
    if (lost !== undefined || wire.destroyed) return;
    lost = reason;
    clearTimeout(connect_timer);
    clearTimeout(silence_timer);
    inner?.destroy();
    options.onLost(reason);
    if (status === "I") {
      wire.destroy(reason);
      return;
    }
    status = "E";
    for (const ends of due.splice(0)) answerLost(ends, true);
    if (unsynced) {
      skipping = true;
      wire.push(within());
    }
  };

  /** Keeps in mind which statement is about to run. */
  const note = (type: number, bytes: Buffer): void => {
    if (type === FRONTEND.parse) {
      const [name = "", text = ""] = leadingTexts(bytes, 2);
      const ends = verbOf(text);
      if (ends === undefined) endings.delete(name);
      else endings.set(name, ends);
    } else if (type === FRONTEND.bind) {
      verb = endings.get(leadingTexts(bytes, 2)[1] ?? "");
    }
  };

  /** The driver's messages after the loss, while it is in a transaction. */
  const answerAlone = (type: number, bytes: Buffer): void => {
    if (type === FRONTEND.terminate) {
      wire.destroy();
    } else if (type === FRONTEND.query) {
      answerLost(verbOf(leadingTexts(bytes, 1)[0] ?? ""), false);
    } else if (type === FRONTEND.sync) {
      const ends = verb;
      verb = undefined;
      if (!skipping) return answerLost(ends, false);
      skipping = false;
      wire.push(readyForQuery("E"));
    } else {
      note(type, bytes);
      const wants_answer = type === FRONTEND.flush || (type === FRONTEND.bind && verb === undefined);
      if (skipping || !wants_answer) return;
      skipping = true;
      wire.push(within());
    }
  };

  const outgoing = (type: number, bytes: Buffer): void => {
    if (type === FRONTEND.query) {
      options.onStatement();
      due.push(verbOf(leadingTexts(bytes, 1)[0] ?? ""));
    } else if (type === FRONTEND.sync) {
      unwritten ||= !unsynced;
      due.push(verb);
      verb = undefined;
      unsynced = false;
    } else if (EXTENDED.has(type)) {
      if (type === FRONTEND.execute) options.onStatement();
      note(type, bytes);
      unsynced = true;
    }
  };

  const incoming = (bytes: Buffer): void => {
    let fatal: DatabaseUnreachable | undefined;
    let fatal_at: number | undefined;
    let at = 0;
    let errors: { readonly from: number; readonly to: number }[] | undefined;
    eachMessage(bytes, (type, one) => {
      const begins_at = at;
      at += one.length;
      // What comes after such an error is no answer that the driver gets: it must not count as one.
      if (fatal !== undefined) return;
      if (type === BACKEND.error) {
        const { V: severity, S: translated, C: code, M: text, R: routine } = errorFields(one);
        if ((severity ?? translated) !== "ERROR") {
          fatal_at = begins_at;
          fatal = new DatabaseUnreachable(`the database ended the connection: ${text ?? ""}`, undefined, code);
        } else if (isStale(code, routine)) {
          fatal_at = begins_at;
          fatal = new DatabaseUnreachable(`a prepared statement is stale: ${text ?? ""}`);
        } else {
          errors ??= [];
          errors.push({ from: begins_at, to: at });
        }
      } else if (type === BACKEND.ready) {
        status = statusOf(one);
        if (ready) {
          due.shift();
        } else {
          ready = true;
          clearTimeout(connect_timer);
          options.onReady();
        }
      }
    });
    watch(true);
    const whole = fatal_at === undefined ? bytes : bytes.subarray(0, fatal_at);
    const readable = errors === undefined ? whole : withoutRoutines(whole, errors);
    if (readable.length > 0 && !wire.push(readable)) inner?.pause();
    if (fatal !== undefined) lose(fatal);
  };

  const attach = (stream: Duplex): void => {
    inner = stream;
    stream.on("data", (chunk: Buffer) => {
      if (lost !== undefined) return;
      try {
        const whole = cut(chunk);
        if (whole === undefined) watch(true);
        else incoming(whole);
      } catch (error) {
        lose(new DatabaseUnreachable(error instanceof Error ? error.message : String(error), error));
      }
    });
    stream.on("error", (error: Error) =>
      lose(new DatabaseUnreachable(`the connection broke: ${error.message}`, error)),
    );
    stream.once("end", () => stream.destroy());
    stream.once("close", () => {
      if (cancelling || wire.writableEnded) wire.destroy();
      else lose(new DatabaseUnreachable("the database closed the connection"));
    });
  };

  const send = (chunk: Buffer, done: () => void): void => {
    if (lost !== undefined) {
      // Not within the driver's own write: it would forget what it writes upon the answer.
      queueMicrotask(() => {
        if (started) eachMessage(chunk, answerAlone);
        done();
      });
      return;
    }
    const first = !started;
    started = true;
    const bytes = first ? cleanStartup(chunk) : chunk;
    if (first) {
      cancelling = bytes.length >= 8 && bytes.readInt32BE(4) === STARTUP.cancel;
    } else {
      eachMessage(bytes, outgoing);
      if (unwritten) {
        // As below: not within the driver's own write.
        queueMicrotask(() => {
          lose(new DatabaseUnreachable("the driver could not write a statement to the connection"));
          done();
        });
        return;
      }
      watch(false);
    }
    if (inner === undefined || inner.destroyed) return done(); // it is about to be lost
    inner.write(bytes, () => done());
  };

  const wire: Duplex = new Duplex({
    writableHighWaterMark: UNBOUNDED,
    read() {
      inner?.resume();
    },
    write(chunk: Buffer, _encoding, done) {
      // Only the startup message can come before there is a connection: the driver sends more when that is answered.
      if (inner === undefined && lost === undefined) void dialled.then(() => send(chunk, done));
      else send(chunk, done);
    },
    final(done) {
      const ending = inner;
      done();
      if (ending === undefined || ending.destroyed) {
        wire.destroy();
        return;
      }
      const giving_up = setTimeout(() => ending.destroy(), CLOSE_TIMEOUT_MS);
      ending.once("close", () => clearTimeout(giving_up));
      ending.end();
    },
    destroy(error, done) {
      clearTimeout(connect_timer);
      clearTimeout(silence_timer);
      inner?.destroy();
      done(error);
    },
  });
  // The driver takes its listeners off when it is done; an error without any would end the process.
  wire.on("error", () => {});

  const dialled = options.dial().then(
    (stream) => {
      if (wire.destroyed || lost !== undefined) stream.destroy();
      else attach(stream);
    },
    (error: unknown) =>
      lose(error instanceof DatabaseUnreachable ? error : new DatabaseUnreachable(String(error), error)),
  );

  // What postgres.js looks at and calls on a socket, beside what a stream has.
  return Object.assign(wire, { readyState: "open", setKeepAlive: () => wire });
};
