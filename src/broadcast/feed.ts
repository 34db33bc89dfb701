import { setTimeout as pause } from "node:timers/promises";
import { deadLetterOf } from "../contracts/streams.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { createModes, type Modes } from "../kernel/modes.ts";
import { type Service, within } from "../kernel/service.ts";
import type { AgedEntry, Position, Streams, Subscription } from "../ports/streams.ts";
import { createSequence, type Message, type Sequence, type Verdict } from "./sequence.ts";

/** Where the reading of a topic goes on: a place in the stream from before the snapshot, and each zone's last number in it. */
export type FeedSnapshot = {
  readonly position: Position;
  readonly seqs: ReadonlyMap<string, number>;
  /** When the database was asked, by its clock, in milliseconds since the epoch; undefined where it does not say. */
  readonly at_ms: number | undefined;
};

/** A forged or unreadable entry, or a gap; the owner of a ledger writes it there. */
export type AnomalyKind = "bad_signature" | "malformed" | "hole";

export type FeedOptions = {
  readonly streams: Streams;
  readonly ring: Keyring;
  /** Unique per process and purpose. */
  readonly owner: string;
  /** Exactly one where there is a snapshot. */
  readonly topics: readonly string[];
  readonly clock: Clock;
  readonly log: Log;
  /** Reads the state from the database and applies it. undefined: the reader begins at the stream's end, and calls `onLost`. */
  readonly snapshot?: (signal: AbortSignal) => Promise<FeedSnapshot>;
  /** Messages were missed, and it is not known which: all that was derived from the topics must be read again. Also at the start. */
  readonly onLost?: () => void;
  /** New, signed, in order. Synchronous, so that nothing comes between a message and the next. */
  readonly onMessage: (message: Message) => void;
  /** A head matched: at its place in the stream nothing was missing. */
  readonly onMatch?: () => void;
  readonly onAnomaly?: (kind: AnomalyKind, stream: string, detail: string) => void;
};

export type Feed = Service & {
  /**
   * Milliseconds since the reader was last known to have everything that the database had: since the last head that matched,
   * or since the snapshot was asked for, if that is later. The longest of all topics; Infinity before the first.
   */
  age_ms(): number;
  /** What keeps it from being ready, in a few words; undefined when it is. */
  fault(): string | undefined;
};

type Head = Extract<Verdict, { kind: "head" }>;
type TopicMode = "unread" | "whole" | "lost";
type Topic = {
  readonly mode: Modes<TopicMode>;
  readonly sequence: Sequence;
  /** Monotonic: at this moment the reader had everything. -Infinity after a failure to read, until a head or a snapshot. */
  matched_ms: number;
  /** From the database's clock to ours: the least that was seen between a head's signed time and its coming. */
  offset_ms: number;
  /** Heads in a row that count less than we know. */
  ahead: number;
  /** Heads in a row that came late. */
  late: number;
};

const TOPIC_TRANSITIONS: Readonly<Record<TopicMode, readonly TopicMode[]>> = {
  unread: ["whole"],
  whole: ["whole", "lost"],
  lost: ["whole"],
};

const RETRY_MIN_MS = 100;
const RETRY_MAX_MS = 5000;
/** A reading that went well for so long earns the next hole a snapshot without delay. */
const STEADY_MS = 10_000;
/** One old head that comes after a newer one is no surprise. Three in a row are a database that lost what it had committed. */
const AHEAD_MAX = 3;
/** A head that comes so long after its time, as often in a row, is not delayed by chance. */
const LATE_MS = 3_000;
const LATE_MAX = 3;

/**
 * The signed broadcast reader. With a snapshot it takes a place in the stream, then the snapshot, then every entry after the
 * place. Modes of a topic:
 *
 *   unread → whole    the first reading has begun
 *   whole → lost      something is missing, or heads can't be believed, and there is a snapshot to read
 *   lost → whole      the next snapshot was read, and its account began
 *   whole → whole     without a snapshot: what was missed is announced with `onLost`, and the account begins anew
 *
 * While a topic is `lost`, the former reading goes on: what comes meanwhile is applied at once. Further faults of it say
 * nothing new, and are ignored. The feed is ready while every topic is `whole` and none has an infinite age.
 */
