import type { ChainEnd, ChainPoint, Finding, LedgerRow } from "../domain/audit-chain.ts";
import { GENESIS } from "../domain/audit-chain.ts";
import { COLUMNS, MEMBER_NAMES, type MemberName } from "../domain/audit-event.ts";
import type { Queryable, Sql, Transaction } from "../ports/database.ts";
import { BETWEEN_EVENTS, BETWEEN_VALUES } from "../ledger/entry.ts";

// Lists travel as JSON text and are unpacked by the server: one parameter whatever the batch's size, so one prepared
// statement, and `::text::json` because the driver would encode a `json` parameter a second time.
const list = (values: readonly unknown[]): string => JSON.stringify(values);

/** An event's place in its zone's chain. Hashes in hex. */
export type Place = {
  readonly chain_seq: number;
  readonly content_sha256: string;
  readonly chain_hmac: string;
  readonly key_id: string;
};

export type ZonePoint = ChainPoint & { readonly zone_id: string };
export type ProducerPoint = { readonly producer: string; readonly last_seq: number };
/** Numbers `first` to `last` of a producer. */
export type NumberRange = { readonly producer: string; readonly first: number; readonly last: number };
export type FilledHole = { readonly producer: string; readonly producer_seq: number; readonly reported: boolean };

/** SQLSTATE of a server's refusal; undefined for any other error. */
export const sqlStateOf = (error: unknown): string | undefined =>
  error instanceof Error && error.name === "PostgresError" && "code" in error ? String(error.code) : undefined;

/**
 * A batch's transaction. Read committed, whatever the server's default: each statement must see what the holder of the
 * lock before us has committed.
 */
export const inTransaction = <T>(sql: Sql, run: (tx: Transaction) => Promise<T>): Promise<T> =>
  sql.begin("isolation level read committed", run) as Promise<T>;

/**
 * Rows to lock for zones and producers that have none yet. A statement of its own, outside the batch's transaction, and
 * sorted: inserting while heads are locked would let two ingestors wait for each other.
 */
export const addMissingPoints = async (
  sql: Sql,
  zone_ids: readonly string[],
  producers: readonly string[],
): Promise<void> => {
  await sql`
    insert into audit_heads (zone_id, chain_seq, chain_hmac)
    select z, 0, ${GENESIS}
    from json_array_elements_text(${list(zone_ids.toSorted())}::text::json) as z
    on conflict do nothing`;
  await sql`
    insert into audit_producers (producer, last_seq)
    select p, 0 from json_array_elements_text(${list(producers.toSorted())}::text::json) as p
    on conflict do nothing`;
};

/** The zones' heads, locked in the order of their ids until the transaction ends. Zones without one are left out. */
export const lockHeads = (tx: Transaction, zone_ids: readonly string[]): Promise<readonly ZonePoint[]> =>
  tx<ZonePoint[]>`
    select zone_id, chain_seq::float8 as chain_seq, chain_hmac from audit_heads
    where zone_id in (select json_array_elements_text(${list(zone_ids)}::text::json))
    order by zone_id for update`;

/** How far each producer has counted, locked in the order of their names. After the heads, in every transaction. */
export const lockProducers = (tx: Transaction, producers: readonly string[]): Promise<readonly ProducerPoint[]> =>
  tx<ProducerPoint[]>`
    select producer, last_seq::float8 as last_seq from audit_producers
    where producer in (select json_array_elements_text(${list(producers)}::text::json))
    order by producer for update`;

/** Which of these events the ledger has already. Exact for the zones whose heads are locked. */
export const knownIds = async (tx: Transaction, ids: readonly string[]): Promise<ReadonlySet<string>> => {
  // One index look-up per id, whatever the planner believes: a plan that was made while the table was small reads all of
  // it, and is kept while the table grows. `offset 0` holds the inner query apart.
  const rows = await tx<{ id: string }[]>`
    select k.id from json_array_elements_text(${list(ids)}::text::json) as k (id)
    cross join lateral (select from audit_event_ids have where have.id = k.id::uuid offset 0) as known`;
  return new Set(rows.map((row) => row.id));
};

