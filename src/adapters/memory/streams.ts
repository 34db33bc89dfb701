import { deadLetter } from "../../domain/dead-letter.ts";
import { setTimeout as pause } from "node:timers/promises";
import type { Clock } from "../../kernel/clock.ts";
import type { Journal } from "../../ports/journal.ts";
import {
  type AgedEntry,
  type BroadcastOptions,
  type Entry,
  type GroupOptions,
  START,
  type Streams,
  type Subscription,
  Unavailable,
} from "../../ports/streams.ts";

export type MemoryStreamsOptions = {
  readonly clock: Clock;
  readonly journals: Readonly<Record<string, Journal>>;
};

type Kept = {
  readonly n: number;
  readonly fields: Readonly<Record<string, string>>;
  readonly at_ms: number;
  readonly bytes: number;
};
type Pending = { consumer: string; since_ms: number; deliveries: number };
type Group = { delivered: number; readonly pending: Map<number, Pending> };
type Stream = {
  /** In the order of `n`; the numbers may have gaps, where entries were removed. */
  entries: Kept[];
  last: number;
  bytes: number;
  readonly groups: Map<string, Group>;
  readonly broadcasts: Set<{ place: number }>;
  /** Readers that have nothing to do. */
  readonly idle: Set<() => void>;
  readonly journal: Journal | undefined;
};

/** What one stream may hold in memory: a consumer that is away must not take the process along. */
const MAX_STREAM_BYTES = 64 * 1024 * 1024;
const BROADCAST_COUNT = 256;
/** A reader without news counts a poll this often, as with Redis. */
const BLOCK_MS = 1000;
const RETRY_MS = 100;
/** Journaled records read at once when the process starts. */
const LOAD_COUNT = 1024;

const idOf = (n: number): string => `0-${n}`;
const numberOf = (id: string): number => Number(id.slice(2));
const sizeOf = (fields: Readonly<Record<string, string>>): number => {
  let bytes = 64;
  for (const name in fields) bytes += name.length + (fields[name] as string).length;
  return bytes;
};

/** The index of the first entry after `n`. */
const behind = (entries: readonly Kept[], n: number): number => {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((entries[middle] as Kept).n <= n) low = middle + 1;
    else high = middle;
  }
  return low;
};

const entryOf = (kept: Kept): Entry => ({ id: idOf(kept.n), fields: kept.fields });

