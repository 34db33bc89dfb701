import { type Invalidation, type OutboxStream, STREAMS } from "../contracts/streams.ts";
import type { RevocationEvent } from "../domain/revocation.ts";
import type { Queryable, Transaction } from "../ports/database.ts";
import type { Fields } from "./envelope.ts";

/** The channel on which a commit wakes the dispatcher, where the database has such a thing. */
export const OUTBOX_CHANNEL = "caracal_outbox";

/** What follows from a change of `zone_id`. `fields` may not name what the dispatcher adds, nor begin with `_`. */
export type OutboxMessage = { readonly stream: OutboxStream; readonly zone_id: string; readonly fields: Fields };

/** A row as the dispatcher reads it. `at_ms`: when it was made; `fields_json` as it stands there, not yet looked at. */
export type OutboxRow = {
  readonly id: number;
  readonly stream: string;
  readonly zone_id: string;
  readonly seq: number;
  readonly at_ms: number;
  readonly attempts: number;
  readonly fields_json: string;
};

/** The sum of a stream's numbers over its zones, as of the same moment as the rows that were read with it. */
export type StreamTotal = { readonly stream: string; readonly total: number; readonly zones: number };

export type PendingRows = {
  readonly rows: readonly OutboxRow[];
  readonly totals: readonly StreamTotal[];
  readonly at_ms: number;
};

/** The names that the dispatcher adds to a message. */
const RESERVED = new Set(["zone_id", "seq", "outbox_id", "at", "head", "total", "zones"]);
const MAX_FIELDS_BYTES = 16 * 1024;

/**
 * Writes a message in the transaction of its change, with the zone's next number. The commit wakes the dispatcher. Resolves to
 * the row, which counts only once the transaction is committed. Call it last: the zone's counter stays locked until the commit,
 * so that numbers have no gaps and are in the order of commit. Throws `RangeError` for fields that can't travel.
 */
export const enqueue = async (tx: Transaction, message: OutboxMessage): Promise<OutboxRow> => {
  const wrong = Object.keys(message.fields).find((name) => RESERVED.has(name) || name.startsWith("_"));
  if (wrong !== undefined)
    throw new RangeError(`an outbox message can't have a field ${wrong}: the dispatcher adds it`);
  const fields_json = JSON.stringify(message.fields);
  // Bounded here: an entry that no stream takes would hold up everything after it.
  if (Buffer.byteLength(fields_json) > MAX_FIELDS_BYTES)
    throw new RangeError(`an outbox message may have ${MAX_FIELDS_BYTES} bytes`);
  const { stream, zone_id } = message;
  const [row] = await tx<Pick<OutboxRow, "id" | "seq" | "at_ms">[]>`
    with number as (
      insert into stream_seqs as s (stream, zone_id, seq) values (${stream}, ${zone_id}, 1)
      on conflict (stream, zone_id) do update set seq = s.seq + 1
      returning seq
    ), row as (
      insert into outbox (stream, zone_id, seq, fields_json)
      select ${stream}, ${zone_id}, seq, ${fields_json} from number
      returning id, seq, created_at
    )
    select id::float8 as id, seq::float8 as seq, floor(extract(epoch from created_at) * 1000)::float8 as at_ms,
      pg_notify(${OUTBOX_CHANNEL}, '') from row`;
  if (row === undefined) throw new Error("the outbox gave no number");
  return { id: row.id, stream, zone_id, seq: row.seq, at_ms: row.at_ms, attempts: 0, fields_json };
};

/** `enqueue` of what stops or resumes authority. */
export const enqueueRevocation = (tx: Transaction, event: RevocationEvent): Promise<OutboxRow> =>
  enqueue(tx, {
    stream: STREAMS.revoke,
    zone_id: event.zone_id,
    fields: { op: event.op, kind: event.kind, id: event.id, expires_at: String(event.expires_at) },
  });

/** `enqueue` of what makes caches read again. */
export const enqueueInvalidation = (
  tx: Transaction,
  stream: Exclude<OutboxStream, typeof STREAMS.revoke>,
  message: Invalidation,
): Promise<OutboxRow> =>
  enqueue(tx, { stream, zone_id: message.zone_id, fields: { kind: message.kind, id: message.id } });

