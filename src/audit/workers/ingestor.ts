import { setTimeout as pause } from "node:timers/promises";
import { deadLetterOf, STREAMS } from "../../contracts/streams.ts";
import { AT } from "../../domain/audit-event.ts";
import type { Keyring } from "../../domain/keyring.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Log } from "../../kernel/log.ts";
import { StartupFault } from "../../kernel/problem.ts";
import type { Service } from "../../kernel/service.ts";
import type { Database } from "../../ports/database.ts";
import type { Streams } from "../../ports/streams.ts";
import { entriesOf, type SentEvent } from "../../ledger/entry.ts";
import { createAuditConsumer, isOwnFault } from "../../ledger/consumer.ts";
import type { Ingest, Ingested, Rejected } from "../ingest.ts";

/** Stream entries read at once: a lone event each at a low rate, up to 256 events each at a high one. */
const ENTRIES_AT_ONCE = 64;
/**
 * After a call with fewer events the next ones are given time to gather, unless entries wait already: a full transaction in
 * that time is no backlog. A transaction costs about as much for one event as for twenty, and in one process that time is
 * the Gateway's. Not longer: some hundred events keep the database busy for ten milliseconds, beside the calls.
 */
const FULL_EVENTS = 512;
const REST_MS = 50;

const RETRY_FIRST_MS = 100;
const RETRY_MOST_MS = 2_000;

/** When the newest of the events occurred. Texts of one form and length are in the order of their times. */
const newestOf = (events: readonly SentEvent[]): number => {
  let newest = "";
  for (const { values } of events) {
    const occurred_at = values[AT.occurred_at] ?? "";
    if (occurred_at > newest) newest = occurred_at;
  }
  return Date.parse(newest) || 0;
};

export type IngestorOptions = {
  readonly db: Database;
  readonly streams: Streams;
  /** `STREAMS_HMAC_KEY`. */
  readonly ring: Keyring;
  readonly ingest: Ingest;
  /** Unique per process. */
  readonly consumer: string;
  readonly max_deliveries: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly onIngested: (result: Ingested) => void;
  /** Entries or events that were put with the dead letters. */
  readonly onDead: (reason: string) => void;
};

/** `lag_s`: how far behind its producers the ledger is, in seconds. */
export type Ingestor = Service & {
  /** What keeps events from being kept now; undefined when nothing does. */
  fault(): string | undefined;
  /** Asks the stream how much waits. */
  measure(): Promise<{ readonly backlog: number; readonly dlq_depth: number; readonly lag_s: number }>;
};

/**
 * Takes events from the stream into the ledger. While the database is away it holds what it has in hand, acknowledges
 * nothing and tries again, so that an outage makes no dead letter and ends without anyone's doing.
 */
export const createIngestor = (options: IngestorOptions): Ingestor => {
  const { db, streams, ring, ingest, clock, log } = options;
  const draining = new AbortController();
  let outage: string | undefined;
  let level_ms = clock.now_ms();
  let rest_ms = 0;

  const untilKept = async (events: readonly SentEvent[]): Promise<Ingested> => {
    for (let wait_ms = RETRY_FIRST_MS; ; wait_ms = Math.min(wait_ms * 2, RETRY_MOST_MS)) {
      try {
        const result = await ingest.ingest(events);
        if (outage !== undefined) log.info({}, "the ledger is written again");
        outage = undefined;
        return result;
      } catch (error) {
        if (isOwnFault(error)) throw error;
        if (outage === undefined) log.error({ err: error }, "the ledger can't be written; events wait in the stream");
        outage = "the database does not take events";
        if (draining.signal.aborted) throw error;
        await pause(wait_ms, undefined, { signal: draining.signal });
      }
    }
  };

  /** Poison by itself: the events around it are kept. As an entry of the stream that it came from, so that it can be replayed. */
  const bury = async (rejected: readonly Rejected[]): Promise<void> => {
    if (rejected.length === 0) return;
    const entries = rejected.map(({ event, reason }) => ({
      ...entriesOf(ring, [event.text])[0],
      _dead_id: event.values[AT.id] ?? "",
      _dead_reason: reason,
    }));
    await streams.append(deadLetterOf(STREAMS.audit), entries);
    for (const { event, reason } of rejected) {
      options.onDead(reason);
      log.error(
        { event_id: event.values[AT.id], producer: event.values[AT.producer], reason },
        "an event can't be kept and was put with the dead letters",
      );
    }
  };

  const handle = async (events: readonly SentEvent[], more: boolean): Promise<void> => {
    const result = await untilKept(events);
    // Crash here: the entries come again, the kept events are known, and the poison is buried a second time at most.
    await bury(result.rejected);
    options.onIngested(result);
    level_ms = Math.max(level_ms, Math.min(newestOf(events), clock.now_ms()));
    rest_ms = more || events.length >= FULL_EVENTS ? 0 : REST_MS;
  };

  const consumer = createAuditConsumer({
    streams,
    ring,
    consumer: options.consumer,
    max_deliveries: options.max_deliveries,
    count: ENTRIES_AT_ONCE,
    handle,
    rest_ms: () => rest_ms,
    log,
    onDead: options.onDead,
  });

  return {
    name: "audit-ingestor",
    async start(failed) {
      try {
        await db.ping();
      } catch (cause) {
        log.error({ err: cause }, "the ledger can't reach PostgreSQL");
        throw new StartupFault(
          "DATABASE_URL: PostgreSQL can't be reached, and the audit role does not start without it; start it or correct the URL",
        );
      }
      await consumer.start(failed);
    },
    async stop(deadline_ms) {
      draining.abort();
      await consumer.stop(deadline_ms);
    },
    fault: () => outage,
    async measure() {
      const [backlog, dlq_depth] = await Promise.all([consumer.backlog(), consumer.dlqDepth()]);
      if (backlog === 0) level_ms = clock.now_ms();
      return { backlog, dlq_depth, lag_s: Math.max(0, clock.now_ms() - level_ms) / 1000 };
    },
  };
};
