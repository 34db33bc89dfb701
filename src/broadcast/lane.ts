import { deadLetterOf, type OutboxStream, STREAMS } from "../contracts/streams.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { type Worker, worker } from "../kernel/service.ts";
import type { Database } from "../ports/database.ts";
import type { Held } from "../ports/lease.ts";
import { type Streams, Unavailable } from "../ports/streams.ts";
import { type Fields, signEntry } from "./envelope.ts";
import type { Leadership } from "./leadership.ts";
import {
  markDead,
  markFailed,
  markSent,
  type OutboxRow,
  readPending,
  readSent,
  type StreamTotal,
} from "./outbox-store.ts";
import { headFields, messageFields } from "./sequence.ts";

export type LaneOptions = {
  readonly db: Database;
  readonly streams: Streams;
  readonly ring: Keyring;
  readonly clock: Clock;
  readonly log: Log;
  readonly leadership: Leadership;
  /** These rows are in the stream. */
  readonly onSent: (rows: readonly OutboxRow[]) => void;
};

/** Sends the rows of some streams, in order, and their heads. No lane waits for another. */
export type Lane = Worker & {
  wake(): void;
  /** A term begins: the last minutes are sent again, and a head is due. */
  begin(): void;
};

const POLL_MS = 200;
const HEAD_MS = 2000;
/** A total that is older than this when it could be appended says too little about now. */
const HEAD_FRESH_MS = 1000;
const BATCH = 500;
/** After so many attempts, about six minutes in all, a row is given up: it has a fault that time does not mend. */
const ATTEMPTS_MAX = 10;
const RETRY_MAX_S = 60;
/** What is sent again after the streams' memory was lost, and therefore also how long streams keep what was read. */
export const AGAIN_S = 600;

type Signed = { readonly row: OutboxRow; readonly fields: Fields };
type Failed = { readonly row: OutboxRow; readonly error: string };

const isFlatText = (value: unknown): value is Fields =>
  typeof value === "object" &&
  value !== null &&
  !Array.isArray(value) &&
  Object.values(value).every((one) => typeof one === "string");

const sign = (ring: Keyring, row: OutboxRow): Signed | Failed => {
  try {
    const fields: unknown = JSON.parse(row.fields_json);
    if (!isFlatText(fields)) throw new TypeError("the row's fields are not flat text");
    return { row, fields: signEntry(ring, row.stream, messageFields(fields, { ...row, outbox_id: row.id })) };
  } catch (error) {
    return { row, error: error instanceof Error ? error.message : String(error) };
  }
};

const isSigned = (one: Signed | Failed): one is Signed => "fields" in one;

const append = async (streams: Streams, signed: readonly Signed[]): Promise<void> => {
  const by_stream = new Map<string, Fields[]>();
  for (const { row, fields } of signed) {
    const list = by_stream.get(row.stream);
    if (list === undefined) by_stream.set(row.stream, [fields]);
    else list.push(fields);
  }
  for (const [stream, list] of by_stream) await streams.append(stream, list);
};

/**
 * Appends rows without marking them: readers know a number that comes twice. Rows that can't be signed are left out.
 * Resolves to how many were appended; rejects with `Unavailable`.
 */
export const appendUnmarked = async (streams: Streams, ring: Keyring, rows: readonly OutboxRow[]): Promise<number> => {
  const good = rows.map((row) => sign(ring, row)).filter(isSigned);
  await append(streams, good);
  return good.length;
};

export const createLane = (options: LaneOptions, topics: readonly OutboxStream[]): Lane => {
  const { db, streams, ring, clock, log, leadership } = options;
  /**
   * The streams' memory that holds what was sent. Set only after the last minutes were sent again to it; this guarantees that
   * neither a new term nor a memory that was lost leaves readers without them.
   */
  let identity: string | undefined;
  /** When the totals of the last head were read. */
  let head_ms = -Infinity;
  /** An outage is logged once. */
  let is_logged = false;

  /** A row that can't be sent for a fault of its own. The rows after it in its zone wait until it is sent or given up. */
  const fail = async (term: Held, { row, error }: Failed): Promise<void> => {
    const attempts = row.attempts + 1;
    const facts = { stream: row.stream, zone_id: row.zone_id, seq: row.seq, outbox_id: row.id, attempts, error };
    if (attempts < ATTEMPTS_MAX) {
      log.warn(facts, "an outbox row can't be sent");
      await leadership.note(term, (tx) => markFailed(tx, row.id, Math.min(2 ** row.attempts, RETRY_MAX_S), error));
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
    await leadership.note(term, (tx) => markDead(tx, row.id, error));
    log.error(
      facts,
      row.stream === STREAMS.revoke
        ? "a revocation was given up: readers take it from the database"
        : "an outbox row was given up",
    );
  };

  /** Appends, then marks. Rejects with `Unavailable` where the streams are away, which is no fault of any row. */
  const send = async (term: Held, rows: readonly OutboxRow[]): Promise<void> => {
    const held_up = new Set<string>();
    const good: Signed[] = [];
    const bad: Failed[] = [];
    for (const row of rows) {
      const line = `${row.stream}\0${row.zone_id}`;
      if (held_up.has(line)) continue; // a row before it in its zone failed
      const signed = sign(ring, row);
      if (isSigned(signed)) {
        good.push(signed);
      } else {
        held_up.add(line);
        bad.push(signed);
      }
    }
    if (good.length > 0) {
      await append(streams, good);
      options.onSent(good.map((one) => one.row));
      const ids = good.map((one) => one.row.id);
      await leadership.note(term, (tx) => markSent(tx, ids));
    }
    for (const one of bad) await fail(term, one);
  };

  const sendHeads = async (totals: readonly StreamTotal[], at_ms: number): Promise<void> => {
    await Promise.all(
      totals.map(({ stream, total, zones }) =>
        streams.append(stream, [signEntry(ring, stream, headFields({ total, zones, at_ms }))]),
      ),
    );
  };

  /** Sends the last minutes again where the streams' memory is another one than what was sent went to. */
  const sendAgain = async (): Promise<void> => {
    const found = await streams.identity();
    if (found === identity) return;
    let after = 0;
    for (;;) {
      const rows = await readSent(db.sql, topics, AGAIN_S, after, BATCH);
      await appendUnmarked(streams, ring, rows);
      if (rows.length < BATCH) break;
      after = (rows.at(-1) as OutboxRow).id;
    }
    identity = found;
  };

  const round = async (): Promise<void> => {
    const head_due = clock.monotonic_ms() - head_ms >= HEAD_MS;
    if (head_due && leadership.term() !== undefined) await sendAgain();
    for (;;) {
      const term = leadership.term();
      if (term === undefined) return;
      const read_ms = clock.monotonic_ms();
      const { rows, totals, at_ms } = await readPending(db.sql, topics, BATCH);
      if (rows.length > 0) await send(term, rows);
      if (rows.length === BATCH) continue; // more wait: a total now would count what was not sent
      if (head_due && clock.monotonic_ms() - read_ms < HEAD_FRESH_MS && leadership.term() !== undefined) {
        await sendHeads(totals, at_ms);
        head_ms = read_ms;
      }
      return;
    }
  };

  return {
    ...worker({
      name: `outbox ${topics.join(" ")}`,
      every_ms: POLL_MS,
      tick: async () => {
        await round();
        is_logged = false;
      },
      onError: (error) => {
        if (!is_logged) log.warn({ topics, error, away: error instanceof Unavailable }, "the outbox can't be sent");
        is_logged = true;
      },
    }),
    begin() {
      identity = undefined;
      head_ms = -Infinity;
    },
  };
};
