import type { Log } from "../../kernel/log.ts";
import { StartupFault } from "../../kernel/problem.ts";
import type { Marks } from "../../ports/marks.ts";
import type { RateLimit } from "../../ports/rate-limit.ts";
import type { Streams, Subscription } from "../../ports/streams.ts";
import { createCommands, type RedisConnection } from "./connection.ts";
import { createMarks } from "./marks.ts";
import { createRateLimit } from "./rate-limit.ts";
import { createStreams } from "./streams.ts";

export type { RedisConnection } from "./connection.ts";

export type RedisOptions = {
  /** `redis://` or `rediss://`, user and password in it. */
  readonly url: string;
  readonly log: Log;
  /** After this without an answer a command is rejected with `Unavailable`; 1000 by default. */
  readonly command_timeout_ms?: number;
  /** Called once per flush to the server. */
  readonly onRoundTrip?: (connection: RedisConnection) => void;
};

/** What the operator should know of the server. `save`: RDB snapshots are on (undefined: it does not say); `auth`: we log in. */
export type RedisFacts = {
  readonly version: string;
  readonly role: string;
  readonly maxmemory_policy: string;
  readonly appendonly: boolean;
  readonly save: boolean | undefined;
  readonly auth: boolean;
};

export type Redis = {
  readonly streams: Streams;
  readonly marks: Marks;
  readonly rateLimit: RateLimit;
  /** Rejects with `Unavailable` where the server does not answer in time. */
  ping(): Promise<void>;
  facts(): Promise<RedisFacts>;
  close(): Promise<void>;
};

const DEFAULT_TIMEOUT_MS = 1000;

const parseUrl = (text: string): URL => {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || (url.protocol !== "redis:" && url.protocol !== "rediss:")) {
    throw new StartupFault(
      "REDIS_URL must be redis://… or rediss://… with host, and user and password where the server asks for them",
    );
  }
  return url;
};

/** Connects in the background and again by itself; until then, and in between, calls reject with `Unavailable`. */
export const createRedis = (options: RedisOptions): Redis => {
  const auth = parseUrl(options.url).password !== "";
  const command_timeout_ms = options.command_timeout_ms ?? DEFAULT_TIMEOUT_MS;
  const onRoundTrip = options.onRoundTrip ?? (() => undefined);
  const context = { url: options.url, log: options.log, command_timeout_ms, onRoundTrip };
  const commands = createCommands({ ...context, label: "commands", timeout_ms: command_timeout_ms }, () =>
    onRoundTrip("commands"),
  );
  const streams = createStreams(commands, context);
  const open = new Set<Subscription>();
  const kept = async (opening: Promise<Subscription>): Promise<Subscription> => {
    const one = await opening;
    open.add(one);
    return {
      polledAt_ms: one.polledAt_ms,
      close: async () => {
        open.delete(one);
        await one.close();
      },
    };
  };

  return {
    streams: {
      ...streams,
      subscribeAll: (given) => kept(streams.subscribeAll(given)),
      consumeGroup: (given) => kept(streams.consumeGroup(given)),
    },
    marks: createMarks(commands),
    rateLimit: createRateLimit(commands),
    async ping() {
      await commands.send("ping", []);
    },
    async facts() {
      const [info, save] = await Promise.all([
        commands.send<string>("info", []),
        commands.send<string[]>("config", ["GET", "save"]).catch(() => undefined), // often forbidden
      ]);
      const fact = (name: string): string => new RegExp(`^${name}:(.*?)\r?$`, "m").exec(info)?.[1] ?? "";
      return {
        version: fact("redis_version"),
        role: fact("role"),
        maxmemory_policy: fact("maxmemory_policy"),
        appendonly: fact("aof_enabled") === "1",
        save: save === undefined ? undefined : (save[1] ?? "") !== "",
        auth,
      };
    },
    async close() {
      await Promise.all([...open].map((one) => one.close()));
      commands.close();
    },
  };
};
