import { type ChainableCommander, Redis as Client, type RedisOptions as ClientOptions } from "ioredis";
import type { Log } from "../../kernel/log.ts";
import { Unavailable } from "../../ports/streams.ts";
import { SCRIPTS, type Scripts } from "./scripts.ts";

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
    reconnectOnError: (error: Error) => error.message.startsWith("READONLY"),
    scripts: SCRIPTS,
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

export type Pipeline = ChainableCommander & Scripts;

/** Commands of one tick, in one flush. */
export type Commands = {
  /**
   * `add` puts exactly one command on the pipeline. Rejects with `Unavailable`, but for errors that `expected` claims
   * by their first word (`NOGROUP`, `BUSYGROUP`), which are rejected as they are. `now`: flushes at the end of this
   * callback instead of the tick, for callers that have gathered a tick's work themselves.
   */
  send<T>(
    add: (pipeline: Pipeline) => unknown,
    how?: { readonly expected?: string; readonly now?: boolean },
  ): Promise<T>;
  close(): void;
};

type Waiting = {
  readonly resolve: (value: never) => void;
  readonly reject: (error: unknown) => void;
  readonly expected: string | undefined;
};

export const createCommands = (options: ConnectOptions, onRoundTrip: () => void): Commands => {
  const client = connect(options);
  let starting: Promise<void> | undefined = firstReady(client, options.timeout_ms).finally(() => {
    starting = undefined;
  });
  let pipeline: Pipeline | undefined;
  let waiting: Waiting[] = [];
  let in_flight = 0;

  const settle = (one: Waiting, error: Error | null, value: unknown): void => {
    if (error === null) {
      one.resolve(value as never);
    } else {
      const claimed = one.expected !== undefined && error.message.startsWith(one.expected);
      one.reject(claimed ? error : new Unavailable("Redis", error));
    }
  };

  const flush = async (): Promise<void> => {
    const batch = pipeline;
    const answers = waiting;
    if (batch === undefined) return; // an earlier `now` took it along
    pipeline = undefined;
    waiting = [];
    if (starting !== undefined) await starting; // only in the first moment of the process
    onRoundTrip();
    in_flight += answers.length;
    try {
      const results = (await batch.exec()) ?? [];
      if (results.some(([error]) => isTimeout(error))) drop(client);
      answers.forEach((one, i) => {
        const [error, value] = results[i] ?? [new Error("no answer"), undefined];
        settle(one, error, value);
      });
    } catch (error) {
      for (const one of answers) one.reject(new Unavailable("Redis", error));
    } finally {
      in_flight -= answers.length;
    }
  };

  return {
    send: (add, how = {}) =>
      new Promise((resolve, reject) => {
        if (in_flight + waiting.length >= MAX_IN_FLIGHT) {
          reject(new Unavailable("Redis", new Error(`${MAX_IN_FLIGHT} commands wait for an answer`)));
          return;
        }
        if (pipeline === undefined) {
          pipeline = client.pipeline() as Pipeline;
          setImmediate(flush); // behind every callback of this tick, so that what they send goes along
        }
        add(pipeline);
        waiting.push({ resolve, reject, expected: how.expected });
        if (how.now === true) process.nextTick(flush);
      }),
    close: () => client.disconnect(),
  };
};
