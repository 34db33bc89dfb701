import { Command, Redis as Client, type RedisOptions as ClientOptions } from "ioredis";
import type { Log } from "../../kernel/log.ts";
import { Unavailable } from "../../ports/streams.ts";
import { type Script, SCRIPTS } from "./scripts.ts";

/** Which of the connections did a round trip: requests share `commands`, each reader blocks on one of its own. */
export type RedisConnection = "commands" | "broadcast" | "group";

/** Reconnects by itself, at this pace at the slowest. */
const RECONNECT_MAX_MS = 1000;
/** Commands without an answer. Beyond it the server is not keeping up, and more waiting would only hold memory. */
const MAX_IN_FLIGHT = 50_000;

export type ConnectOptions = {
  readonly url: string;
  readonly label: RedisConnection;
  readonly log: Log;
  /** A command without an answer for so long is rejected, and its connection is dropped. */
  readonly timeout_ms: number;
};

/**
 * A connection that fails fast. Nothing is queued while it is down, nothing is sent a second time (a command whose answer
 * was lost may have been carried out), and one that does not answer is dropped: a server that stopped without closing
 * would otherwise keep every later command waiting for its own timeout.
 */
export const connect = (options: ConnectOptions): Client => {
  const settings = {
    protocol: 2 as const,
    connectionName: `caracal-${options.label}`,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    commandTimeout: options.timeout_ms,
    connectTimeout: options.timeout_ms,
    keepAlive: 10_000,
    retryStrategy: (attempt: number) => Math.min(25 * 2 ** Math.min(attempt, 8), RECONNECT_MAX_MS),
    // A fail-over behind one address leaves us on the old primary, which is now a replica: go and find the new one.
    // Out of a script an old server wraps the word.
    reconnectOnError: (error: Error) => error.message.includes("READONLY"),
  } satisfies ClientOptions;
  const client = new Client(options.url, settings);
  let told = "";
  client.on("error", (error: Error) => {
    if (isTimeout(error)) drop(client);
    if (error.message === told) return; // the same fault at every attempt is one line
    told = error.message;
    options.log.warn({ connection: options.label, error: error.message }, "Redis connection failed");
  });
  client.on("ready", () => {
    if (told !== "") options.log.info({ connection: options.label }, "Redis connection is back");
    told = "";
  });
  return client;
};

export const isTimeout = (error: unknown): boolean => error instanceof Error && error.message === "Command timed out";

/** Cuts the connection now: `disconnect` alone would say goodbye and wait for a server that does not listen. */
export const drop = (client: Client): void => {
  client.stream?.destroy();
};

/** Resolves when the connection is usable, or after `limit_ms` without it. */
export const firstReady = (client: Client, limit_ms: number): Promise<void> =>
  new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      client.off("ready", done);
      resolve();
    };
    const timer = setTimeout(done, limit_ms);
    client.once("ready", done);
  });

/** A command's words behind its name. */
export type Words = readonly (string | number)[];

/** Words that are made when the tick's flush is, so that callers of one tick can share a command. */
type MakeWords = () => Words;

/** Commands of one tick, in one flush. */
export type Commands = {
  /**
   * Rejects with `Unavailable`, but for errors that `expected` claims by their first word (`NOGROUP`, `BUSYGROUP`), which
   * are rejected as they are. `now`: flushes at the end of this callback instead of the tick, for callers that have
   * gathered a tick's work themselves.
   */
  send<T>(name: string, words: Words, how?: { readonly expected?: string; readonly now?: boolean }): Promise<T>;
  /** A script by its hash. Words: how many keys, the keys, the arguments. */
  run<T>(script: Script, words: Words | MakeWords): Promise<T>;
  close(): void;
};

type Waiting = {
  readonly name: string;
  readonly words: Words | MakeWords;
  readonly script: Script | undefined;
  readonly expected: string | undefined;
  readonly resolve: (value: never) => void;
  readonly reject: (error: unknown) => void;
};

const AS_TEXT = { replyEncoding: "utf8" } as const;

