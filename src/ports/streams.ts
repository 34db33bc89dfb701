/** A stream entry: an id that grows along the stream, and flat string fields. */
export type Entry = { readonly id: string; readonly fields: Readonly<Record<string, string>> };

/** A place in a stream; `START` is before its first entry. Opaque but for being comparable by the adapter. */
export type Position = string;
export const START: Position = "0-0";

/** `age_ms`: from its append to its delivery to the reader, by the server's own clock. */
export type AgedEntry = Entry & { readonly age_ms: number };

export type Subscription = {
  /** Milliseconds (monotonic) of the last poll that succeeded, an empty one included; undefined before the first. */
  polledAt_ms(): number | undefined;
  /** Ends the reading; resolves when no handler runs any more. */
  close(): Promise<void>;
};

export type BroadcastOptions = {
  /** Who reads: its group is swept when this owner is gone. Unique per process and purpose. */
  readonly owner: string;
  /** Where to begin, per stream. */
  readonly from: Readonly<Record<string, Position>>;
  /** In the stream's order, one call at a time. A rejection is reported to `onError` and the entries come again. */
  readonly onEntries: (stream: string, entries: readonly AgedEntry[]) => Promise<void>;
  readonly onError: (error: unknown) => void;
};

export type GroupOptions = {
  readonly stream: string;
  readonly group: string;
  readonly consumer: string;
  /** Entries at most in one call. */
  readonly count: number;
  /** Takes over what another consumer has held for longer than this. */
  readonly claim_after_ms: number;
  /**
   * One call at a time. Returns the ids that are dealt with (they are acknowledged then); the others come again, with
   * `deliveries` one higher. A rejection acknowledges nothing.
   */
  readonly onEntries: (entries: readonly (Entry & { readonly deliveries: number })[]) => Promise<readonly string[]>;
  /**
   * How long to rest, in milliseconds, asked after each acknowledgement: what comes meanwhile is read together. `close`
   * ends a rest; a call that it finds under way ends first, and what that dealt with is acknowledged.
   */
  readonly rest_ms?: () => number;
  readonly onError: (error: unknown) => void;
};

/**
 * What a stream holds and how much more it can take, in bytes. `oldest_ms`: for how long its oldest entry that a group has not
 * acknowledged has been there, by the server's clock; 0 where none waits.
 */
export type StreamLoad = { readonly bytes: number; readonly room_bytes: number; readonly oldest_ms: number };

/**
 * Streams of unsigned entries; `src/streams/` puts signatures, sequence numbers and meaning on top.
 * Durability: what `append` resolved survives the process (Redis: as far as its persistence goes; memory: only the
 * streams that it was given a journal for, synced). Order: entries of one stream are read in the order of their append.
 * Failure: every call rejects with `Unavailable` when the server can't be reached within its timeout; reading goes on
 * by itself when it is back, from where it was.
 */
export type Streams = {
  /** Appends to one stream, all in one round trip and in this order; calls of one tick share it. Resolves to their ids. */
  append(stream: string, entries: readonly Readonly<Record<string, string>>[]): Promise<readonly string[]>;
  /** The id of the last entry, `START` where there is none. */
  position(stream: string): Promise<Position>;
  /** Every entry after `from`, to every subscriber (each has a consumer group of its own). Blocks 1 s at most a poll. */
  subscribeAll(options: BroadcastOptions): Promise<Subscription>;
  /** Each entry to one consumer of the group, at least once. */
  consumeGroup(options: GroupOptions): Promise<Subscription>;
  /**
   * Puts `entry` with `reason` into `to`, and only then acknowledges it in `stream` for `group` (undefined: a broadcast
   * reader, whose handler acknowledges): nothing is lost between the two. Of many readers of one entry the first puts it
   * there, the others find it done.
   */
  moveDead(stream: string, group: string | undefined, entry: Entry, to: string, reason: string): Promise<void>;
  /** The oldest `count` entries after `after`. */
  range(stream: string, after: Position, count: number): Promise<readonly Entry[]>;
  remove(stream: string, ids: readonly string[]): Promise<void>;
  length(stream: string): Promise<number>;
  /** Entries that `group` has not acknowledged yet, unread ones included. */
  backlog(stream: string, group: string): Promise<number>;
  load(stream: string, group: string): Promise<StreamLoad>;
  /**
   * Drops what every group has read and acknowledged and is older than `keep_ms`, and broadcast groups whose owner is
   * gone. A stream that has a consuming group, or may get one (`keep_ms` undefined), loses nothing that was not
   * acknowledged; a broadcast stream is bounded above, because its readers notice a hole and its truth is the database.
   */
  trim(stream: string, keep_ms: number | undefined): Promise<void>;
  /** Names the server's memory: changes when what was appended may have been lost (fail-over, restart). */
  identity(): Promise<string>;
};

/** A shared part (Redis, the STS) that could not be reached or did not answer in time. Callers fail closed. */
export class Unavailable extends Error {
  readonly part: string;
  constructor(part: string, cause?: unknown) {
    super(`${part} is unavailable`, cause === undefined ? undefined : { cause });
    this.name = "Unavailable";
    this.part = part;
  }
}