const CHAIN_COLUMNS = ["chain_seq", "content_sha256", "chain_hmac", "key_id"] as const;
const VALUE_COUNT = COLUMNS.length + CHAIN_COLUMNS.length;

/** One statement keeps the events, their ids, the zones' new heads and the producers' new counts. */
const KEEP_EVENTS = `
  with kept as (
    insert into audit_events (${COLUMNS.map(({ name }) => name).join(", ")}, ${CHAIN_COLUMNS.join(", ")})
    select ${COLUMNS.map(({ put }, at) => put(`v[${at + 1}]`)).join(", ")},
      v[${COLUMNS.length + 1}]::bigint, decode(v[${COLUMNS.length + 2}], 'hex'), decode(v[${COLUMNS.length + 3}], 'hex'),
      v[${COLUMNS.length + 4}]
    from (
      select string_to_array(r, chr(31), '') as v from string_to_table($1::text, chr(30)) as r offset 0
    ) as e
    where cardinality(v) = ${VALUE_COUNT}
    returning id, zone_id, chain_seq
  ), headed as (
    update audit_heads h set chain_seq = n.chain_seq, chain_hmac = n.chain_hmac
    from json_to_recordset($2::text::json) as n (zone_id text, chain_seq bigint, chain_hmac text)
    where h.zone_id = n.zone_id
  ), counted as (
    update audit_producers p set last_seq = n.last_seq, updated_at = now()
    from json_to_recordset($3::text::json) as n (producer text, last_seq bigint)
    where p.producer = n.producer
  )
  insert into audit_event_ids (id, zone_id, chain_seq) select id, zone_id, chain_seq from kept`;

/** An event's text, and its place after it. */
const rowText = (text: string, { chain_seq, content_sha256, chain_hmac, key_id }: Place): string =>
  `${text}${BETWEEN_VALUES}${chain_seq}${BETWEEN_VALUES}${content_sha256}${BETWEEN_VALUES}${chain_hmac}${BETWEEN_VALUES}${key_id}`;

/** The server read other rows than were sent: a value held a separator. */
export class Misread extends Error {}

/**
 * Keeps the events (`texts`, as they travelled) at their `places`, one each in the same order. The texts travel as one,
 * which the server splits where the codec joined them. Rejects with `Misread` where that makes other rows.
 */
export const keepEvents = async (
  tx: Transaction,
  texts: readonly string[],
  places: readonly Place[],
  heads: readonly ZonePoint[],
  producers: readonly ProducerPoint[],
): Promise<void> => {
  const rows: string[] = [];
  for (let at = 0; at < texts.length; at += 1) rows.push(rowText(texts[at] as string, places[at] as Place));
  const given = [rows.join(BETWEEN_EVENTS), list(heads), list(producers)];
  const result = await tx.unsafe(KEEP_EVENTS, given, { prepare: true });
  // The reader saw to it that no value holds a separator. If one did, a row of a caller's making would stand for the event.
  if (result.count !== texts.length) throw new Misread(`the database read ${result.count} of ${texts.length} rows`);
};

/** Notes numbers that did not come. */
export const addHoles = async (tx: Transaction, ranges: readonly NumberRange[]): Promise<void> => {
  await tx`
    insert into audit_holes (producer, producer_seq)
    select r.producer, n from json_to_recordset(${list(ranges)}::text::json) as r (producer text, first bigint, last bigint),
      generate_series(r.first, r.last) as n
    on conflict do nothing`;
};

/** Takes back holes whose numbers have come after all. Resolves to those that there were. */
export const fillHoles = async (
  tx: Transaction,
  numbers: readonly { readonly producer: string; readonly producer_seq: number }[],
): Promise<readonly FilledHole[]> =>
  tx<FilledHole[]>`
    delete from audit_holes h
    using json_to_recordset(${list(numbers)}::text::json) as n (producer text, producer_seq bigint)
    where h.producer = n.producer and h.producer_seq = n.producer_seq
    returning h.producer, h.producer_seq::float8 as producer_seq, h.reported`;

