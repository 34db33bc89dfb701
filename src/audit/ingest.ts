import { setImmediate as nextTurn } from "node:timers/promises";
import { chainHmac, contentSha256, type Finding, GENESIS, HEX_32 } from "../domain/audit-chain.ts";
import { AT } from "../domain/audit-event.ts";
import type { Keyring, NamedKey } from "../domain/keyring.ts";
import type { SentEvent } from "../ledger/entry.ts";
import { type Database, isUniqueViolation, type Transaction } from "../ports/database.ts";
import { countNumbers, gapOf } from "./numbers.ts";
import {
  addFindings,
  addHoles,
  addMissingPoints,
  blockedZones,
  type FilledHole,
  fillHoles,
  freePlaces,
  inTransaction,
  keepEvents,
  knownIds,
  lockHeads,
  lockProducers,
  Misread,
  type NumberRange,
  type Place,
  type ProducerPoint,
  setHead,
  sqlStateOf,
  type ZonePoint,
} from "./store.ts";

/**
 * Events in one transaction: enough that a commit is cheap per event, few enough that hashing and sending them holds
 * neither the event loop nor a zone's lock for more than milliseconds.
 */
const MAX_BATCH_EVENTS = 512;
/** Text in one transaction, in UTF-16 units. */
const MAX_BATCH_TEXT = 4 * 1024 * 1024;
/** How long events are hashed before the event loop turns, and how many between two looks at the clock. */
const TURN_MS = 1;
const HASHED_PER_LOOK = 16;
/** Attempts of a batch. Each removes the cause that the one before met; there are four, and some come again. */
const MAX_ATTEMPTS = 7;

/** An event that the ledger can't keep, whatever is tried, and why. */
export type Rejected = { readonly event: SentEvent; readonly reason: string };

/** What became of a call's events. `duplicates`: those that the ledger had already. */
export type Ingested = {
  readonly chained: number;
  readonly duplicates: number;
  readonly rejected: readonly Rejected[];
};

export type IngestOptions = {
  readonly db: Database;
  /** `AUDIT_HMAC_KEY`: the current key chains. */
  readonly ring: Keyring;
  /** Something that is wrong with the ledger was met on the way. It is stored already. */
  readonly onFindings: (findings: readonly Finding[]) => void;
  /** Numbers that a finding had told of as missing have come after all. */
  readonly onFilled: (holes: readonly FilledHole[]) => void;
};

export type Ingest = {
  /**
   * Keeps and chains the events, each once however often it comes, in the order given within a zone. Resolves when all but
   * the rejected are committed; rejects where the database can't take any (an outage, a privilege): try the same again.
   */
  ingest(events: readonly SentEvent[]): Promise<Ingested>;
};

/** An event with what it takes its place by. `content`: in hex. */
type Hashed = {
  readonly event: SentEvent;
  readonly id: string;
  readonly zone_id: string;
  readonly producer: string;
  readonly producer_seq: number;
  readonly content: string;
  /** Many send the same document, each under a number of its own. */
  readonly is_document: boolean;
};

const hashedOf = (event: SentEvent): Hashed => {
  const { values } = event;
  return {
    event,
    id: values[AT.id] as string,
    zone_id: values[AT.zone_id] as string,
    producer: values[AT.producer] as string,
    producer_seq: Number(values[AT.producer_seq]),
    content: contentSha256(values),
    is_document: values[AT.event_type] === "document",
  };
};
type Committed = {
  readonly chained: number;
  readonly duplicates: number;
  readonly findings: readonly Finding[];
  readonly filled: readonly FilledHole[];
};

/**
 * SQLSTATEs of what is wrong with an event and not with the database: 22 data, 23 a constraint, 54000 too large for an index.
 * Not 23514 without a constraint's name: that is a partition which is missing, for every event. `Misread` is some event's
 * doing, too.
 */
const isDataFault = (error: unknown): boolean => {
  if (error instanceof Misread) return true;
  const state = sqlStateOf(error) ?? "";
  if (state === "23514") return error instanceof Error && "constraint_name" in error;
  return /^(22|23)/.test(state) || state === "54000";
};