/**
 * The oldest rows that wait, and the totals, in one statement and so of one moment. Whoever appends these rows, and then the
 * total, says what is true at that place. If a zone's first row waits for its next attempt, so do its others: rows of one zone
 * must not overtake each other. `at_ms` by the database's clock.
 */
export const readPending = async (sql: Queryable, streams: readonly string[], limit: number): Promise<PendingRows> => {
  const [found] = await sql<PendingRows[]>`
    with wanted as (
      select jsonb_array_elements_text(${JSON.stringify(streams)}::text::jsonb) as stream
    ), pending as (
      select o.id, o.stream, o.zone_id, o.seq, floor(extract(epoch from o.created_at) * 1000) as at_ms, o.attempts, o.fields_json
      from outbox o
      where o.stream in (select stream from wanted) and o.sent_at is null and o.dead_at is null
        and not exists (
          select 1 from outbox b
          where b.stream = o.stream and b.zone_id = o.zone_id and b.seq <= o.seq
            and b.sent_at is null and b.dead_at is null and b.retry_at > now())
      order by o.id
      limit ${limit}
    )
    select
      (select coalesce(json_agg(p order by p.id), '[]'::json) from pending p) as rows,
      (select coalesce(json_agg(json_build_object(
          'stream', w.stream,
          'total', (select coalesce(sum(s.seq), 0) from stream_seqs s where s.stream = w.stream),
          'zones', (select count(*) from stream_seqs s where s.stream = w.stream))), '[]'::json)
        from wanted w) as totals,
      floor(extract(epoch from clock_timestamp()) * 1000)::float8 as at_ms`;
  if (found === undefined) throw new Error("the outbox gave no answer");
  return found;
};

/** Rows that were sent in the last `within_s` seconds, in order, with ids over `after`. */
export const readSent = (
  sql: Queryable,
  streams: readonly string[],
  within_s: number,
  after: number,
  limit: number,
): Promise<readonly OutboxRow[]> => sql<OutboxRow[]>`
  select id::float8 as id, stream, zone_id, seq::float8 as seq,
    floor(extract(epoch from created_at) * 1000)::float8 as at_ms, attempts, fields_json
  from outbox
  where stream in (select jsonb_array_elements_text(${JSON.stringify(streams)}::text::jsonb))
    and sent_at > now() - make_interval(secs => ${within_s}) and id > ${after}
  order by id
  limit ${limit}`;

const idsIn = (sql: Queryable, ids: readonly number[]) =>
  sql`(select (jsonb_array_elements_text(${JSON.stringify(ids)}::text::jsonb))::bigint)`;

export const markSent = async (tx: Transaction, ids: readonly number[]): Promise<void> => {
  await tx`update outbox set sent_at = now(), attempts = attempts + 1 where id in ${idsIn(tx, ids)}`;
};

/** The row's next attempt is in `wait_s` seconds. Its zone's later rows wait with it. */
export const markFailed = async (tx: Transaction, id: number, wait_s: number, error: string): Promise<void> => {
  await tx`
    update outbox
    set attempts = attempts + 1, retry_at = now() + make_interval(secs => ${wait_s}), last_error = ${error.slice(0, 500)}
    where id = ${id}`;
};

/** Given up. Its number stays taken, so that readers notice the hole and read the truth from the database. */
export const markDead = async (tx: Transaction, id: number, error: string): Promise<void> => {
  await tx`update outbox set attempts = attempts + 1, dead_at = now(), last_error = ${error.slice(0, 500)} where id = ${id}`;
};

/** Deletes rows that were sent longer ago than `older_s`, `limit` at most. Resolves to how many went. */
export const deleteSent = async (tx: Transaction, older_s: number, limit: number): Promise<number> => {
  const gone = await tx`
    delete from outbox where id in (
      select id from outbox where sent_at < now() - make_interval(secs => ${older_s}) limit ${limit})
    returning 1`;
  return gone.length;
};
