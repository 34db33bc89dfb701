import { setTimeout as pause } from "node:timers/promises";
import type { Redis as Client } from "ioredis";
import type { Log } from "../../kernel/log.ts";
import { within } from "../../kernel/service.ts";
import type { AgedEntry, BroadcastOptions, Entry, GroupOptions, Position, Subscription } from "../../ports/streams.ts";
import { Unavailable } from "../../ports/streams.ts";
import { type Commands, connect, drop, firstReady, isTimeout, type RedisConnection } from "./connection.ts";
import { compareIds, entriesOf, millisecondsOf, pairs, type RawEntry } from "./replies.ts";

/** What every reader is made with. */
export type ReaderContext = {
  readonly url: string;
  readonly log: Log;
  readonly command_timeout_ms: number;
  readonly onRoundTrip: (connection: RedisConnection) => void;
};

/** A broadcast reader's group is named by its owner, so that a sweep can tell whose it was. */
export const BROADCAST_GROUP = "b:";
export const ownerKey = (owner: string): string => `caracal:owner:${owner}`;

const BLOCK_MS = 1000;
const BROADCAST_COUNT = 256;
/** The owner's key: how long a reader may be silent before its groups are swept, and how often it says that it lives. */
const OWNER_TTL_S = 60;
const OWNER_RENEW_MS = 15_000;
/** How long a reader waits before it tries again after a failure. */
const RETRY_MIN_MS = 50;
const RETRY_MAX_MS = 1000;
const CLOSE_LIMIT_MS = 2000;

type Flush = (add: (pipeline: ReturnType<Client["pipeline"]>) => void) => Promise<unknown[]>;
/** What a round works with. `block`: a flush that waits for entries; while it does, nothing is in hand. */
type Round = { readonly flush: Flush; readonly block: Flush; readonly rest: (ms: number) => Promise<void> };
type Results = readonly [error: Error | null, value: unknown][];
type StreamReply = [stream: string, entries: RawEntry[]][] | null;

const failure = (error: unknown): unknown => {
  const known = error instanceof Error && /^(NOGROUP|BUSYGROUP|ERR)/.test(error.message);
  return known || error instanceof Unavailable ? error : new Unavailable("Redis", error);
};

/**
 * The loop that both kinds of reader are: rounds, one at a time, on a connection of their own (a blocking read stalls
 * every command behind it), with a pause after a failed one.
 */
const reader = (
  context: ReaderContext,
  label: RedisConnection,
  onError: (error: unknown) => void,
  round: (using: Round, failed: boolean) => Promise<void>,
  onClose: () => Promise<void>,
): Subscription => {
  const client = connect({ ...context, label, timeout_ms: BLOCK_MS + context.command_timeout_ms });
  const abort = new AbortController();
  let polled_at: number | undefined;
  let blocked = false;

  /** Sends one pipeline; the values of its commands, or the first error among them. */
  const flush: Flush = async (add) => {
    const pipeline = client.pipeline();
    add(pipeline);
    context.onRoundTrip(label);
    const results = ((await pipeline.exec()) ?? []) as Results;
    const error = results.find(([one]) => one !== null)?.[0];
    if (isTimeout(error)) drop(client);
    if (error) throw error;
    polled_at = performance.now();
    return results.map(([, value]) => value);
  };

  const block: Flush = async (add) => {
    if (abort.signal.aborted) throw new Unavailable("Redis", new Error("the reader is closed"));
    blocked = true;
    try {
      return await flush(add);
    } finally {
      blocked = false;
    }
  };

  const rest = (ms: number): Promise<void> =>
    pause(ms, undefined, { signal: abort.signal }).then(
      () => undefined,
      () => undefined,
    );

  const run = async (): Promise<void> => {
    let wait_ms = 0;
    await firstReady(client, context.command_timeout_ms);
    while (!abort.signal.aborted) {
      try {
        await round({ flush, block, rest }, wait_ms > 0);
        wait_ms = 0;
      } catch (error) {
        if (abort.signal.aborted) return;
        onError(failure(error));
        wait_ms = Math.min(Math.max(RETRY_MIN_MS, wait_ms * 2), RETRY_MAX_MS);
        await pause(wait_ms, undefined, { signal: abort.signal }).catch(() => undefined);
      }
    }
  };

  const running = run();
  return {
    polledAt_ms: () => polled_at,
    async close() {
      if (abort.signal.aborted) return;
      abort.abort();
      if (blocked) client.disconnect();
      await within(CLOSE_LIMIT_MS, running); // what is in hand is finished and acknowledged, or it would come again
      client.disconnect();
      await onClose().catch(() => undefined); // the sweep does it, where the server can't be reached
    },
  };
};

