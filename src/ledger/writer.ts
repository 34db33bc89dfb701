import { AUDIT_GROUP, STREAMS } from "../contracts/streams.ts";
import { LRUCache } from "lru-cache";
import { type AuditDocument, documentId, monthOf } from "../domain/audit-document.ts";
import {
  AT,
  type AuditDraft,
  type AuditValues,
  type AuditWriter,
  LedgerShare,
  type MemberName,
  valuesOf,
} from "../domain/audit-event.ts";
import type { Keyring } from "../domain/keyring.ts";
import { type Clock, isoText } from "../kernel/clock.ts";
import { uuidv7 } from "../kernel/ids.ts";
import type { Log } from "../kernel/log.ts";
import { type Service, within, worker } from "../kernel/service.ts";
import type { Journal } from "../ports/journal.ts";
import { type Streams, Unavailable } from "../ports/streams.ts";
import { entriesOf, fittedText, objectIn } from "./entry.ts";
import { createRepeatedDenials, type Denied } from "./repeated-denials.ts";
import { createStreamShares } from "./stream-shares.ts";

export type AuditWriterOptions = {
  readonly streams: Streams;
  readonly ring: Keyring;
  /** `AUDIT_REPLAY_DIR`: what the stream does not take waits here. */
  readonly journal: Journal;
  /** `{role}:{instance_id}`. Never the same for two processes, nor for two runs of one: numbers begin at 1. */
  readonly producer: string;
  readonly clock: Clock;
  readonly log: Log;
  /** How many events were written to the stream, to the journal, or could be written to neither. */
  readonly onEvents?: (where: "stream" | "journal" | "lost", count: number) => void;
};

/**
 * `stop` flushes. `backlog`: events in the journal that did not reach the stream yet. `sumUp`: records the sums of repeated
 * denials whose second is over. `look`: asks how full the stream is, where there is something to ask for.
 */
export type AuditWriterService = AuditWriter &
  Service & { readonly backlog: number; replay(): Promise<void>; sumUp(): void; look(): Promise<void> };

/** How long a recorded event may wait for an appended one to go along with. */
const RECORD_WAIT_MS = 50;
/** Events between the caller and the stream. Beyond it the stream does not keep up: appends are refused at once. */
const MAX_UNDERWAY = 20_000;
/** Events that neither stream nor journal took, kept for the next try. */
const MAX_STRANDED = 10_000;
const REPLAY_EVERY_MS = 1000;
const REPLAY_COUNT = 256;
/** While the stream is away, appends try it so much after the last that failed; all others are refused at once. */
const TRY_AGAIN_MS = 100;
const LOOK_EVERY_MS = 1000;
/** Documents that are known to be in the stream. Who is asked for one more sends it again; the ledger keeps it once. */
const MAX_ANNOUNCED = 100_000;
/** A sum comes so much later than its second at the most. */
const SUM_UP_EVERY_MS = 250;

const isDenied = (draft: AuditDraft): draft is Denied => draft.decision === "deny" && draft.reason !== undefined;

type Settle = { readonly resolve: (id: string) => void; readonly reject: (error: unknown) => void };
/** `settle` is there for `append`, whose caller waits. */
type Queued = {
  readonly draft: AuditDraft;
  readonly id: string;
  readonly now_ms: number;
  readonly settle: Settle | undefined;
};

const complete = ({ draft, id, now_ms }: Queued, producer: string, producer_seq: number): AuditValues => {
  const values = valuesOf(draft);
  values[AT.id] = id;
  values[AT.producer] = producer;
  values[AT.producer_seq] = String(producer_seq);
  values[AT.occurred_at] = isoText(now_ms);
  return values;
};

/** A document is an event, too: the text is its metadata, and whoever sends it gives it the same id. */
const documentEvent = ({ name, text }: AuditDocument, draft: AuditDraft, now_ms: number): Queued => {
  const { zone_id } = draft;
  const event = { zone_id, event_type: "document", decision: "none", metadata_json: text } as const;
  return { draft: event, id: documentId(zone_id, monthOf(isoText(now_ms)), name), now_ms, settle: undefined };
};

const changed = (values: AuditValues, some: Readonly<Partial<Record<MemberName, string | null>>>): AuditValues => {
  const others = [...values];
  for (const name of Object.keys(some) as MemberName[]) others[AT[name]] = some[name] ?? null;
  return others;
};

/** What was to be allowed and was then refused, because it could not be written down in time. */
const refused = (values: AuditValues): AuditValues => {
  const said = objectIn(values[AT.metadata_json] ?? null);
  const decided = values[AT.decision];
  return changed(values, {
    decision: "deny",
    metadata_json: JSON.stringify({ ...said, reason: "audit_unavailable", decided }),
  });
};

/**
 * The way into the ledger. All events of one tick share one entry, one signature and one round trip. Crash states: before
 * the append nothing was promised; after it the event is in the stream. An append whose answer was lost may be there
 * twice, as an allow from the stream and as a deny from the journal, under one id and number: the ledger keeps the first
 * that it sees, and nothing was allowed.
 */