/** Free numbers that must follow the row at which a chain is resumed. */
const ROOM = 2 ** 32;
/** No chain comes to here; what stands above was put there by another hand, and counting on from it would overflow. */
const MAX_CHAIN_SEQ = 2 ** 52 - ROOM;
const isMisplaced = (head: ZonePoint): boolean =>
  head.chain_seq < 0 || head.chain_seq > MAX_CHAIN_SEQ || !HEX_32.test(head.chain_hmac);

/** A zone's head can't be set right: something else changes it, or every number has a row. */
class Wedged extends Error {}

const inBatches = (items: readonly Hashed[]): readonly (readonly Hashed[])[] => {
  const batches: Hashed[][] = [];
  let room_text = 0;
  let batch: Hashed[] | undefined;
  for (const item of items) {
    const size = item.event.text.length;
    if (batch === undefined || batch.length >= MAX_BATCH_EVENTS || size > room_text) {
      batch = [];
      batches.push(batch);
      room_text = MAX_BATCH_TEXT;
    }
    batch.push(item);
    room_text -= size;
  }
  return batches;
};

/** Whether a producer can have counted so far. What another hand put there is counted anew, and the holes show it. */
const isCount = (last_seq: number): boolean => last_seq >= 0 && last_seq <= Number.MAX_SAFE_INTEGER;

const NONE_KNOWN: ReadonlySet<string> = new Set();

/** The first of each id, but those that are known. */
const unknown = (items: readonly Hashed[], known: ReadonlySet<string>): readonly Hashed[] => {
  const seen = new Set(known);
  const fresh: Hashed[] = [];
  for (const item of items) {
    if (seen.has(item.id)) continue;
    seen.add(item.id);
    fresh.push(item);
  }
  return fresh;
};

/** The distinct values of a field; neighbours are often equal. */
const distinct = (items: readonly Hashed[], field: "zone_id" | "producer"): readonly string[] => {
  const found = new Set<string>();
  let last: string | undefined;
  for (const item of items) {
    const value = item[field];
    if (value !== last) found.add(value);
    last = value;
  }
  return [...found];
};

// These loops are not closures: V8 discarded a batch's closures with their compiled code and recompiled them every few
// seconds.

/** Places for `items` after the locked heads, and the new heads. */
const chain = (key: NamedKey, items: readonly Hashed[], heads: readonly ZonePoint[]) => {
  const ends = new Map(heads.map((head) => [head.zone_id, head]));
  const places: Place[] = [];
  for (const { zone_id, content } of items) {
    const head = ends.get(zone_id) as ZonePoint;
    const chain_seq = head.chain_seq + 1;
    const chain_hmac = chainHmac(key, { zone_id, chain_seq, content, previous: head.chain_hmac });
    ends.set(zone_id, { zone_id, chain_seq, chain_hmac });
    places.push({ chain_seq, content_sha256: content, chain_hmac, key_id: key.id });
  }
  return { places, heads: [...ends.values()] };
};

/** The numbers of each of these producers, in the order of the events. */
const numbersOf = (items: readonly Hashed[], points: readonly ProducerPoint[]): ReadonlyMap<string, number[]> => {
  const numbers = new Map<string, number[]>(points.map(({ producer }) => [producer, []]));
  for (const { producer, producer_seq } of items) numbers.get(producer)?.push(producer_seq);
  return numbers;
};

const textsOf = (items: readonly Hashed[]): readonly string[] => {
  const texts: string[] = [];
  for (const { event } of items) texts.push(event.text);
  return texts;
};

