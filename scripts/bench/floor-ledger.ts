import { setTimeout as pause } from "node:timers/promises";
import { workerData } from "node:worker_threads";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { connect, firstReady } from "../../src/adapters/redis/connection.ts";
import { entriesOf, type RawEntry, successorOf } from "../../src/adapters/redis/replies.ts";
import { addMissingPoints, inTransaction, keepEvents, type Place } from "../../src/audit/store.ts";
import { AUDIT_GROUP, STREAMS } from "../../src/contracts/streams.ts";
import { chainHmac, contentSha256, GENESIS } from "../../src/domain/audit-chain.ts";
import { AT } from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { createLog } from "../../src/kernel/log.ts";
import { type SentEvent, sentEvents } from "../../src/ledger/entry.ts";
import { verifyEntry } from "../../src/broadcast/envelope.ts";

/** What the floor's ledger thread is started with. The zone is new, and nobody else writes its rows. */
export type FloorLedger = {
  readonly database_url: string;
  readonly redis_url: string;
  readonly stream_key: Uint8Array;
  readonly audit_key: Uint8Array;
  readonly zone_id: string;
  readonly producer: string;
};

const ENTRIES_AT_ONCE = 1_024;
const MAX_BATCH_EVENTS = 2_048;
const BLOCK_MS = 1_000;
/** A batch costs the database a commit and an answer however small it is: what comes meanwhile goes along. */
const LINGER_MS = 200;
const TIMEOUT_MS = 10_000;

const options = workerData as FloorLedger;
const { zone_id, producer } = options;
const stream_ring = keyring(options.stream_key);
const key = keyring(options.audit_key).current;
const db = createPostgres({ url: options.database_url, name: "floor", max: 1 });
const log = createLog({ level: "warn", destination: process.stderr }); // standard output is for answers
const redis = connect({ url: options.redis_url, label: "group", log, timeout_ms: TIMEOUT_MS });
const connected = firstReady(redis, TIMEOUT_MS); // from here on: it is told once

/** The zone's head. In memory alone: with one writer and no second life there is nobody to ask. */
let chain_seq = 0;
let chain_hmac = GENESIS;

const keep = async (events: readonly SentEvent[]): Promise<void> => {
  const texts: string[] = [];
  const places: Place[] = [];
  let last_seq = 0;
  for (const { text, values } of events) {
    const content_sha256 = contentSha256(values);
    chain_seq += 1;
    chain_hmac = chainHmac(key, { zone_id, chain_seq, content: content_sha256, previous: chain_hmac });
    places.push({ chain_seq, content_sha256, chain_hmac, key_id: key.id });
    texts.push(text);
    last_seq = Number(values[AT.producer_seq]);
  }
  const head = { zone_id, chain_seq, chain_hmac };
  await inTransaction(db.sql, (tx) => keepEvents(tx, texts, places, [head], [{ producer, last_seq }]));
};

/** What an entry says. It went through a server that others can write to, so the signature is part of the price. */
const open = (fields: Readonly<Record<string, string>>): readonly SentEvent[] => {
  const events = verifyEntry(stream_ring, STREAMS.audit, fields) ? sentEvents(fields) : undefined;
  if (events === undefined) throw new Error("an entry is not ours");
  return events;
};

type StreamReply = [stream: string, entries: RawEntry[]][] | null;

/** Waits for entries and keeps what they hold. Resolves to the number of events. */
const turn = async (): Promise<number> => {
  const group = ["GROUP", AUDIT_GROUP, "floor", "COUNT", ENTRIES_AT_ONCE, "BLOCK", BLOCK_MS] as const;
  const reply = (await redis.call("XREADGROUP", ...group, "STREAMS", STREAMS.audit, ">")) as StreamReply;
  const entries = entriesOf(reply?.[0]?.[1] ?? []);
  const last = entries.at(-1);
  if (last === undefined) return 0;
  const events = entries.flatMap(({ fields }) => open(fields));
  for (let at = 0; at < events.length; at += MAX_BATCH_EVENTS) await keep(events.slice(at, at + MAX_BATCH_EVENTS));
  await redis
    .pipeline()
    .xack(STREAMS.audit, AUDIT_GROUP, ...entries.map(({ id }) => id))
    .xtrim(STREAMS.audit, "MINID", successorOf(last.id))
    .exec();
  return events.length;
};

await addMissingPoints(db.sql, [zone_id], [producer]);
await connected;
await redis.xgroup("CREATE", STREAMS.audit, AUDIT_GROUP, "0", "MKSTREAM");
for (;;) if ((await turn()) < MAX_BATCH_EVENTS) await pause(LINGER_MS);
