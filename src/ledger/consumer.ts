import { setImmediate as nextTurn } from "node:timers/promises";
import { AUDIT_GROUP, deadLetterOf, STREAMS } from "../contracts/streams.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Log } from "../kernel/log.ts";
import { type Service, within, worker } from "../kernel/service.ts";
import { type Entry, START, type Streams, type Subscription } from "../ports/streams.ts";
import { type SentEvent, sentEvents } from "./entry.ts";
import { verifyEntry } from "../broadcast/envelope.ts";

export type AuditConsumerOptions = {
  readonly streams: Streams;
  readonly ring: Keyring;
  /** Unique per process: the instance's id. */
  readonly consumer: string;
  /** `AUDIT_MAX_DELIVERIES`. */
  readonly max_deliveries: number;
  /** Takes over from another consumer after this; 30 s by default. */
  readonly claim_after_ms?: number;
  /** Stream entries at most in one call of `handle`; each holds up to 256 events. 32 by default. */
  readonly count?: number;
  /**
   * Keeps the events; resolves once they are committed. May be given an event again (delivery is at least once). `more`:
   * as many entries were read as are read at once, so others wait.
   * A rejection makes a dead letter where it is a fault of our own code (`isOwnFault`), after `max_deliveries`, for the entry
   * that failed by itself. Every other rejection is an outage: the entries stay pending, however long it lasts.
   */
  readonly handle: (events: readonly SentEvent[], more: boolean) => Promise<void>;
  /** How long to rest after what `handle` kept was acknowledged, in milliseconds; not at all if absent. */
  readonly rest_ms?: () => number;
  readonly log: Log;
  readonly onDead?: (reason: string) => void;
};

/** `backlog`: entries not acknowledged; `dlqDepth`: entries in the dead letters. */
export type AuditConsumer = Service & { backlog(): Promise<number>; dlqDepth(): Promise<number> };

/** How long entries are verified and read before the event loop turns; one takes as long by itself at most. */
const TURN_MS = 1;
const CLAIM_AFTER_MS = 30_000;
const COUNT = 32;
const TRIM_EVERY_MS = 5000;
const REPLAY_PAGE = 64;

/** Whether our own code fails on an event. Everything else is an outage, which ends without anyone's doing. */
export const isOwnFault = (error: unknown): boolean =>
  error instanceof TypeError || error instanceof RangeError || error instanceof SyntaxError;

type Delivered = Entry & { readonly deliveries: number };
type Batch = { readonly entry: Delivered; readonly events: readonly SentEvent[] };

