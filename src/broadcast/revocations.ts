import type { RevocationPage } from "../contracts/sts.ts";
import { STREAMS } from "../contracts/streams.ts";
import type { Keyring } from "../domain/keyring.ts";
import { REVOCABLE_KINDS, type RevocableKind, type RevocationEvent, type Revocations } from "../domain/revocation.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { type Service, worker } from "../kernel/service.ts";
import type { Streams } from "../ports/streams.ts";
import { type AnomalyKind, createFeed, type FeedSnapshot } from "./feed.ts";
import { createMarkSet, type MarkSet } from "./mark-set.ts";
import type { Message } from "./sequence.ts";

export type RevocationsOptions = {
  readonly streams: Streams;
  readonly ring: Keyring;
  /** Unique per process and purpose: `gateway:{instance_id}`. */
  readonly owner: string;
  /** The STS's snapshot, page by page: the first page's `position` was taken before any page was read. */
  readonly loadSnapshot: (cursor: string | undefined) => Promise<RevocationPage>;
  readonly clock: Clock;
  readonly log: Log;
  readonly onAnomaly?: (kind: AnomalyKind, stream: string, detail: string) => void;
};

/** `fault`: what keeps it from being ready, in a few words; undefined when it is. */
export type RevocationService = Revocations & Service & { fault(): string | undefined };

/** Pages of one snapshot: a source that never ends must not be read for ever. */
const MAX_PAGES = 10_000;
const SWEEP_EVERY_MS = 1000;
const SWEEP_COUNT = 5000;

const isKind = (text: string | undefined): text is RevocableKind =>
  (REVOCABLE_KINDS as readonly (string | undefined)[]).includes(text);

const eventOf = (message: Message): RevocationEvent | undefined => {
  const { op, kind, id, expires_at } = message.fields;
  const seconds = Number(expires_at);
  if ((op !== "revoke" && op !== "resume") || !isKind(kind) || id === undefined || !Number.isFinite(seconds))
    return undefined;
  return { op, kind, id, expires_at: seconds, zone_id: message.zone_id };
};

/**
 * The marks of everything revoked, from the STS's snapshot and the stream after it. After a hole, the marks from before it are
 * enforced beside those of the new snapshot, until a head shows that nothing is missing. What was resumed meanwhile is refused
 * for a moment: that is the lesser fault.
 */
export const createRevocations = (options: RevocationsOptions): RevocationService => {
  const { clock, log } = options;
  const events = new Set<(event: RevocationEvent) => void>();
  const snapshots = new Set<() => void>();
  let marks = createMarkSet();
  /** The marks from before a hole. Held while no head has matched since; this guarantees that no mark is ever missing. */
  let before: MarkSet | undefined;

  const snapshot = async (signal: AbortSignal): Promise<FeedSnapshot> => {
    const fresh = createMarkSet();
    const seqs = new Map<string, number>();
    let position: string | undefined;
    let at_ms: number | undefined;
    let cursor: string | undefined;
    let pages = 0;
    do {
      if (pages === MAX_PAGES) throw new Error(`the snapshot of revocations has more than ${MAX_PAGES} pages`);
      pages += 1;
      const page = await options.loadSnapshot(cursor);
      signal.throwIfAborted();
      position ??= page.position;
      at_ms ??= page.at_ms;
      for (const zone of page.zones) {
        // A zone on two pages was read twice. The stream brings what happened in between, from the earlier number on.
        seqs.set(zone.zone_id, Math.min(zone.seq, seqs.get(zone.zone_id) ?? Infinity));
        for (const mark of zone.marks) fresh.add(zone.zone_id, mark.kind, mark.id, mark.expires_at);
      }
      cursor = page.cursor;
    } while (cursor !== undefined);
    if (before === undefined) before = marks;
    else before.addAll(marks); // a second snapshot before a head: what was enforced stays so
    marks = fresh;
    for (const changed of snapshots) changed();
    return { position, seqs, at_ms };
  };

  const feed = createFeed({
    streams: options.streams,
    ring: options.ring,
    owner: options.owner,
    topics: [STREAMS.revoke],
    clock,
    log,
    snapshot,
    onMatch: () => {
      before = undefined;
    },
    onMessage: (message) => {
      const event = eventOf(message);
      if (event === undefined) {
        log.error(
          { stream: message.stream, zone_id: message.zone_id, seq: message.seq },
          "a signed revocation can't be read: this build is older than its writer",
        );
        options.onAnomaly?.("malformed", message.stream, `zone ${message.zone_id}, number ${message.seq}`);
        return;
      }
      if (event.op === "revoke") {
        marks.add(event.zone_id, event.kind, event.id, event.expires_at);
      } else {
        marks.remove(event.zone_id, event.kind, event.id);
        before?.remove(event.zone_id, event.kind, event.id);
      }
      for (const changed of events) changed(event);
    },
    ...(options.onAnomaly === undefined ? {} : { onAnomaly: options.onAnomaly }),
  });

  const began = { wall_ms: clock.now_ms(), monotonic_ms: clock.monotonic_ms() };
  /**
   * Marks end by the lesser of the wall clock and the time since the start. If a wall clock was set forward, marks would be
   * forgotten whose tokens are valid again once it is set back.
   */
  const forgetting_ms = (): number =>
    Math.min(clock.now_ms(), began.wall_ms + clock.monotonic_ms() - began.monotonic_ms);

  const sweeper = worker({
    name: "revocation sweep",
    every_ms: SWEEP_EVERY_MS,
    tick: async () => marks.sweep(forgetting_ms() / 1000, SWEEP_COUNT),
    onError: (error) => log.error({ error }, "expired revocations can't be forgotten"),
  });

  return {
    name: `revocations ${options.owner}`,
    revoked: (zone_id, kind, id) => marks.has(zone_id, kind, id) || (before?.has(zone_id, kind, id) ?? false),
    age_ms: feed.age_ms,
    get size() {
      return marks.size;
    },
    onEvent(changed) {
      events.add(changed);
      return () => events.delete(changed);
    },
    onSnapshot(changed) {
      snapshots.add(changed);
      return () => snapshots.delete(changed);
    },
    fault: feed.fault,
    async start(failed) {
      await feed.start(failed);
      await sweeper.start(failed);
    },
    async stop(deadline_ms) {
      await Promise.all([feed.stop(deadline_ms), sweeper.stop(deadline_ms)]);
    },
  };
};