/** The group is made anew at our own place whenever it may be gone or elsewhere: after a start, a failure, a flush. */
const placeGroup = async (commands: Commands, stream: string, group: string, from: Position): Promise<Position> => {
  const info = await commands
    .send<unknown[]>("xinfo", ["STREAM", stream], { expected: "ERR no such key" })
    .catch((error: unknown) => {
      if (error instanceof Error && error.message.startsWith("ERR no such key")) return [];
      throw error;
    });
  // A stream that ends before our place is another one (the server came back empty): everything in it is new to us.
  const last = String(pairs(info).get("last-generated-id") ?? "0-0");
  const place = compareIds(from, last) > 0 ? "0-0" : from;
  await commands
    .send("xgroup", ["CREATE", stream, group, place, "MKSTREAM"], { expected: "BUSYGROUP" })
    .catch(async (error: unknown) => {
      if (!(error instanceof Error) || !error.message.startsWith("BUSYGROUP")) throw error;
      await commands.send("xgroup", ["SETID", stream, group, place]);
    });
  return place;
};

/**
 * Every entry to this reader. Read without a pending list: what was delivered and not processed is only ever this
 * process's, which puts the group back to its own place after each failure. What is trimmed is what was delivered.
 */
export const readBroadcast = (commands: Commands, context: ReaderContext, options: BroadcastOptions): Subscription => {
  const group = `${BROADCAST_GROUP}${options.owner}`;
  const streams = Object.keys(options.from);
  const places = new Map<string, Position>(Object.entries(options.from));
  let placed = false;
  let renewed_ms = -Infinity;

  const renew = async (flush: Flush): Promise<void> => {
    if (performance.now() - renewed_ms < OWNER_RENEW_MS) return;
    await flush((pipeline) => pipeline.set(ownerKey(options.owner), "1", "EX", OWNER_TTL_S));
    renewed_ms = performance.now();
  };

  const place = async (flush: Flush): Promise<void> => {
    renewed_ms = -Infinity;
    await renew(flush); // before the group is there, so that no sweep finds it without an owner
    for (const stream of streams) {
      places.set(stream, await placeGroup(commands, stream, group, places.get(stream) ?? "0-0"));
    }
    placed = true;
  };

  return reader(
    context,
    "broadcast",
    options.onError,
    async ({ flush, block }, failed) => {
      if (failed) placed = false;
      if (!placed) await place(flush);
      await renew(flush);
      const [time, reply] = (await block((pipeline) => {
        pipeline.time();
        // NOACK: see above. Nothing is lost by it, since `places` moves on only after the handler.
        pipeline.call(
          "XREADGROUP",
          "GROUP",
          group,
          options.owner,
          "COUNT",
          BROADCAST_COUNT,
          "BLOCK",
          BLOCK_MS,
          "NOACK",
          "STREAMS",
          ...streams,
          ...streams.map(() => ">"),
        );
      })) as [[string, string], StreamReply];
      const asked_ms = Number(time[0]) * 1000 + Math.floor(Number(time[1]) / 1000);
      for (const [stream, raw] of reply ?? []) {
        const entries: AgedEntry[] = entriesOf(raw).map((entry) => ({
          ...entry,
          age_ms: Math.max(0, asked_ms - millisecondsOf(entry.id)), // one that came while we waited is as good as new
        }));
        placed = false; // until the handler is through: where it fails, or we are closed, the place is the old one
        if (entries.length > 0) await options.onEntries(stream, entries);
        places.set(stream, raw.at(-1)?.[0] ?? (places.get(stream) as Position));
        placed = true;
      }
    },
    async () => {
      for (const stream of streams) await commands.send("xgroup", ["DESTROY", stream, group]);
      await commands.send("del", [ownerKey(options.owner)]);
    },
  );
};