/** The ledger's end of `caracal.audit.events`: verifies, parses, hands over, and buries what can't be processed. */
export const createAuditConsumer = (options: AuditConsumerOptions): AuditConsumer => {
  const { streams, ring, log, handle } = options;
  const count = options.count ?? COUNT;
  const dead = deadLetterOf(STREAMS.audit);
  let subscription: Subscription | undefined;

  /** Acknowledged only once it is in the dead letters: the port does both in that order. */
  const bury = async (entry: Entry, reason: string, error?: unknown): Promise<void> => {
    await streams.moveDead(STREAMS.audit, AUDIT_GROUP, entry, dead, reason);
    log.error(
      { stream: STREAMS.audit, entry: entry.id, reason, error },
      "an audit entry was put into the dead letters",
    );
    options.onDead?.(reason);
  };

  /** The entries whose events are to be kept; those that never can be are buried at once. */
  const sift = async (entries: readonly Delivered[]): Promise<Batch[]> => {
    const good: Batch[] = [];
    let turned_ms = performance.now();
    for (const entry of entries) {
      if (performance.now() - turned_ms >= TURN_MS) {
        await nextTurn();
        turned_ms = performance.now();
      }
      if (!verifyEntry(ring, STREAMS.audit, entry.fields)) {
        await bury(entry, "bad_signature");
        continue;
      }
      const events = sentEvents(entry.fields);
      if (events === undefined) await bury(entry, "malformed");
      else good.push({ entry, events });
    }
    return good;
  };

  /** One entry by itself, so that one that can't be kept takes no other along. Whether it is dealt with. */
  const handleAlone = async ({ entry, events }: Batch): Promise<boolean> => {
    try {
      await handle(events, true);
      return true;
    } catch (error) {
      if (!isOwnFault(error)) throw error;
      log.warn({ entry: entry.id, deliveries: entry.deliveries, error }, "an audit entry can't be kept");
      if (entry.deliveries >= options.max_deliveries) await bury(entry, "max_deliveries", error);
      return false; // what is buried is acknowledged already
    }
  };

  const onEntries = async (entries: readonly Delivered[]): Promise<readonly string[]> => {
    const good = await sift(entries);
    if (good.length === 0) return [];
    try {
      await handle(
        good.flatMap((one) => one.events),
        entries.length >= count,
      );
      return good.map((one) => one.entry.id);
    } catch (error) {
      if (!isOwnFault(error)) throw error;
    }
    const done: string[] = [];
    for (const one of good) if (await handleAlone(one)) done.push(one.entry.id);
    return done;
  };

  /** An outage is logged once. */
  let is_logged = false;
  const trimming = worker({
    name: "audit stream trim",
    every_ms: TRIM_EVERY_MS,
    tick: () => streams.trim(STREAMS.audit, undefined),
    onError: (error) => log.warn({ error }, "the audit stream can't be trimmed"),
  });

  return {
    name: "audit consumer",
    backlog: () => streams.backlog(STREAMS.audit, AUDIT_GROUP),
    dlqDepth: () => streams.length(dead),
    async start(failed) {
      subscription = await streams.consumeGroup({
        stream: STREAMS.audit,
        group: AUDIT_GROUP,
        consumer: options.consumer,
        count,
        claim_after_ms: options.claim_after_ms ?? CLAIM_AFTER_MS,
        ...(options.rest_ms === undefined ? {} : { rest_ms: options.rest_ms }),
        onEntries: async (entries) => {
          const done = await onEntries(entries);
          is_logged = false;
          return done;
        },
        onError: (error) => {
          if (!is_logged) log.error({ error }, "audit events can't be read or kept: they wait in the stream");
          is_logged = true;
        },
      });
      await trimming.start(failed);
    },
    async stop(deadline_ms) {
      await within(deadline_ms, subscription?.close());
      await trimming.stop(deadline_ms);
    },
  };
};

/**
 * Moves dead entries back to their stream, if their signature verifies. What is forged, or can't be appended, stays. An entry is
 * appended before it is removed: after a crash in between it is in both, and the ledger keeps an event once. Rejects with
 * `Unavailable`; what was moved by then stays moved.
 */
export const replayDead = async (options: {
  readonly streams: Streams;
  readonly ring: Keyring;
  /** The stream, not its dead letters. */
  readonly stream: string;
  /** Entries looked at, at most. */
  readonly limit: number;
}): Promise<{ readonly moved: number; readonly kept: number }> => {
  const { streams, ring, stream } = options;
  const dead = deadLetterOf(stream);
  let after = START;
  let moved = 0;
  let kept = 0;
  while (moved + kept < options.limit) {
    const entries = await streams.range(dead, after, Math.min(REPLAY_PAGE, options.limit - moved - kept));
    if (entries.length === 0) break;
    for (const entry of entries) {
      after = entry.id;
      // These two were added to the dead letter, and were not signed.
      const { _dead_id: _, _dead_reason: __, ...fields } = entry.fields;
      if (!verifyEntry(ring, stream, fields)) {
        kept += 1;
        continue;
      }
      await streams.append(stream, [fields]);
      await streams.remove(dead, [entry.id]);
      moved += 1;
    }
  }
  return { moved, kept };
};