/**
 * A command of a flush, which has one timer for all of its own: the library's timer for each costs as much as the rest of
 * the command, since taking it away again turns the object into a dictionary.
 */
class Flushed extends Command {
  override setTimeout(): void {}
}

const flushed = (name: string, words: Words): Flushed => new Flushed(name, words as (string | number)[], AS_TEXT);

export const createCommands = (options: ConnectOptions, onRoundTrip: () => void): Commands => {
  const client = connect(options);
  // Ahead of everything else on the connection, so that hashes are known: a restarted server has forgotten them.
  client.on("ready", () => {
    for (const { lua } of Object.values(SCRIPTS)) client.script("LOAD", lua).catch(() => undefined); // `again` has the text
  });
  let starting: Promise<void> | undefined = firstReady(client, options.timeout_ms).finally(() => {
    starting = undefined;
  });
  let waiting: Waiting[] = [];
  let in_flight = 0;

  const refuse = (one: Waiting, error: unknown): void => {
    const claimed = one.expected !== undefined && error instanceof Error && error.message.startsWith(one.expected);
    one.reject(claimed ? error : new Unavailable("Redis", error));
  };

  /** Writes commands in one go. Whatever has no answer in time is refused, and the connection that gave none is dropped. */
  const write = (batch: readonly Waiting[], commands: readonly Flushed[]): void => {
    onRoundTrip();
    in_flight += batch.length;
    let left = batch.length;
    const giveUp = (): void => {
      if (left === 0) return;
      const late = new Error("Command timed out");
      for (const command of commands) if (!command.isSettled) command.reject(late);
      drop(client);
    };
    // Where it was this process that stood still, the answers are here and are read before the next turn.
    const timer = setTimeout(() => setImmediate(giveUp), options.timeout_ms);
    const answered = (): void => {
      in_flight -= 1;
      left -= 1;
      if (left === 0) clearTimeout(timer);
    };
    const { stream } = client;
    stream?.cork();
    for (let i = 0; i < commands.length; i += 1) {
      const command = commands[i] as Flushed;
      const one = batch[i] as Waiting;
      command.promise.then(
        (value) => {
          answered();
          one.resolve(value as never);
        },
        (error: Error) => {
          answered();
          if (one.script !== undefined && error.message.startsWith("NOSCRIPT")) again(one, one.script, command);
          else refuse(one, error);
        },
      );
      try {
        client.sendCommand(command);
      } catch (error) {
        command.reject(error as Error);
      }
    }
    stream?.uncork();
  };

  /** A script that the server had forgotten has not run: with its text it runs for the first time. */
  const again = (one: Waiting, script: Script, command: Flushed): void => {
    const [, ...words] = command.args as (string | number)[];
    write([{ ...one, script: undefined }], [flushed("eval", [script.lua, ...words])]);
  };

  const flush = async (): Promise<void> => {
    if (waiting.length === 0) return; // an earlier `now` took it along
    const batch = waiting;
    waiting = [];
    if (starting !== undefined) await starting; // only in the first moment of the process
    const commands = batch.map(({ name, words, script }) => {
      const made = typeof words === "function" ? words() : words;
      return flushed(name, script === undefined ? made : [script.sha1, ...made]);
    });
    write(batch, commands);
  };

  const enqueue = <T>(
    name: string,
    words: Words | MakeWords,
    script: Script | undefined,
    expected: string | undefined,
  ): Promise<T> =>
    new Promise((resolve, reject) => {
      if (in_flight + waiting.length >= MAX_IN_FLIGHT) {
        reject(new Unavailable("Redis", new Error(`${MAX_IN_FLIGHT} commands wait for an answer`)));
        return;
      }
      // Behind every callback of this tick, so that what they send goes along.
      if (waiting.length === 0) setImmediate(flush);
      waiting.push({ name, words, script, expected, resolve, reject });
    });

  return {
    send: (name, words, how) => {
      const answer = enqueue<never>(name, words, undefined, how?.expected);
      if (how?.now === true) process.nextTick(flush);
      return answer;
    },
    run: (script, words) => enqueue("evalsha", words, script, undefined),
    close: () => client.disconnect(),
  };
};