/**
 * The oldest holes that stand for longer than `age_s` and that no finding tells of yet, `limit` at most; they count as
 * told from this transaction on. In the order of producer and number.
 */
export const takeStandingHoles = async (
  tx: Transaction,
  age_s: number,
  limit: number,
): Promise<readonly { readonly producer: string; readonly producer_seq: number }[]> => {
  const rows = await tx<{ producer: string; producer_seq: number }[]>`
    update audit_holes h set reported = true
    from (
      select producer, producer_seq from audit_holes
      where not reported and noticed_at < now() - make_interval(secs => ${age_s}::float8)
      order by producer, producer_seq limit ${limit}::int for update skip locked
    ) as due
    where h.producer = due.producer and h.producer_seq = due.producer_seq
    returning h.producer, h.producer_seq::float8 as producer_seq`;
  return rows.toSorted((a, b) =>
    a.producer === b.producer ? a.producer_seq - b.producer_seq : a.producer < b.producer ? -1 : 1,
  );
};

/** Stores findings whose place has none of their kind yet. An `audit_gap` has no place, and is told once by its holes. */
export const addFindings = async (tx: Transaction, findings: readonly Finding[]): Promise<void> => {
  // Two replicas may verify at the same time: the lock, held until the commit, makes the second see what the first kept.
  await tx`select pg_advisory_xact_lock(hashtext('caracal.audit_findings'))`;
  await tx`
    insert into audit_findings (kind, zone_id, chain_seq, detail)
    select f.kind, f.zone_id, f.chain_seq, f.detail
    from json_to_recordset(${list(findings)}::text::json) as f (kind text, zone_id text, chain_seq bigint, detail text)
    where f.kind = 'audit_gap' or not exists (
      select from audit_findings have
      where have.kind = f.kind and have.zone_id = f.zone_id and have.chain_seq = f.chain_seq)`;
};

const endColumns = (sql: Queryable) => sql`
  z.zone_id, h.chain_seq::float8 as head_seq, h.chain_hmac as head_hmac,
  e.chain_seq::float8 as last_seq, encode(e.chain_hmac, 'hex') as last_hmac`;
const endJoins = (sql: Queryable) => sql`
  left join audit_heads h on h.zone_id = z.zone_id
  left join lateral (
    select chain_seq, chain_hmac from audit_events where zone_id = z.zone_id order by chain_seq desc limit 1
  ) e on true`;
type EndRow = {
  zone_id: string;
  head_seq: number | null;
  head_hmac: string | null;
  last_seq: number | null;
  last_hmac: string | null;
};
const point = (chain_seq: number | null, chain_hmac: string | null): ChainPoint | undefined =>
  chain_seq === null || chain_hmac === null ? undefined : { chain_seq, chain_hmac };
const endOf = (row: EndRow): ChainEnd => ({
  zone_id: row.zone_id,
  head: point(row.head_seq, row.head_hmac),
  last: point(row.last_seq, row.last_hmac),
});

/** Heads and last rows of the `limit` zones after `after` (by id), in one snapshot. `after` undefined: from the first. */
export const chainEnds = async (
  sql: Queryable,
  after: string | undefined,
  limit: number,
): Promise<readonly ChainEnd[]> => {
  // A zone whose head was deleted is found by its rows, with one index look-up per zone.
  const behind = after === undefined ? sql`zone_id >= ''` : sql`zone_id > ${after}`;
  const rows = await sql<EndRow[]>`
    with recursive rowed (zone_id) as (
      select min(zone_id) from audit_events where ${behind}
      union all
      select (select min(zone_id) from audit_events where zone_id > r.zone_id) from rowed r where r.zone_id is not null
    ), headed as (
      select zone_id from audit_heads where ${behind} order by zone_id limit ${limit}::int
    ), z as (
      select zone_id from headed
      union
      select zone_id from (select zone_id from rowed where zone_id is not null limit ${limit}::int) r
      order by zone_id limit ${limit}::int
    )
    select ${endColumns(sql)} from z ${endJoins(sql)} order by z.zone_id`;
  return rows.map(endOf);
};