/** Each entry to one consumer of the group: its own unfinished ones first, then those of consumers that went, then new ones. */
export const readGroup = (commands: Commands, context: ReaderContext, options: GroupOptions): Subscription => {
  const { stream, group, consumer, count } = options;
  let placed = false;
  /** Where the walk through our own unfinished entries is; undefined: not walking. */
  let walk: string | undefined = "0-0";
  let walk_again_ms = Infinity;
  let claimed_ms = performance.now();

  const deliver = async (
    { flush, rest }: Round,
    entries: readonly (Entry & { readonly deliveries: number })[],
  ): Promise<void> => {
    let done: readonly string[] = [];
    try {
      done = await options.onEntries(entries);
    } finally {
      if (done.length < entries.length) walk_again_ms = performance.now() + RETRY_MAX_MS;
    }
    if (done.length > 0) await flush((pipeline) => pipeline.xack(stream, group, ...done));
    const rest_ms = options.rest_ms?.() ?? 0;
    if (rest_ms > 0) await rest(rest_ms);
  };

  /** With how often each was delivered, which only XPENDING tells. Ids whose entry is gone are acknowledged. */
  const redeliver = async (using: Round, raw: readonly RawEntry[]): Promise<void> => {
    const { flush } = using;
    const gone = raw.filter(([, fields]) => fields === null).map(([id]) => id);
    if (gone.length > 0) await flush((pipeline) => pipeline.xack(stream, group, ...gone));
    const entries = entriesOf(raw);
    if (entries.length === 0) return;
    const first = (entries[0] as Entry).id;
    const last = (entries.at(-1) as Entry).id;
    const [pending] = (await flush((pipeline) => {
      pipeline.call("XPENDING", stream, group, first, last, count * 4, consumer);
    })) as [[string, string, number, number][]];
    const deliveries = new Map(pending.map(([id, , , times]) => [id, times]));
    await deliver(
      using,
      entries.map((entry) => ({ ...entry, deliveries: deliveries.get(entry.id) ?? 1 })),
    );
  };

  return reader(
    context,
    "group",
    options.onError,
    async (using, failed) => {
      const { flush } = using;
      if (failed) {
        placed = false;
        walk = "0-0"; // an answer or an acknowledgement may have been lost on its way
      }
      if (!placed) {
        // From the first entry: what was appended before anybody consumed is to be consumed.
        await commands
          .send("xgroup", ["CREATE", stream, group, "0", "MKSTREAM"], { expected: "BUSYGROUP" })
          .catch((error: unknown) => {
            if (!(error instanceof Error) || !error.message.startsWith("BUSYGROUP")) throw error;
          });
        placed = true;
      }
      const now_ms = performance.now();
      if (now_ms >= walk_again_ms) {
        walk = "0-0";
        walk_again_ms = Infinity;
      }
      if (walk !== undefined) {
        const from = walk;
        const [reply] = (await flush((pipeline) => {
          pipeline.call("XREADGROUP", "GROUP", group, consumer, "COUNT", count, "STREAMS", stream, from);
        })) as [StreamReply];
        const raw = reply?.[0]?.[1] ?? [];
        walk = raw.at(-1)?.[0];
        if (raw.length > 0) await redeliver(using, raw);
        return;
      }
      if (now_ms - claimed_ms >= Math.min(options.claim_after_ms, 5000)) {
        const [reply] = (await flush((pipeline) => {
          pipeline.call("XAUTOCLAIM", stream, group, consumer, options.claim_after_ms, "0-0", "COUNT", count);
        })) as [[string, RawEntry[]]];
        const raw = reply[1].filter(([, fields]) => fields !== null);
        if (raw.length < count) claimed_ms = now_ms;
        if (raw.length > 0) await redeliver(using, raw);
        return;
      }
      const block_ms = Math.max(1, Math.min(BLOCK_MS, Math.ceil(walk_again_ms - now_ms)));
      const [reply] = (await using.block((pipeline) => {
        pipeline.call(
          "XREADGROUP",
          "GROUP",
          group,
          consumer,
          "COUNT",
          count,
          "BLOCK",
          block_ms,
          "STREAMS",
          stream,
          ">",
        );
      })) as [StreamReply];
      const entries = entriesOf(reply?.[0]?.[1] ?? []);
      if (entries.length > 0)
        await deliver(
          using,
          entries.map((entry) => ({ ...entry, deliveries: 1 })),
        );
    },
    async () => undefined,
  );
};