export const createFeed = (options: FeedOptions): Feed => {
  const { streams, ring, owner, clock, log } = options;
  const topics = new Map<string, Topic>(
    options.topics.map((name) => [
      name,
      {
        mode: createModes(`the feed of ${name}`, TOPIC_TRANSITIONS, "unread"),
        sequence: createSequence(ring, name),
        matched_ms: -Infinity,
        offset_ms: Infinity,
        ahead: 0,
        late: 0,
      },
    ]),
  );
  const abort = new AbortController();
  /** Only `run` replaces it, and closes the former first: no entry is ever counted on another reading's account. */
  let subscription: Subscription | undefined;
  let running: Promise<void> | undefined;
  /** Monotonic: when the last snapshot was there. A head that was written before it counts less than the snapshot holds. */
  let snapshot_ms = -Infinity;
  /** Monotonic: the last failure to read. A head that was written before it does not prove what came to pass since. */
  let failed_ms = -Infinity;
  /** Ends the wait of `run`, so that it reads the next snapshot. */
  let restart = (): void => undefined;

  const report = (kind: AnomalyKind, stream: string, detail: string): void => {
    log.warn({ stream, kind, detail }, "stream anomaly");
    options.onAnomaly?.(kind, stream, detail);
  };

  /** Something is missing. The next snapshot is read; without one, whoever listens reads everything again. */
  const lose = (stream: string, topic: Topic, detail: string): void => {
    if (options.snapshot === undefined) {
      report("hole", stream, detail);
      topic.sequence.restart(undefined);
      options.onLost?.();
    } else if (topic.mode.now === "whole") {
      topic.mode.go("lost");
      report("hole", stream, detail);
      restart();
    }
  };

  /**
   * A head proves what was true at its signed time, wherever it stands in the stream. So a head that is played again, or held
   * back, makes nobody young. `offset_ms` takes the database's clock to ours. If heads stay late against it, a clock was moved
   * or somebody holds them back: the next snapshot brings the database's time, and shows which.
   */
  const onHead = (stream: string, topic: Topic, { relation, at_ms }: Head, written_ms: number): void => {
    if (relation === "match") {
      topic.ahead = 0;
      topic.offset_ms = Math.min(topic.offset_ms, written_ms - at_ms);
      const late_ms = written_ms - (at_ms + topic.offset_ms);
      if (written_ms > failed_ms) topic.matched_ms = Math.max(topic.matched_ms, written_ms - late_ms);
      topic.late = late_ms > LATE_MS && written_ms > snapshot_ms ? topic.late + 1 : 0;
      if (topic.late >= LATE_MAX) {
        topic.late = 0;
        lose(stream, topic, "heads are older than the time at which they come");
      }
      options.onMatch?.();
    } else if (relation === "behind") {
      lose(stream, topic, "the head counts messages that did not come");
    } else if (written_ms > snapshot_ms) {
      topic.ahead += 1;
      if (topic.ahead >= AHEAD_MAX) {
        topic.ahead = 0;
        lose(stream, topic, "heads count fewer messages than came");
      }
    }
  };

  const onEntries = async (stream: string, entries: readonly AgedEntry[]): Promise<void> => {
    const topic = topics.get(stream) as Topic;
    const now_ms = clock.monotonic_ms();
    for (const entry of entries) {
      const verdict = topic.sequence.accept(entry.fields);
      switch (verdict.kind) {
        case "message":
          if (verdict.hole)
            lose(stream, topic, `zone ${verdict.message.zone_id}: a number before ${verdict.message.seq} did not come`);
          options.onMessage(verdict.message);
          break;
        case "head":
          onHead(stream, topic, verdict, now_ms - entry.age_ms);
          break;
        case "refused":
          // Kept for a person, and never acted on. If it can't be kept now, the batch comes again, and is old then.
          report(verdict.reason, stream, `entry ${entry.id}`);
          await streams.moveDead(stream, undefined, entry, deadLetterOf(stream), verdict.reason);
          break;
        case "old":
          break;
      }
    }
  };

  const subscribe = async (from: Readonly<Record<string, Position>>): Promise<void> => {
    await subscription?.close();
    subscription = await streams.subscribeAll({
      owner,
      from,
      onEntries,
      onError: (error) => {
        log.warn({ owner, error }, "a stream can't be read");
        // What is revoked from now on would come late, and calls would pass until then. So the age is infinite until a new head.
        failed_ms = clock.monotonic_ms();
        for (const topic of topics.values()) topic.matched_ms = -Infinity;
      },
    });
  };

  /** `asked_ms`: when the state was asked for; it is no older than that. `at_ms`: the same moment by the database's clock. */
  const account = (
    topic: Topic,
    seqs: ReadonlyMap<string, number> | undefined,
    asked_ms: number,
    at_ms?: number,
  ): void => {
    topic.sequence.restart(seqs);
    topic.offset_ms = at_ms === undefined ? Infinity : asked_ms - at_ms;
    topic.ahead = 0;
    topic.late = 0;
    topic.mode.go("whole");
    topic.matched_ms = Math.max(topic.matched_ms, asked_ms);
  };

  const begin = async (): Promise<void> => {
    const asked_ms = clock.monotonic_ms();
    if (options.snapshot === undefined) {
      const from: Record<string, Position> = {};
      for (const name of topics.keys()) from[name] = await streams.position(name);
      for (const topic of topics.values()) account(topic, undefined, asked_ms);
      options.onLost?.(); // after the places were taken: what is read from now on is no older than what the stream brings
      await subscribe(from);
    } else {
      const { position, seqs, at_ms } = await options.snapshot(abort.signal);
      snapshot_ms = clock.monotonic_ms();
      for (const [name, topic] of topics) {
        // The old reading ends first: one of its entries on the new account would be a hole.
        await subscription?.close();
        account(topic, seqs, asked_ms, at_ms);
        await subscribe({ [name]: position });
      }
    }
  };

  const aborted = new Promise<void>((resolve) =>
    abort.signal.addEventListener("abort", () => resolve(), { once: true }),
  );
  const run = async (): Promise<void> => {
    let wait_ms = RETRY_MIN_MS;
    while (!abort.signal.aborted) {
      const asked = new Promise<void>((resolve) => {
        restart = resolve;
      });
      try {
        await begin();
        const began_ms = clock.monotonic_ms();
        await Promise.race([asked, aborted]);
        if (clock.monotonic_ms() - began_ms >= STEADY_MS) wait_ms = RETRY_MIN_MS;
      } catch (error) {
        if (abort.signal.aborted) return;
        log.warn({ owner, error }, "the state of a stream can't be read");
      }
      // After a hole, too: holes that come one upon another must not become a flood of snapshots.
      await pause(wait_ms, undefined, { signal: abort.signal }).catch(() => undefined);
      wait_ms = Math.min(wait_ms * 2, RETRY_MAX_MS);
    }
  };

  const age_ms = (): number => {
    const now_ms = clock.monotonic_ms();
    let age = 0;
    for (const topic of topics.values()) age = Math.max(age, now_ms - topic.matched_ms);
    return age;
  };

  return {
    name: `feed ${owner}`,
    age_ms,
    fault() {
      for (const topic of topics.values())
        if (topic.mode.now !== "whole") return "messages are missing, the state is being read again";
      return age_ms() === Infinity
        ? "the state is not known: it was not read since the start or the last failure"
        : undefined;
    },
    async start() {
      running ??= run();
    },
    async stop(deadline_ms) {
      abort.abort();
      await within(deadline_ms, running);
      await within(deadline_ms, subscription?.close());
    },
  };
};