export const createAuditWriter = (options: AuditWriterOptions): AuditWriterService => {
  const { streams, ring, journal, producer, clock, log } = options;
  let queue: Queued[] = [];
  let underway = 0;
  let next_seq = 1;
  let timer: NodeJS.Timeout | undefined;
  let immediate: NodeJS.Immediate | undefined;
  const flights = new Set<Promise<void>>();
  const denials = createRepeatedDenials(clock);
  /** Texts of events, as in the journal. */
  let stranded: string[] = [];
  const shares = createStreamShares(clock);
  let away = false;
  /** While the stream is away: an append that tries whether it still is. */
  let trying = false;
  let try_at_ms = 0;

  const announced = new LRUCache<string, true>({ max: MAX_ANNOUNCED });

  /**
   * The same with the documents that the ledger may not have yet, each before the first event that names it; and the keys
   * of these documents, which count as announced once the stream has them.
   */
  const withDocuments = (batch: readonly Queued[]) => {
    const all: Queued[] = [];
    const keys = new Set<string>();
    for (const one of batch) {
      const { documents = [], zone_id } = one.draft;
      const kept_in = documents.length === 0 ? "" : `${zone_id} ${monthOf(isoText(one.now_ms))} `;
      for (const document of documents) {
        const key = kept_in + document.name;
        if (keys.has(key) || announced.get(key) !== undefined) continue;
        keys.add(key);
        all.push(documentEvent(document, one.draft, one.now_ms));
      }
      all.push(one);
    }
    return { all, keys };
  };

  /** Numbers are given in the order of the queue, at the flush: an event that is never written leaves no hole. */
  const numbered = (one: Queued): AuditValues => complete(one, producer, next_seq++);

  /**
   * The event's text. Where none can be made, that of an event which says so: its number must come, and one that can't be
   * written takes none of its tick along. What was to be allowed by it is refused.
   */
  const written = (values: AuditValues, settle?: Settle): string => {
    try {
      return fittedText(values);
    } catch (cause) {
      const [event_id, event_type, decided] = [values[AT.id], values[AT.event_type], values[AT.decision]];
      log.error({ error: cause, event_id, event_type }, "an audit event can't be written");
      settle?.reject(new Unavailable("the ledger", cause));
      return fittedText(
        changed(values, {
          decision: decided === "allow" ? "deny" : (decided ?? null),
          determining_policies_json: null,
          diagnostics_json: null,
          metadata_json: JSON.stringify({ reason: "unwritable", decided }),
        }),
      );
    }
  };

  const toJournal = async (texts: readonly string[]): Promise<void> => {
    try {
      await journal.append(texts.map((text) => Buffer.from(text)));
      options.onEvents?.("journal", texts.length);
    } catch (error) {
      const room = Math.max(0, MAX_STRANDED - stranded.length);
      const lost = Math.max(0, texts.length - room);
      stranded = stranded.concat(texts.slice(0, room));
      log.error({ error, events: texts.length, lost }, "neither stream nor journal takes audit events");
      if (lost > 0) options.onEvents?.("lost", lost);
    }
  };

  const send = async (queued: readonly Queued[]): Promise<void> => {
    const { all: batch, keys } = withDocuments(queued);
    const events = batch.map(numbered);
    const texts = events.map((values, at) => written(values, batch[at]?.settle));
    try {
      await streams.append(STREAMS.audit, entriesOf(ring, texts));
      away = false;
      for (const key of keys) announced.set(key, true);
      events.forEach((values, at) => shares.appended(values[AT.zone_id] as string, (texts[at] as string).length));
      if (shares.unseen) looking.wake();
      options.onEvents?.("stream", batch.length);
      for (const { id, settle } of batch) settle?.resolve(id);
    } catch (cause) {
      if (!away)
        log.error({ error: cause }, "the audit stream takes no events: calls are refused, denials are journaled");
      away = true;
      announced.clear(); // a stream that comes back may have lost what it had
      try_at_ms = clock.monotonic_ms() + TRY_AGAIN_MS;
      await toJournal(
        batch.map(({ settle }, at) =>
          settle === undefined ? (texts[at] as string) : written(refused(events[at] as AuditValues)),
        ),
      );
      for (const { settle } of batch)
        settle?.reject(cause instanceof Unavailable ? cause : new Unavailable("the ledger", cause));
    } finally {
      trying = false;
      underway -= queued.length;
    }
  };

  const flushNow = (): void => {
    clearTimeout(timer);
    clearImmediate(immediate);
    timer = undefined;
    immediate = undefined;
    if (queue.length === 0) return;
    const batch = queue;
    queue = [];
    const flight = send(batch).finally(() => flights.delete(flight));
    flights.add(flight);
  };

  const enqueue = (one: Queued): void => {
    queue.push(one);
    underway += 1;
    // Behind every callback of this tick: what they decide shares the entry.
    if (one.settle !== undefined) immediate ??= setImmediate(flushNow);
    else timer ??= setTimeout(flushNow, RECORD_WAIT_MS);
  };

  /** The stream does not keep up, and holding more would only move the fault into our memory. */
  const overflow = (one: Queued): void => {
    const texts = withDocuments([one]).all.map((each) => written(numbered(each)));
    const flight = toJournal(texts).finally(() => flights.delete(flight));
    flights.add(flight);
  };

  /** In order, and released only once they are in the stream; a crash in between sends some twice, under the same ids. */
  const replay = async (): Promise<void> => {
    if (stranded.length > 0) {
      const texts = stranded;
      stranded = [];
      await toJournal(texts);
    }
    let after = 0;
    while (journal.size > 0) {
      const records = await journal.read(after, REPLAY_COUNT);
      const last = records.at(-1);
      if (last === undefined) return;
      const texts = records.map((record) => record.payload.toString());
      await streams.append(STREAMS.audit, entriesOf(ring, texts));
      away = false;
      await journal.release(last.seq);
      options.onEvents?.("stream", texts.length);
      log.info({ events: texts.length }, "journaled audit events reached the stream");
      after = last.seq;
    }
  };

  let told = false;
  const replayer = worker({
    name: "audit replay",
    every_ms: REPLAY_EVERY_MS,
    tick: async () => {
      await replay();
      told = false;
    },
    onError: (error) => {
      if (!told) log.warn({ error, backlog: journal.size }, "journaled audit events have to wait");
      told = true;
    },
  });

  const write = (draft: AuditDraft, id: string, now_ms: number): void => {
    const one = { draft, id, now_ms, settle: undefined };
    if (underway >= MAX_UNDERWAY) overflow(one);
    else enqueue(one);
  };

  /** Why nothing is appended for this zone now; undefined where it may be tried. */
  const obstacle = (zone_id: string): Unavailable | undefined => {
    if (shares.isOver(zone_id)) return new LedgerShare();
    if (underway >= MAX_UNDERWAY)
      return new Unavailable("the ledger", new Error(`${MAX_UNDERWAY} events wait to be written`));
    if (!away) return undefined;
    if (trying || clock.monotonic_ms() < try_at_ms)
      return new Unavailable("the ledger", new Error("the stream is away"));
    trying = true;
    return undefined;
  };

  /** It has no number yet, so that it may be counted with others: no caller fills the journal while the stream is away. */
  const refuse = (draft: AuditDraft, id: string, now_ms: number, why: Unavailable): void => {
    const reason = why instanceof LedgerShare ? "ledger_share" : "audit_unavailable";
    const denied = { ...draft, decision: "deny", reason } as const;
    if (denials.counted(denied, id, now_ms)) return;
    const metadata_json = JSON.stringify({ ...objectIn(draft.metadata_json ?? null), reason, decided: draft.decision });
    write({ ...denied, metadata_json }, id, now_ms);
  };

  const writeSums = (sums: readonly AuditDraft[]): void => {
    const now_ms = clock.now_ms();
    for (const sum of sums) write(sum, uuidv7(now_ms), now_ms);
  };

  const summing = worker({
    name: "repeated denials",
    every_ms: SUM_UP_EVERY_MS,
    tick: async () => writeSums(denials.due()),
    onError: (error) => log.error({ error }, "repeated denials can't be summed up"),
  });

  const look = async (): Promise<void> => {
    const { near_full } = shares;
    if (!shares.unseen && !near_full) return;
    shares.looked(await streams.load(STREAMS.audit, AUDIT_GROUP));
    if (shares.near_full && !near_full)
      log.error({}, "the audit stream is near full: zones that hold more than their share of it are refused");
    if (near_full && !shares.near_full) log.info({}, "the audit stream has room again");
  };

  const looking = worker({
    name: "audit stream load",
    every_ms: LOOK_EVERY_MS,
    tick: look,
    onError: (error) => log.debug({ error }, "the audit stream can't be measured"), // appends say what is wrong with it
  });

  const flush = async (): Promise<void> => {
    writeSums(denials.all());
    flushNow();
    while (flights.size > 0) await Promise.all(flights);
  };

  return {
    name: `audit writer ${producer}`,
    append(draft) {
      const now_ms = clock.now_ms();
      const id = draft.id ?? uuidv7(now_ms);
      const why = obstacle(draft.zone_id);
      if (why !== undefined) {
        refuse(draft, id, now_ms, why);
        return Promise.reject(why);
      }
      return new Promise((resolve, reject) => enqueue({ draft, id, now_ms, settle: { resolve, reject } }));
    },
    record(draft) {
      const now_ms = clock.now_ms();
      const id = draft.id ?? uuidv7(now_ms);
      if (!isDenied(draft) || !denials.counted(draft, id, now_ms)) write(draft, id, now_ms);
      return id;
    },
    flush,
    replay,
    sumUp: () => writeSums(denials.due()),
    look,
    get backlog() {
      return journal.size + stranded.length;
    },
    async start(failed) {
      if (journal.damaged > 0) options.onEvents?.("lost", journal.damaged);
      await replayer.start(failed);
      await summing.start(failed);
      await looking.start(failed);
    },
    async stop(deadline_ms) {
      await Promise.all([summing.stop(deadline_ms), looking.stop(deadline_ms)]);
      await within(deadline_ms, flush());
      await replayer.stop(deadline_ms);
    },
  };
};