/** Head and last row of one zone, in one snapshot. Both undefined where the ledger has nothing of it. */
export const chainEnd = async (sql: Queryable, zone_id: string): Promise<ChainEnd> => {
  const rows = await sql<EndRow[]>`
    select ${endColumns(sql)} from (select ${zone_id}::text as zone_id) z ${endJoins(sql)}`;
  return endOf(rows[0] as EndRow);
};

/** Which of these heads have a row within `room` numbers after them: the chain can't go on there. Under the heads' locks. */
export const blockedZones = async (
  tx: Transaction,
  heads: readonly ZonePoint[],
  room: number,
): Promise<ReadonlySet<string>> => {
  const rows = await tx<{ zone_id: string }[]>`
    select h.zone_id from json_to_recordset(${list(heads)}::text::json) as h (zone_id text, chain_seq bigint)
    where exists (
      select from audit_events e
      where e.zone_id = h.zone_id and e.chain_seq > h.chain_seq and e.chain_seq <= h.chain_seq + ${room}::bigint)`;
  return new Set(rows.map((row) => row.zone_id));
};

/**
 * The last row, up to number `to`, of each of these zones, that has no other within `room` numbers after it. A zone that
 * has none is left out. Rows are looked at from the last one on: the first fits, but where somebody filled the end of the numbers.
 */
export const freePlaces = (
  tx: Transaction,
  zone_ids: readonly string[],
  to: number,
  room: number,
): Promise<readonly ZonePoint[]> =>
  tx<ZonePoint[]>`
    select e.zone_id, e.chain_seq::float8 as chain_seq, encode(e.chain_hmac, 'hex') as chain_hmac
    from json_array_elements_text(${list(zone_ids)}::text::json) as z
    cross join lateral (
      select zone_id, chain_seq, chain_hmac from audit_events r
      where r.zone_id = z and r.chain_seq >= 0 and r.chain_seq <= ${to}::bigint
        and coalesce(
          (select min(n.chain_seq) from audit_events n where n.zone_id = r.zone_id and n.chain_seq > r.chain_seq)
            - r.chain_seq > ${room}::bigint, true)
      order by r.chain_seq desc limit 1
    ) e`;

/** Sets a head. Only where rows stand after it, and under its lock. */
export const setHead = async (tx: Transaction, head: ZonePoint): Promise<void> => {
  await tx`
    update audit_heads set chain_seq = ${head.chain_seq}::bigint, chain_hmac = ${head.chain_hmac}
    where zone_id = ${head.zone_id}`;
};

type StoredRow = Readonly<Record<MemberName, string | null>> & Omit<LedgerRow, "values">;

/** As text, whatever the column is: what is judged is what stands there. */
const LEDGER_ROWS = `
  select chain_seq::text as chain_seq, encode(content_sha256, 'hex') as content_sha256,
    encode(chain_hmac, 'hex') as chain_hmac, key_id, ${COLUMNS.map(({ name, text }) => `${text} as ${name}`).join(", ")}
  from audit_events
  where zone_id = $1 and chain_seq >= $2::text::bigint and chain_seq <= $3::bigint
  order by audit_events.chain_seq limit $4::int`;

const ledgerRowOf = (row: StoredRow): LedgerRow => ({
  values: MEMBER_NAMES.map((name) => row[name]),
  chain_seq: row.chain_seq,
  content_sha256: row.content_sha256,
  chain_hmac: row.chain_hmac,
  key_id: row.key_id,
});

/** The `limit` rows of a zone from `from` to `to` (both `chain_seq`, inclusive), in order. */
export const ledgerRows = (
  sql: Queryable,
  zone_id: string,
  from: bigint,
  to: number,
  limit: number,
): Promise<readonly LedgerRow[]> =>
  sql
    .unsafe<StoredRow[]>(LEDGER_ROWS, [zone_id, String(from), to, limit], { prepare: true })
    .then((rows) => rows.map(ledgerRowOf));
