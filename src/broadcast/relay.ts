import { STREAMS } from "../contracts/streams.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Log } from "../kernel/log.ts";
import { createModes } from "../kernel/modes.ts";
import { within } from "../kernel/service.ts";
import type { Database } from "../ports/database.ts";
import type { Streams } from "../ports/streams.ts";
import { appendUnmarked } from "./lane.ts";
import type { Leadership } from "./leadership.ts";
import { type OutboxRow, readPending } from "./outbox-store.ts";

export type RelayOptions = {
  readonly db: Database;
  readonly streams: Streams;
  readonly ring: Keyring;
  readonly log: Log;
  readonly leadership: Leadership;
};

/** Sends revocations that the lease's holder does not send in time. Every process has one. */
export type Relay = {
  /** Rows were committed; `rows` by this process. */
  committed(rows: readonly OutboxRow[]): void;
  /** Rows are in the stream. */
  sent(rows: readonly OutboxRow[]): void;
  stop(): void;
};

/** How long a committed revocation waits for the lease's holder before another process appends it, too. */
const RELAY_AFTER_MS = 250;
/** How long the database may take to say what waits. After that, this process sends what it committed itself. */
const RELAY_ASK_MS = 250;
/** Revocations of this process that are not known to be sent, at most. Those beyond it wait for the database alone. */
const COMMITTED_MAX = 10_000;
const BATCH = 500;

/**
 * A holder that died or was stopped keeps its lease for seconds, and a revocation can't wait for that. So whoever hears of a
 * commit looks a quarter of a second later, and appends what still waits. It marks nothing: readers know a number that
 * comes twice. A database may also stop after the commit, and readers may miss its heads for 10 s. The process that
 * committed then appends what it knows. Readers see a hole if an earlier number lies in that database, and act all the same.
 *
 * Modes:
 *
 *   idle → armed    something was committed: the timer runs
 *   armed → idle    the timer has run out: what still waits is appended
 *   idle → ended, armed → ended    `stop`: nothing is appended any more
 */
export const createRelay = (options: RelayOptions): Relay => {
  const { db, streams, ring, log, leadership } = options;
  /** Revocations that this process committed. A row is held until it is in the stream, or the database knows it; no longer. */
  const own = new Map<number, OutboxRow>();
  const mode = createModes(
    "the relay of revocations",
    { idle: ["armed", "ended"], armed: ["idle", "ended"], ended: ["ended"] },
    "idle",
  );
  let timer: NodeJS.Timeout | undefined;

  /** What waits to be sent; undefined where the database does not say so in time. */
  const waiting = async (): Promise<readonly OutboxRow[] | undefined> => {
    let found: readonly OutboxRow[] | undefined;
    const asked = readPending(db.sql, [STREAMS.revoke], BATCH).then(
      ({ rows }) => {
        found = rows;
      },
      () => undefined,
    );
    await within(RELAY_ASK_MS, asked);
    return found;
  };

  const forget = (rows: readonly OutboxRow[]): void => {
    for (const { id } of rows) own.delete(id);
  };

  const relay = async (): Promise<void> => {
    const known = [...own.values()];
    const found = leadership.term() === undefined ? await waiting() : undefined;
    // What the database was asked after was sent by the holder, or is among what it found. Else what is still ours goes.
    const rows = found ?? known.filter((row) => own.has(row.id));
    forget([...known, ...rows]);
    const count = await appendUnmarked(streams, ring, rows);
    if (count > 0) log.warn({ rows: count }, "the outbox is late; its revocations were sent past it");
  };

  return {
    committed(rows) {
      for (const row of rows) {
        if (row.stream === STREAMS.revoke && own.size < COMMITTED_MAX) own.set(row.id, row);
      }
      if (leadership.term() !== undefined && own.size === 0) return;
      if (mode.now !== "idle") return;
      mode.go("armed");
      timer = setTimeout(() => {
        mode.go("idle");
        relay().catch((error: unknown) => log.warn({ error }, "a late revocation can't be sent yet"));
      }, RELAY_AFTER_MS);
    },
    sent: forget,
    stop() {
      mode.go("ended");
      clearTimeout(timer);
    },
  };
};
