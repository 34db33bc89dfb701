import { deadLetterOf, OUTBOX_STREAMS, type OutboxStream, STREAMS } from "../contracts/streams.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { type Worker, within, worker } from "../kernel/service.ts";
import type { Database, Transaction } from "../ports/database.ts";
import type { Held, Lease } from "../ports/lease.ts";
import { type Streams, Unavailable } from "../ports/streams.ts";
import { type Fields, signEntry } from "./envelope.ts";
import {
  deleteSent,
  markDead,
  markFailed,
  markSent,
  OUTBOX_CHANNEL,
  type OutboxRow,
  readPending,
  readSent,
  type StreamTotal,
} from "./outbox-store.ts";
import { headFields, messageFields } from "./sequence.ts";

export type DispatcherOptions = {
  readonly db: Database;
  readonly lease: Lease;
  readonly streams: Streams;
  readonly ring: Keyring;
  readonly clock: Clock;
  readonly log: Log;
  /** Rows that were sent. */
  readonly onSent?: (stream: string, count: number) => void;
  /** Rows that were given up. */
  readonly onDead?: (stream: string, count: number) => void;
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

const LEASE = "outbox";
/** Short enough that, after a holder's death, heads come again well within the 10 s that readers go without. */
const LEASE_TTL_MS = 4000;
const LEASE_RENEW_MS = 1000;
const POLL_MS = 200;
const HEAD_MS = 2000;
/** A total that is older than this when it could be appended says too little about now. */
const HEAD_FRESH_MS = 1000;
const BATCH = 500;
/** After so many, about six minutes in all, a row is given up: it has a fault that time does not mend. */
const ATTEMPTS_MAX = 10;
const RETRY_MAX_S = 60;
/** What is sent again after the streams' memory was lost, and therefore also how long streams keep what was read. */
const AGAIN_S = 600;
const KEEP_SENT_S = 7 * 86_400;
const DELETE_BATCH = 1000;
const HOUSEKEEPING_MS = 15_000;
/** How long a committed revocation waits for the lease's holder before another process appends it, too. */
const RELAY_AFTER_MS = 250;
/** How long the database may take to say what the holder has left lying, before what this process knows goes out unasked. */
const RELAY_ASK_MS = 250;
/** Revocations of this process that may wait to be seen sent; beyond it the database's word alone is waited for. */
const COMMITTED_MAX = 10_000;

/** Revocations wait for nothing but revocations. */
const LANES: readonly (readonly OutboxStream[])[] = [
  [STREAMS.revoke],
  OUTBOX_STREAMS.filter((stream) => stream !== STREAMS.revoke),
];

type Signed = { readonly row: OutboxRow; readonly fields: Fields };
type Failed = { readonly row: OutboxRow; readonly error: string };

const isFlatText = (value: unknown): value is Fields =>
  typeof value === "object" &&
  value !== null &&
  !Array.isArray(value) &&
  Object.values(value).every((one) => typeof one === "string");

const byStream = <T>(items: readonly T[], streamOf: (item: T) => string): Map<string, T[]> => {
  const out = new Map<string, T[]>();
  for (const item of items) {
    const list = out.get(streamOf(item));
    if (list === undefined) out.set(streamOf(item), [item]);
    else list.push(item);
  }
  return out;
};

/**
 * Crash states. Before the append: the row waits, the next holder sends it. Between append and mark: it is sent twice,
 * and readers, who know its number, ignore the second. Two holders at once (one was stopped and believes in its lease):
 * both append, the numbers sort it out, and only the true holder can mark, because the lease is checked in that
 * transaction. An old holder's late head counts too little, and readers do not take that for a match.
 */
export const createDispatcher = (options: DispatcherOptions): Dispatcher => {
  const { db, lease, streams, ring, clock, log } = options;
  let held: Held | undefined;
  let held_until_ms = -Infinity;
  let unlisten: (() => Promise<void>) | undefined;

  /** Revocations that this process committed and of which it does not know yet that they were sent, by the row's id. */
  const committed = new Map<number, OutboxRow>();

  const leads = (): boolean => held !== undefined && clock.monotonic_ms() < held_until_ms;

  /**
   * Who can't reach the streams must not lead, however well it reaches the database: nobody else would send meanwhile, and
   * without heads every reader ends up refusing. The lease goes to who can, at once where it can still be given back.
   */
  const renew = async (): Promise<void> => {
    const asked_ms = clock.monotonic_ms();
    const before = held;
    try {
      await streams.identity();
    } catch (error) {
      held = undefined;
      held_until_ms = -Infinity;
      if (before !== undefined) await lease.release(before);
      throw error;
    }
    held = await lease.acquire(LEASE, LEASE_TTL_MS);
    held_until_ms = asked_ms + LEASE_TTL_MS;
    if (held !== undefined && before?.fence !== held.fence) {
      log.info({ fence: held.fence }, "this process sends the outbox");
      for (const lane of lanes) lane.begin();
      wake(); // readers wait for the first head
    }
  };

  /** Writes what came of rows, if the lease is still ours. */
  const note = async (holder: Held, write: (tx: Transaction) => Promise<void>): Promise<void> => {
    await db.sql.begin(async (tx) => {
      await lease.hold(tx, holder);
      await write(tx);
    });
  };

  const sign = (row: OutboxRow): Signed | Failed => {
    try {
      const fields: unknown = JSON.parse(row.fields_json);
      if (!isFlatText(fields)) throw new TypeError("the row's fields are not flat text");
      return { row, fields: signEntry(ring, row.stream, messageFields(fields, { ...row, outbox_id: row.id })) };
    } catch (error) {
      return { row, error: error instanceof Error ? error.message : String(error) };
    }
  };

  /** A row that can't be sent for a fault of its own. What is behind it in its zone waits, until it goes or is given up. */
  const fail = async (holder: Held, { row, error }: Failed): Promise<void> => {
    const attempts = row.attempts + 1;
    const facts = { stream: row.stream, zone_id: row.zone_id, seq: row.seq, outbox_id: row.id, attempts, error };
    if (attempts < ATTEMPTS_MAX) {
      log.warn(facts, "an outbox row can't be sent");
      await note(holder, (tx) => markFailed(tx, row.id, Math.min(2 ** row.attempts, RETRY_MAX_S), error));
      return;
    }
    // In the dead letters first: a crash in between buries it twice, the other order might not bury it at all.
    await streams.append(deadLetterOf(row.stream), [
      {
        zone_id: row.zone_id,
        seq: String(row.seq),
        outbox_id: String(row.id),
        fields_json: row.fields_json,
        _dead_reason: error,
      },
    ]);
    await note(holder, (tx) => markDead(tx, row.id, error));
    options.onDead?.(row.stream, 1);
    log.error(
      facts,
      row.stream === STREAMS.revoke
        ? "a revocation was given up: readers take it from the database"
        : "an outbox row was given up",
    );
  };

  /** Appends, then marks. Rejects with `Unavailable` where the streams are away, which is no fault of any row. */
  const send = async (holder: Held, rows: readonly OutboxRow[]): Promise<void> => {
    const stopped = new Set<string>();
    const good: Signed[] = [];
    const bad: Failed[] = [];
    for (const row of rows) {
      const line = `${row.stream}\0${row.zone_id}`;
      if (stopped.has(line)) continue; // behind a failed one of its zone
      const signed = sign(row);
      if ("error" in signed) {
        stopped.add(line);
        bad.push(signed);
      } else {
        good.push(signed);
      }
    }
    for (const [stream, list] of byStream(good, (one) => one.row.stream)) {
      await streams.append(
        stream,
        list.map((one) => one.fields),
      );
      for (const one of list) committed.delete(one.row.id);
      options.onSent?.(stream, list.length);
    }
    if (good.length > 0)
      await note(holder, (tx) =>
        markSent(
          tx,
          good.map((one) => one.row.id),
        ),
      );
    for (const one of bad) await fail(holder, one);
  };

  const sendHeads = async (totals: readonly StreamTotal[], at_ms: number): Promise<void> => {
    await Promise.all(
      totals.map(({ stream, total, zones }) =>
        streams.append(stream, [signEntry(ring, stream, headFields({ total, zones, at_ms }))]),
      ),
    );
  };

  const createLane = (topics: readonly OutboxStream[]) => {
    /** The streams' memory that holds what we have sent; another one, or a new term of office: the last minutes again. */
    let identity: string | undefined;
    let head_ms = -Infinity;

    const sendAgain = async (): Promise<void> => {
      const found = await streams.identity();
      if (found === identity) return;
      let after = 0;
      for (;;) {
        const rows = await readSent(db.sql, topics, AGAIN_S, after, BATCH);
        const good = rows.map(sign).filter((one): one is Signed => !("error" in one));
        for (const [stream, list] of byStream(good, (one) => one.row.stream))
          await streams.append(
            stream,
            list.map((one) => one.fields),
          );
        if (rows.length < BATCH) break;
        after = (rows.at(-1) as OutboxRow).id;
      }
      identity = found;
    };

    const round = async (): Promise<void> => {
      const holder = held;
      if (holder === undefined || !leads()) return;
      const head_due = clock.monotonic_ms() - head_ms >= HEAD_MS;
      if (head_due) await sendAgain();
      for (;;) {
        if (!leads()) return;
        const read_ms = clock.monotonic_ms();
        const { rows, totals, at_ms } = await readPending(db.sql, topics, BATCH);
        if (rows.length > 0) await send(holder, rows);
        if (rows.length === BATCH) continue; // more wait: a total now would count what was not sent
        if (head_due && clock.monotonic_ms() - read_ms < HEAD_FRESH_MS && leads()) {
          await sendHeads(totals, at_ms);
          head_ms = read_ms;
        }
        return;
      }
    };

    let told = false;
    const work = worker({
      name: `outbox ${topics.join(" ")}`,
      every_ms: POLL_MS,
      tick: async () => {
        await round();
        told = false;
      },
      onError: (error) => {
        if (!told) log.warn({ topics, error, away: error instanceof Unavailable }, "the outbox can't be sent"); // once per outage
        told = true;
      },
    });
    return {
      ...work,
      begin: () => {
        identity = undefined;
        head_ms = -Infinity;
      },
    };
  };
  const lanes = LANES.map(createLane);

  const renewing = worker({
    name: "outbox lease",
    every_ms: LEASE_RENEW_MS,
    tick: renew,
    onError: (error) => log.warn({ error }, "the outbox's lease can't be had"),
  });

  const keepHouse = async (): Promise<void> => {
    const holder = held;
    if (holder === undefined || !leads()) return;
    for (const stream of OUTBOX_STREAMS) await streams.trim(stream, AGAIN_S * 1000);
    let gone = 0;
    do {
      await note(holder, async (tx) => {
        gone = await deleteSent(tx, KEEP_SENT_S, DELETE_BATCH);
      });
    } while (gone === DELETE_BATCH && leads());
  };
  const housekeeping = worker({
    name: "outbox housekeeping",
    every_ms: HOUSEKEEPING_MS,
    tick: keepHouse,
    onError: (error) => log.warn({ error }, "old outbox rows or stream entries can't be dropped"),
  });

  /** What waits to be sent; undefined where the database does not say so in time. */
  const leftLying = async (): Promise<readonly OutboxRow[] | undefined> => {
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

  /**
   * A holder that died or was stopped keeps its lease for seconds, and a revocation can't wait for that. Whoever hears of
   * the commit appends what the holder has left lying, without marking it: readers know a number that comes twice.
   * Nor can it wait for a database that stopped behind the commit, whose heads may be missed for 10 s: whoever committed
   * appends what it knows. A number before it that lies in that database is a hole for readers, who act on it all the same.
   */
  const relay = async (): Promise<void> => {
    relaying = undefined;
    const own = [...committed.values()];
    const lying = leads() ? undefined : await leftLying();
    if (lying !== undefined) for (const row of own) committed.delete(row.id); // sent by the holder, or among these
    const rows = lying ?? own.filter((row) => committed.has(row.id));
    for (const row of rows) committed.delete(row.id);
    const good = rows.map(sign).filter((one): one is Signed => !("error" in one));
    if (good.length === 0) return;
    await streams.append(
      STREAMS.revoke,
      good.map((one) => one.fields),
    );
    log.warn({ rows: good.length }, "the outbox is late; its revocations were sent past it");
  };

  let relaying: NodeJS.Timeout | undefined;
  const wake = (rows: readonly OutboxRow[] = []): void => {
    for (const row of rows) {
      if (row.stream === STREAMS.revoke && committed.size < COMMITTED_MAX) committed.set(row.id, row);
    }
    if (leads()) for (const lane of lanes) lane.wake();
    if (leads() && committed.size === 0) return;
    relaying ??= setTimeout(() => {
      relay().catch((error: unknown) => log.warn({ error }, "a late revocation can't be sent yet"));
    }, RELAY_AFTER_MS);
  };

  return {
    name: "outbox dispatcher",
    leads,
    wake,
    async start(failed) {
      // Where it can't be listened to, the poll finds every row all the same.
      unlisten = await db.listen(OUTBOX_CHANNEL, () => wake()).catch(() => undefined);
      for (const one of [renewing, ...lanes, housekeeping]) await one.start(failed);
    },
    /** One round of everything, for tests: the lease, both lanes, the housekeeping. */
    async tick() {
      await renew();
      for (const lane of lanes) await lane.tick();
      await keepHouse();
    },
    async stop(deadline_ms) {
      clearTimeout(relaying);
      await Promise.all([renewing, ...lanes, housekeeping].map((one) => one.stop(deadline_ms)));
      await unlisten?.().catch(() => undefined);
      // What was committed just before the end is sent by whoever comes next, at once.
      if (held !== undefined) await lease.release(held).catch(() => undefined);
      held = undefined;
    },
  };
};