/** Streams of one process. Those with a journal survive it: their entries come again until they were acknowledged. */
export const createStreams = async (options: MemoryStreamsOptions): Promise<Streams & { close(): Promise<void> }> => {
  const { clock, journals } = options;
  const streams = new Map<string, Stream>();
  const open = new Set<Subscription>();
  const identity = `memory-${process.pid}-${clock.now_ms()}`;

  const streamOf = (name: string): Stream => {
    let stream = streams.get(name);
    if (stream === undefined) {
      stream = {
        entries: [],
        last: 0,
        bytes: 0,
        groups: new Map(),
        broadcasts: new Set(),
        idle: new Set(),
        journal: journals[name],
      };
      streams.set(name, stream);
    }
    return stream;
  };

  const keep = (stream: Stream, n: number, fields: Readonly<Record<string, string>>): void => {
    const kept = { n, fields, at_ms: clock.monotonic_ms(), bytes: sizeOf(fields) };
    stream.entries.push(kept);
    stream.bytes += kept.bytes;
    stream.last = n;
  };

  const wake = (stream: Stream): void => {
    for (const call of stream.idle) call();
    stream.idle.clear();
  };

  const dropBefore = (stream: Stream, index: number): void => {
    if (index === 0) return;
    for (const kept of stream.entries.slice(0, index)) stream.bytes -= kept.bytes;
    stream.entries = stream.entries.slice(index);
  };

  /** The journal lets go of everything that stands before the oldest entry that is still here. */
  const release = async (stream: Stream): Promise<void> => {
    if (stream.journal === undefined) return;
    await stream.journal.release((stream.entries[0]?.n ?? stream.last + 1) - 1);
  };

  const load = async (name: string, journal: Journal): Promise<void> => {
    const stream = streamOf(name);
    let after = 0;
    for (;;) {
      const records = await journal.read(after, LOAD_COUNT);
      for (const record of records)
        keep(stream, record.seq, JSON.parse(record.payload.toString()) as Record<string, string>);
      if (records.length === 0) return;
      after = (records.at(-1) as { seq: number }).seq;
    }
  };

  /** Resolves at the next append, after `limit_ms`, or when `signal` fires. */
  const news = async (waited: readonly Stream[], limit_ms: number, signal: AbortSignal): Promise<void> => {
    let call = (): void => undefined;
    const come = new Promise<void>((resolve) => {
      call = resolve;
    });
    for (const stream of waited) stream.idle.add(call);
    const timer = setTimeout(call, limit_ms);
    signal.addEventListener("abort", call, { once: true });
    await come;
    clearTimeout(timer);
    signal.removeEventListener("abort", call);
    for (const stream of waited) stream.idle.delete(call);
  };

  /** Rounds, one at a time. A round resolves to how long there is nothing to do unless something is appended. */
  const reader = (
    waited: readonly Stream[],
    onError: (error: unknown) => void,
    round: (signal: AbortSignal) => Promise<number>,
    onClose: () => void,
  ): Subscription => {
    const abort = new AbortController();
    let polled_at: number | undefined;
    const run = async (): Promise<void> => {
      while (!abort.signal.aborted) {
        try {
          const ends = waited.map((stream) => stream.last);
          const wait_ms = await round(abort.signal);
          polled_at = performance.now();
          // What was appended while the round ended woke nobody: look again at once.
          const quiet = waited.every((stream, i) => stream.last === ends[i]);
          if (wait_ms > 0 && quiet && !abort.signal.aborted) await news(waited, wait_ms, abort.signal);
        } catch (error) {
          onError(error);
          await pause(RETRY_MS, undefined, { signal: abort.signal }).catch(() => undefined);
        }
      }
    };
    const running = Promise.resolve().then(run);
    const subscription: Subscription = {
      polledAt_ms: () => polled_at,
      async close() {
        abort.abort();
        await running;
        onClose();
        open.delete(subscription);
      },
    };
    open.add(subscription);
    return subscription;
  };

  const subscribeAll = async (given: BroadcastOptions): Promise<Subscription> => {
    const sources = Object.entries(given.from).map(([name, from]) => {
      const stream = streamOf(name);
      const reading = { place: Math.min(numberOf(from), stream.last) };
      stream.broadcasts.add(reading);
      return { name, stream, reading };
    });
    return reader(
      sources.map((source) => source.stream),
      given.onError,
      async () => {
        let found = false;
        for (const { name, stream, reading } of sources) {
          const index = behind(stream.entries, reading.place);
          const batch = stream.entries.slice(index, index + BROADCAST_COUNT);
          if (batch.length === 0) continue;
          const now_ms = clock.monotonic_ms();
          const entries: AgedEntry[] = batch.map((kept) => ({
            ...entryOf(kept),
            age_ms: Math.max(0, now_ms - kept.at_ms),
          }));
          await given.onEntries(name, entries);
          reading.place = (batch.at(-1) as Kept).n;
          found = true;
        }
        return found ? 0 : BLOCK_MS;
      },
      () => {
        for (const { stream, reading } of sources) stream.broadcasts.delete(reading);
      },
    );
  };

  /** Everything that every group has acknowledged and every broadcast reader has read. */
  const settled = (stream: Stream): number => {
    let n = stream.last;
    for (const group of stream.groups.values()) {
      n = Math.min(n, group.delivered);
      for (const pending of group.pending.keys()) n = Math.min(n, pending - 1);
    }
    for (const reading of stream.broadcasts) n = Math.min(n, reading.place);
    return n;
  };

  const acknowledge = async (stream: Stream, group: Group, ids: readonly string[]): Promise<void> => {
    for (const id of ids) group.pending.delete(numberOf(id));
    if (stream.journal === undefined) return;
    dropBefore(stream, behind(stream.entries, settled(stream)));
    await release(stream);
  };

  const groupOf = (stream: Stream, name: string): Group => {
    let group = stream.groups.get(name);
    if (group === undefined) {
      group = { delivered: 0, pending: new Map() };
      stream.groups.set(name, group);
    }
    return group;
  };

  const consumeGroup = async (given: GroupOptions): Promise<Subscription> => {
    const stream = streamOf(given.stream);
    const group = groupOf(stream, given.group);
    /** When this reader may take its own entries again. */
    let retry_at_ms = -Infinity;
    /** The last round had no room for new ones. */
    let crowded = false;

    /**
     * First our unacknowledged entries and those others held too long, then new ones. If the last round had no room for new
     * ones, they go first.
     */
    const take = (now_ms: number): Kept[] => {
      const waiting = behind(stream.entries, group.delivered) < stream.entries.length;
      const again = [...group.pending].filter(
        ([, held]) =>
          !(crowded && waiting) &&
          (held.consumer === given.consumer ? now_ms >= retry_at_ms : now_ms - held.since_ms >= given.claim_after_ms),
      );
      const numbers = again
        .map(([n]) => n)
        .sort((a, b) => a - b)
        .slice(0, given.count);
      crowded = numbers.length === given.count;
      const index = behind(stream.entries, group.delivered);
      const fresh = stream.entries.slice(index, index + given.count - numbers.length);
      if (fresh.length > 0) group.delivered = (fresh.at(-1) as Kept).n;
      const old = numbers.flatMap((n) => {
        const kept = stream.entries[behind(stream.entries, n - 1)];
        if (kept?.n === n) return [kept];
        group.pending.delete(n); // removed while it was pending
        return [];
      });
      return [...old, ...fresh];
    };

    return reader(
      [stream],
      given.onError,
      async (signal) => {
        const now_ms = clock.monotonic_ms();
        const batch = take(now_ms);
        if (batch.length === 0) return group.pending.size > 0 ? RETRY_MS : BLOCK_MS;
        const entries = batch.map((kept) => {
          const deliveries = (group.pending.get(kept.n)?.deliveries ?? 0) + 1;
          group.pending.set(kept.n, { consumer: given.consumer, since_ms: now_ms, deliveries });
          return { ...entryOf(kept), deliveries };
        });
        retry_at_ms = now_ms + RETRY_MS;
        const done = await given.onEntries(entries);
        await acknowledge(stream, group, done);
        const rest_ms = given.rest_ms?.() ?? 0;
        if (rest_ms > 0) await pause(rest_ms, undefined, { signal }).catch(() => undefined);
        return done.length < entries.length ? RETRY_MS : 0;
      },
      () => undefined,
    );
  };

  const append = async (
    name: string,
    entries: readonly Readonly<Record<string, string>>[],
  ): Promise<readonly string[]> => {
    const stream = streamOf(name);
    const bytes = entries.reduce((sum, fields) => sum + sizeOf(fields), 0);
    const held = stream.journal !== undefined || stream.groups.size > 0;
    if (stream.bytes + bytes > MAX_STREAM_BYTES && held) {
      throw new Unavailable(name, new Error(`its readers are ${MAX_STREAM_BYTES} bytes behind`));
    }
    let numbers: readonly number[];
    if (stream.journal === undefined) {
      numbers = entries.map((_, i) => stream.last + 1 + i);
    } else {
      const payloads = entries.map((fields) => Buffer.from(JSON.stringify(fields)));
      numbers = await stream.journal.append(payloads).catch((cause: unknown) => {
        throw new Unavailable(name, cause);
      });
    }
    entries.forEach((fields, i) => keep(stream, numbers[i] as number, fields));
    // A broadcast stream forgets from its front: a reader that is so far behind notices the hole.
    while (stream.bytes > MAX_STREAM_BYTES && !held) dropBefore(stream, Math.max(1, stream.entries.length >> 4));
    wake(stream);
    return numbers.map(idOf);
  };

  for (const [name, journal] of Object.entries(journals)) await load(name, journal);

  return {
    append,
    position: async (name) => (streamOf(name).last === 0 ? START : idOf(streamOf(name).last)),
    subscribeAll,
    consumeGroup,
    async moveDead(name, group_name, entry, to, reason) {
      const stream = streamOf(name);
      const dead = streamOf(to);
      const there = dead.entries.some((kept) => kept.fields["_dead_id"] === entry.id);
      if (!there) await append(to, [deadLetter(entry, reason)]);
      const group = group_name === undefined ? undefined : stream.groups.get(group_name);
      if (group !== undefined) await acknowledge(stream, group, [entry.id]);
    },
    async range(name, after, count) {
      const { entries } = streamOf(name);
      const index = behind(entries, numberOf(after));
      return entries.slice(index, index + count).map(entryOf);
    },
    async remove(name, ids) {
      const stream = streamOf(name);
      const gone = new Set(ids.map(numberOf));
      for (const kept of stream.entries) if (gone.has(kept.n)) stream.bytes -= kept.bytes;
      stream.entries = stream.entries.filter((kept) => !gone.has(kept.n));
      await release(stream); // what was removed behind an entry that stays comes again after a restart
    },
    length: async (name) => streamOf(name).entries.length,
    async backlog(name, group_name) {
      const stream = streamOf(name);
      const group = stream.groups.get(group_name);
      if (group === undefined) return stream.entries.length;
      return group.pending.size + stream.entries.length - behind(stream.entries, group.delivered);
    },
    async load(name, group_name) {
      const stream = streamOf(name);
      const group = stream.groups.get(group_name);
      const waits = Math.min(group?.delivered ?? 0, ...[...(group?.pending.keys() ?? [])].map((n) => n - 1));
      const oldest = stream.entries[behind(stream.entries, waits)];
      return {
        bytes: stream.bytes,
        room_bytes: Math.max(0, MAX_STREAM_BYTES - stream.bytes),
        oldest_ms: oldest === undefined ? 0 : clock.monotonic_ms() - oldest.at_ms,
      };
    },
    async trim(name, keep_ms) {
      const stream = streamOf(name);
      if (keep_ms === undefined && stream.groups.size === 0) return;
      const young_ms = clock.monotonic_ms() - (keep_ms ?? 0);
      const limit = behind(stream.entries, settled(stream));
      let index = 0;
      while (index < limit && (keep_ms === undefined || (stream.entries[index] as Kept).at_ms < young_ms)) index += 1;
      dropBefore(stream, index);
      await release(stream);
    },
    identity: async () => identity,
    async close() {
      await Promise.all([...open].map((one) => one.close()));
    },
  };
};