/** The only code that writes rows: each event once, one chain per zone, poison set apart. Several may run at once. */
export const createIngest = ({ db, ring, onFindings, onFilled }: IngestOptions): Ingest => {
  const count = async (tx: Transaction, items: readonly Hashed[], points: readonly ProducerPoint[]) => {
    const numbers = numbersOf(items, points);
    const counts = points.map(({ producer, last_seq }) => ({
      producer,
      ...countNumbers(isCount(last_seq) ? last_seq : 0, numbers.get(producer) ?? []),
    }));
    const holes = counts.flatMap((one): NumberRange[] =>
      one.holes.map((range) => ({ producer: one.producer, ...range })),
    );
    const late = counts.flatMap((one) => one.late.map((producer_seq) => ({ producer: one.producer, producer_seq })));
    const findings = counts.flatMap((one) => one.chasms.map(({ first, last }) => gapOf(one.producer, first, last)));
    if (holes.length > 0) await addHoles(tx, holes);
    const filled = late.length === 0 ? [] : await fillHoles(tx, late);
    return { producers: counts.map(({ producer, last_seq }) => ({ producer, last_seq })), findings, filled };
  };

  /**
   * One transaction. `missing`: a zone or a producer has no row to lock yet; `misplaced`: a head is no place in a chain.
   * `look`: asks first which events the ledger has. Without it a known id ends the transaction, by the key of the ids.
   * Documents are always looked for: they come again with every producer that names them, and are few.
   */
  const attempt = (items: readonly Hashed[], look: boolean): Promise<Committed | "missing" | "misplaced"> => {
    const zone_ids = distinct(items, "zone_id");
    const names = distinct(items, "producer");
    const asked = look ? items : items.filter(({ is_document }) => is_document);
    return inTransaction(db.sql, async (tx) => {
      // One round trip, three statements in this order: the third, under the locks, sees what an ingestor before us kept.
      const [heads, points, known] = await Promise.all([
        lockHeads(tx, zone_ids),
        lockProducers(tx, names),
        asked.length > 0
          ? knownIds(
              tx,
              asked.map(({ id }) => id),
            )
          : NONE_KNOWN,
      ]);
      if (heads.length < zone_ids.length || points.length < names.length) return "missing";
      if (heads.some(isMisplaced)) return "misplaced";
      const fresh = asked.length > 0 ? unknown(items, known) : items;
      const duplicates = items.length - fresh.length;
      // A document that another has sent before is not kept, but its number has come.
      const numbered = look ? items.filter(({ id, is_document }) => is_document || !known.has(id)) : items;
      if (numbered.length === 0) return { chained: 0, duplicates, findings: [], filled: [] };
      const counted = await count(tx, numbered, points);
      if (counted.findings.length > 0) await addFindings(tx, counted.findings);
      const chained = chain(ring.current, fresh, heads);
      const texts = textsOf(fresh);
      await nextTurn(); // chaining and sending a full batch take a millisecond or two each
      await keepEvents(tx, texts, chained.places, chained.heads, counted.producers);
      // Crash here, or between this commit and the acknowledgement: the entries come again, and their ids are known.
      return { chained: fresh.length, duplicates, findings: counted.findings, filled: counted.filled };
    });
  };

  /**
   * A head that was set back stands where rows are, and one that was set to nonsense stands nowhere: the ledger would stop
   * for this zone. It goes on after the last row that has room after it, and the finding stays.
   */
  const realign = async (zone_ids: readonly string[]): Promise<void> => {
    const findings = await inTransaction(db.sql, async (tx) => {
      const heads = await lockHeads(tx, zone_ids);
      const misplaced = heads.filter(isMisplaced);
      const blocked = await blockedZones(
        tx,
        heads.filter((head) => !isMisplaced(head)),
        ROOM,
      );
      // None: another ingestor was here before us.
      const astray = [...misplaced, ...heads.filter((head) => blocked.has(head.zone_id))];
      if (astray.length === 0) return [];
      const astray_ids = astray.map((head) => head.zone_id);
      const free = new Map((await freePlaces(tx, astray_ids, MAX_CHAIN_SEQ, ROOM)).map((row) => [row.zone_id, row]));
      const found: Finding[] = [];
      for (const { zone_id, chain_seq } of astray) {
        const place = free.get(zone_id) ?? { zone_id, chain_seq: 0, chain_hmac: GENESIS };
        await setHead(tx, place);
        const detail = `the head stood at ${chain_seq}, where the chain can't go on; it goes on behind row ${place.chain_seq}`;
        found.push({ kind: "chain_break", zone_id, chain_seq: place.chain_seq, detail });
      }
      await addFindings(tx, found);
      return found;
    });
    if (findings.length > 0) onFindings(findings);
  };

  const keep = async (items: readonly Hashed[]): Promise<Committed> => {
    const zone_ids = distinct(items, "zone_id");
    // Events come again after a crash and hardly ever else: looking for each of them in every batch would be for nothing.
    let look = false;
    for (let tried = 0; tried < MAX_ATTEMPTS; tried += 1) {
      try {
        const result = await attempt(items, look);
        if (result === "misplaced") await realign(zone_ids);
        else if (result === "missing") {
          await addMissingPoints(db.sql, zone_ids, distinct(items, "producer"));
        } else return result;
      } catch (error) {
        if (!isUniqueViolation(error)) throw error;
        // `audit_event_ids_pkey`: the ledger has one of these events; the next attempt finds which.
        if (isUniqueViolation(error, "audit_event_ids_pkey")) look = true;
        else await realign(zone_ids);
      }
    }
    throw new Wedged("the ledger's heads are changed by another hand while events are chained");
  };

  /**
   * `items` of half of their zones, then those of the others, until the wedged zone stands alone: it stops no other. Each
   * attempt at it left its finding; its events are set apart, and can be brought back when it is set right.
   */
  const keepByZones = async (items: readonly Hashed[]): Promise<Ingested> => {
    const zone_ids = distinct(items, "zone_id");
    const [only, second] = zone_ids;
    if (only !== undefined && second === undefined) {
      const reason = "the chain of its zone can't go on: its head is set to another place each time";
      return { chained: 0, duplicates: 0, rejected: items.map(({ event }) => ({ event, reason })) };
    }
    const half = new Set(zone_ids.slice(0, zone_ids.length >> 1));
    return sum([
      await keepWhatCan(items.filter(({ zone_id }) => half.has(zone_id))),
      await keepWhatCan(items.filter(({ zone_id }) => !half.has(zone_id))),
    ]);
  };

  /** `keep`, halving a batch that the database refuses for its data until the culprits stand alone. */
  const keepWhatCan = async (items: readonly Hashed[]): Promise<Ingested> => {
    try {
      const committed = await keep(items);
      if (committed.filled.length > 0) onFilled(committed.filled);
      if (committed.findings.length > 0) onFindings(committed.findings);
      return { chained: committed.chained, duplicates: committed.duplicates, rejected: [] };
    } catch (error) {
      if (error instanceof Wedged) return keepByZones(items);
      if (!isDataFault(error)) throw error;
      const [only, second] = items;
      if (only !== undefined && second === undefined) {
        return {
          chained: 0,
          duplicates: 0,
          rejected: [{ event: only.event, reason: `database refused: ${sqlStateOf(error) ?? "its row"}` }],
        };
      }
      const middle = items.length >> 1;
      return sum([await keepWhatCan(items.slice(0, middle)), await keepWhatCan(items.slice(middle))]);
    }
  };

  return {
    async ingest(events) {
      const seen = new Set<string>();
      const hashed: Hashed[] = [];
      let turned_ms = performance.now();
      for (const [index, event] of events.entries()) {
        if (index % HASHED_PER_LOOK === 0 && performance.now() - turned_ms >= TURN_MS) {
          await nextTurn();
          turned_ms = performance.now();
        }
        const id = event.values[AT.id] as string;
        if (seen.has(id) && event.values[AT.event_type] !== "document") continue;
        seen.add(id);
        hashed.push(hashedOf(event));
      }
      const results: Ingested[] = [{ chained: 0, duplicates: events.length - hashed.length, rejected: [] }];
      for (const batch of inBatches(hashed)) results.push(await keepWhatCan(batch));
      return sum(results);
    },
  };
};

const sum = (results: readonly Ingested[]): Ingested => ({
  chained: results.reduce((total, one) => total + one.chained, 0),
  duplicates: results.reduce((total, one) => total + one.duplicates, 0),
  rejected: results.flatMap((one) => one.rejected),
});
