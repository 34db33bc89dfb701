import type { Clock } from "../kernel/clock.ts";
import type { StreamLoad } from "../ports/streams.ts";

/** How full the stream may be before anybody is refused. */
const HIGH_WATER = 0.75;
/** At the high water, who holds so much of the stream is refused; the fuller it is, the less is allowed, and nothing at the end. */
const LARGEST_SHARE = 0.5;
/** After so much was appended the stream is looked at, and at once: it does not become full between two looks. */
const LOOK_AFTER_BYTES = 1024 * 1024;
/** Spans of time that are told apart; two old ones become one. */
const MAX_SPANS = 64;

/** What was appended until `ended_ms`, by zone. */
type Span = { ended_ms: number; readonly bytes: Map<string, number> };

/**
 * How much of the audit stream each zone fills, as far as this process appended it: what it appended, less what was
 * acknowledged. It asks how full the stream is only once there is something to ask for.
 */
export type StreamShares = {
  appended(zone_id: string, bytes: number): void;
  /** Whether enough was appended since the last look for another. */
  readonly unseen: boolean;
  /** Whether the stream was near full at the last look. */
  readonly near_full: boolean;
  looked(load: StreamLoad): void;
  /** Whether the stream is near full and the zone has more than its share of it. */
  isOver(zone_id: string): boolean;
};

export const createStreamShares = (clock: Clock): StreamShares => {
  let spans: Span[] = [];
  let open = new Map<string, number>();
  let unseen_bytes = 0;
  let totals = new Map<string, number>();
  /** Bytes of the stream that one zone may hold. */
  let most_bytes = Infinity;

  const add = (to: Map<string, number>, zone_id: string, bytes: number): void => {
    to.set(zone_id, (to.get(zone_id) ?? 0) + bytes);
  };

  return {
    appended(zone_id, bytes) {
      add(open, zone_id, bytes);
      add(totals, zone_id, bytes);
      unseen_bytes += bytes;
    },
    get unseen() {
      return unseen_bytes >= LOOK_AFTER_BYTES;
    },
    get near_full() {
      return most_bytes !== Infinity;
    },
    looked({ bytes, room_bytes, oldest_ms }) {
      const now_ms = clock.monotonic_ms();
      if (open.size > 0) spans.push({ ended_ms: now_ms, bytes: open });
      open = new Map();
      unseen_bytes = 0;
      // Entries are read in their order: what was appended before the oldest one that waits is in the ledger.
      spans = spans.filter((span) => span.ended_ms >= now_ms - oldest_ms);
      if (spans.length > MAX_SPANS) {
        const [first, second] = spans.splice(0, 2) as [Span, Span];
        for (const [zone_id, held] of first.bytes) add(second.bytes, zone_id, held);
        spans.unshift(second);
      }
      totals = new Map();
      for (const span of spans) for (const [zone_id, held] of span.bytes) add(totals, zone_id, held);
      const fullness = bytes / Math.max(1, bytes + room_bytes);
      most_bytes = fullness < HIGH_WATER ? Infinity : (bytes * LARGEST_SHARE * (1 - fullness)) / (1 - HIGH_WATER);
    },
    isOver: (zone_id) => most_bytes !== Infinity && (totals.get(zone_id) ?? 0) > most_bytes,
  };
};
