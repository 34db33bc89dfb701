import type { Duplex } from "node:stream";
import {
  BACKEND,
  eachMessage,
  FRONTEND,
  leadingTexts,
  message,
  readyForQuery,
  STARTUP,
  statusOf,
  type TransactionStatus,
  wholeMessages,
} from "../postgres/messages.ts";

/** The one backend, as far as sessions need it. */
export type Backend = {
  /** Runs protocol messages; calls `onData` with what the backend answers, whose memory is only valid within the call. */
  exec(messages: Uint8Array, onData: (data: Uint8Array) => void): Promise<void>;
  /** Ends what transaction there is. */
  rollback(): Promise<void>;
};

/** The messages after which the backend answers: the driver waits for it, so what came until then is run as one. */
const ENDS_CYCLE: ReadonlySet<number> = new Set([FRONTEND.sync, FRONTEND.query, FRONTEND.flush]);
/** COPY's data, its end and its failure: never wanted, as COPY FROM STDIN is refused. */
const COPY_DATA: ReadonlySet<number> = new Set([0x64, 0x63, 0x66]);

/** The backend would wait for data within its call, and nothing could ever reach it. */
const COPY_FROM_STDIN = /\bcopy\b[^;]*\bfrom\s+stdin\b/i;
const REFUSAL =
  "do $$ begin raise exception using errcode = '0A000', " +
  "message = 'COPY FROM STDIN is not supported by the embedded database'; end $$";

const text = (value: string): Buffer => Buffer.from(`${value}\0`);

/** The message itself, or, in place of a COPY FROM STDIN, a statement that fails and so aborts its transaction. */
const withoutCopy = (type: number, bytes: Buffer): Buffer => {
  if (type === FRONTEND.query) {
    return COPY_FROM_STDIN.test(leadingTexts(bytes, 1)[0] ?? "") ? message(type, text(REFUSAL)) : bytes;
  }
  const [name = "", statement = ""] = leadingTexts(bytes, 2);
  return COPY_FROM_STDIN.test(statement)
    ? message(type, Buffer.concat([text(name), text(REFUSAL), Buffer.alloc(2)]))
    : bytes;
};

const AUTHENTICATED = message(BACKEND.authentication, Buffer.alloc(4));
const keyData = (id: number): Buffer => {
  const body = Buffer.alloc(8);
  body.writeInt32BE(id, 0);
  return message(BACKEND.key_data, body);
};
const closeStatement = (name: string): Buffer => message(FRONTEND.close, Buffer.concat([Buffer.from("S"), text(name)]));
const SYNC = message(FRONTEND.sync, Buffer.alloc(0));

/** Who may talk to the backend: one session at a time, from its first message to the end of its transaction. */
const createTurns = () => {
  let owner: object | undefined;
  const waiting: { readonly who: object; readonly go: () => void }[] = [];
  return {
    async take(who: object): Promise<void> {
      if (owner === who) return;
      if (owner === undefined) {
        owner = who;
        return;
      }
      await new Promise<void>((go) => waiting.push({ who, go }));
    },
    pass(who: object): void {
      if (owner !== who) return;
      const next = waiting.shift();
      owner = next?.who;
      next?.go();
    },
  };
};

/**
 * Many sessions over the one backend that PGlite has. A session has the turn from its first message until the backend
 * says that it is idle again, so that neither the messages of two statements nor those of two transactions mix. The
 * login is answered here: the backend has one user and knows no other session's settings.
 */
export const createSessions = (backend: Backend): ((stream: Duplex) => void) => {
  const turns = createTurns();
  let last_id = 0;

  return (stream) => {
    const me = {};
    const id = (last_id += 1);
    const cut = wholeMessages();
    const cutAnswer = wholeMessages();
    const statements = new Set<string>();
    let started = false;
    let ended = false;
    let cycle: Buffer[] = [];
    let status: TransactionStatus = "I";
    /** A cycle began whose ReadyForQuery has not come. */
    let busy = false;
    /** What was asked for, one behind the other. */
    let work: Promise<void> = Promise.resolve();

    const answer = (data: Uint8Array): void => {
      const whole = cutAnswer(Buffer.from(data)); // a copy: the backend uses that memory again
      if (whole === undefined) return;
      eachMessage(whole, (type, one) => {
        if (type !== BACKEND.ready) return;
        status = statusOf(one);
        busy = false;
      });
      if (!ended) stream.write(whole);
    };
    const idle = (): boolean => !busy && status === "I";

    const run = (messages: Buffer): void => {
      work = work
        .then(async () => {
          await turns.take(me);
          if (ended && idle()) {
            turns.pass(me);
            return;
          }
          busy = true;
          try {
            await backend.exec(messages, answer);
          } finally {
            if (idle()) turns.pass(me);
          }
        })
        .catch((error: unknown) => {
          stream.destroy(error instanceof Error ? error : new Error(String(error)));
        });
    };

    /** Leaves nothing behind: no transaction, no prepared statement. The port may have gone in the middle of either. */
    const end = (): void => {
      if (ended) return;
      ended = true;
      work = work.then(async () => {
        if (idle() && statements.size === 0) return;
        await turns.take(me);
        try {
          // A cycle without its end is open: the backend is told that it is over before it hears anything else.
          if (busy) await backend.exec(SYNC, answer);
          if (!idle()) await backend.rollback();
          const names = [...statements].map(closeStatement);
          if (names.length > 0) await backend.exec(Buffer.concat([...names, SYNC]), () => {});
        } finally {
          turns.pass(me);
        }
      });
      work.catch(() => {}); // the backend is gone, and the worker with it
    };

    const take = (type: number, one: Buffer): void => {
      if (ended || COPY_DATA.has(type)) return;
      if (type === FRONTEND.terminate) {
        end();
        stream.end();
        return;
      }
      if (type === FRONTEND.parse) {
        const [name = ""] = leadingTexts(one, 1);
        if (name !== "") statements.add(name);
      }
      cycle.push(type === FRONTEND.parse || type === FRONTEND.query ? withoutCopy(type, one) : one);
      if (!ENDS_CYCLE.has(type)) return;
      run(Buffer.concat(cycle));
      cycle = [];
    };

    /** The first message has no type. The driver waits for its answer, so it comes alone. */
    const start = (chunk: Buffer): void => {
      started = true;
      if (chunk.length < 8 || chunk.readInt32BE(4) === STARTUP.cancel) {
        stream.destroy(); // a statement can't be stopped once it runs
        return;
      }
      stream.write(Buffer.concat([AUTHENTICATED, keyData(id), readyForQuery("I")]));
    };

    stream.on("data", (chunk: Buffer) => {
      try {
        if (!started) return start(chunk);
        const whole = cut(chunk);
        if (whole !== undefined) eachMessage(whole, take);
      } catch (error) {
        stream.destroy(error instanceof Error ? error : new Error(String(error)));
      }
    });
    stream.on("error", () => {});
    stream.once("end", () => {
      end();
      stream.end();
    });
    stream.once("close", end);
  };
};
