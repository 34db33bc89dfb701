import { OUTBOX_STREAMS, type OutboxStream, STREAMS } from "../contracts/streams.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { type Worker, worker } from "../kernel/service.ts";
import type { Database } from "../ports/database.ts";
import type { Lease } from "../ports/lease.ts";
import type { Streams } from "../ports/streams.ts";
import { AGAIN_S, createLane } from "./lane.ts";
import { createLeadership } from "./leadership.ts";
import { deleteSent, OUTBOX_CHANNEL, type OutboxRow } from "./outbox-store.ts";
import { createRelay } from "./relay.ts";

export type DispatcherOptions = {
  readonly db: Database;
  readonly lease: Lease;
  readonly streams: Streams;
  readonly ring: Keyring;
  readonly clock: Clock;
  readonly log: Log;
};

/** Sends the outbox. One per process; of all of them the holder of the lease `outbox` works. */
export type Dispatcher = Worker & {
  /**
   * A hint that rows were committed. With `rows`, those that this process has just committed: its revocations among them
   * go out even where the database answers to nobody any more.
   */
  wake(rows?: readonly OutboxRow[]): void;
  /** Whether this process sends now. */
  leads(): boolean;
};

const LEASE_RENEW_MS = 1000;
const KEEP_SENT_S = 7 * 86_400;
const DELETE_BATCH = 1000;
const HOUSEKEEPING_MS = 15_000;

/** Revocations wait for nothing but revocations. */
const LANES: readonly (readonly OutboxStream[])[] = [
  [STREAMS.revoke],
  OUTBOX_STREAMS.filter((stream) => stream !== STREAMS.revoke),
];

/**
 * Crash states. Before the append: the row waits, and the next holder sends it. Between append and mark: it is sent twice,
 * and readers, who know its number, ignore the second. Two holders at once (one was stopped and believes in its lease):
 * both append, and the numbers sort it out. Only the true holder can mark, because the lease is checked in that transaction.
 * An old holder's late head counts too little, and readers do not take that for a match.
 */
export const createDispatcher = (options: DispatcherOptions): Dispatcher => {
  const { db, streams, log } = options;
  let unlisten: (() => Promise<void>) | undefined;

  const leadership = createLeadership({
    ...options,
    onTerm: () => {
      for (const lane of lanes) lane.begin();
      wake(); // readers wait for the first head
    },
  });
  const relay = createRelay({ ...options, leadership });
  const lanes = LANES.map((topics) =>
    createLane({ ...options, leadership, onSent: (rows) => relay.sent(rows) }, topics),
  );

  const wake = (rows: readonly OutboxRow[] = []): void => {
    relay.committed(rows);
    if (leadership.term() !== undefined) for (const lane of lanes) lane.wake();
  };

  const renewing = worker({
    name: "outbox lease",
    every_ms: LEASE_RENEW_MS,
    tick: () => leadership.renew(),
    onError: (error) => log.warn({ error }, "the outbox's lease can't be had"),
  });

  const keepHouse = async (): Promise<void> => {
    const term = leadership.term();
    if (term === undefined) return;
    for (const stream of OUTBOX_STREAMS) await streams.trim(stream, AGAIN_S * 1000);
    let gone = 0;
    do {
      await leadership.note(term, async (tx) => {
        gone = await deleteSent(tx, KEEP_SENT_S, DELETE_BATCH);
      });
    } while (gone === DELETE_BATCH && leadership.term() !== undefined);
  };
  const housekeeping = worker({
    name: "outbox housekeeping",
    every_ms: HOUSEKEEPING_MS,
    tick: keepHouse,
    onError: (error) => log.warn({ error }, "old outbox rows or stream entries can't be dropped"),
  });
  const workers = [renewing, ...lanes, housekeeping];

  return {
    name: "outbox dispatcher",
    leads: () => leadership.term() !== undefined,
    wake,
    async start(failed) {
      // Where it can't be listened to, the poll finds every row all the same.
      unlisten = await db.listen(OUTBOX_CHANNEL, () => wake()).catch(() => undefined);
      for (const one of workers) await one.start(failed);
    },
    /** One round of everything, for tests: the lease, both lanes, the housekeeping. */
    async tick() {
      await leadership.renew();
      for (const lane of lanes) await lane.tick();
      await keepHouse();
    },
    async stop(deadline_ms) {
      relay.stop();
      await Promise.all(workers.map((one) => one.stop(deadline_ms)));
      await unlisten?.().catch(() => undefined);
      // What was committed just before the end is sent by whoever leads next.
      await leadership.resign();
    },
  };
};
