import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, it } from "node:test";
import { openJournal } from "../../src/adapters/journal/index.ts";
import { createMemory } from "../../src/adapters/memory/index.ts";
import { createIngest } from "../../src/audit/ingest.ts";
import { verifyLedger } from "../../src/audit/verify.ts";
import { STREAMS } from "../../src/contracts/streams.ts";
import { documentId, documentOf, monthOf } from "../../src/domain/audit-document.ts";
import { type AuditDraft, type AuditEvent, COLUMNS } from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { START, type Streams, Unavailable } from "../../src/ports/streams.ts";
import { type SentEvent, sentEvents } from "../../src/ledger/entry.ts";
import { type AuditWriterService, createAuditWriter } from "../../src/ledger/writer.ts";
import { quietLog } from "../support/quiet-log.ts";
import { ordinaryCalls } from "./call.ts";
import { eventOf } from "./events.ts";
import { LEDGER_DATABASES, type LedgerDatabase } from "./ledger-databases.ts";
import { rebuiltTexts } from "./rebuilt.ts";

const ring = keyring(Buffer.alloc(32, 7));
/** Of a call's two rows together. */
const MOST_BYTES = 1_200;

for (const { kind, open } of LEDGER_DATABASES) {
  describe(`the documents of events on ${kind}`, () => {
    let ledger: LedgerDatabase;
    let dir = "";
    let away = false;
    let streams: Streams;
    const closing: (() => Promise<unknown>)[] = [];

    before(async () => {
      ledger = await open();
      dir = await mkdtemp(join(tmpdir(), "caracal-documents-"));
    });
    after(async () => {
      await ledger.close();
      await rm(dir, { recursive: true, force: true });
    });
    afterEach(async () => {
      away = false;
      for (const close of closing.splice(0).toReversed()) await close();
    });

    const newStreams = async (): Promise<void> => {
      const memory = await createMemory({ clock: systemClock });
      closing.push(() => memory.close());
      streams = {
        ...memory.streams,
        append: (stream, entries) =>
          away ? Promise.reject(new Unavailable("the stream")) : memory.streams.append(stream, entries),
      };
    };
    const newWriter = async (): Promise<AuditWriterService> => {
      const journal = await openJournal({
        dir: join(dir, uuidv7()),
        name: "replay",
        max_bytes: 10_000_000,
        log: quietLog(),
      });
      closing.push(() => journal.close());
      const producer = `sts:${uuidv7().slice(-12)}`;
      return createAuditWriter({ streams, ring, journal, producer, clock: systemClock, log: quietLog() });
    };
    const arrived = async (): Promise<readonly SentEvent[]> =>
      (await streams.range(STREAMS.audit, START, 10_000)).flatMap(({ fields }) => sentEvents(fields) ?? []);
    const ingested = (events: readonly SentEvent[]) =>
      createIngest({ db: ledger.db, ring, onFindings: () => undefined, onFilled: () => undefined }).ingest(events);
    const rowsOf = async (zone_id: string): Promise<readonly AuditEvent[]> => [
      ...(await ledger.db.sql.unsafe<AuditEvent[]>(
        `select ${COLUMNS.map(({ name, text }) => `${text} as ${name}`).join(", ")} from audit_events
         where zone_id = $1 order by chain_seq`,
        [zone_id],
      )),
    ];
    const typesOf = (events: readonly SentEvent[]) => events.map(({ values }) => eventOf(values).event_type);
    const holes = async (): Promise<number> => (await ledger.db.sql`select from audit_holes`).length;

    it("are sent before the first event that names them, and by each producer once", async () => {
      await newStreams();
      const call = ordinaryCalls(uuidv7());
      const [one, other] = [await newWriter(), await newWriter()];
      for (const writer of [one, one, other]) await writer.append(call().decision);
      const [first, second] = [[...Array.from({ length: 4 }, () => "document"), "token.exchange"], ["token.exchange"]];
      assert.deepEqual(typesOf(await arrived()), [...first, ...second, ...first]);
    });

    it("are kept once however many producers send them, with no number missing, and give every input back", async () => {
      await newStreams();
      const zone_id = uuidv7();
      const call = ordinaryCalls(zone_id);
      const writers = [await newWriter(), await newWriter(), await newWriter()];
      const inputs = new Map<string, string>();
      for (let round = 0; round < 2; round += 1) {
        await Promise.all(
          writers.map(async (writer) => {
            const { decision, outcome, input_json } = call();
            inputs.set(await writer.append(decision), input_json);
            writer.record(outcome);
            await writer.flush();
          }),
        );
      }
      const events = await arrived();
      assert.equal(events.length, 4 * 3 + 6 * 2);
      // Together in one transaction, over several, and again after a crash.
      assert.equal((await ingested(events.slice(0, 13))).rejected.length, 0);
      await ingested(events.slice(13));
      const again = await ingested(events);
      assert.deepEqual([again.chained, again.duplicates], [0, events.length]);
      const rows = await rowsOf(zone_id);
      assert.equal(rows.length, 4 + 6 * 2);
      assert.deepEqual([await holes(), (await verifyLedger(ledger.db, ring, { zone_id })).findings], [0, []]);

      const decisions = rows.filter((row) => row.event_type === "token.exchange");
      const by_id = new Map(rows.map((row) => [row.id, row.metadata_json]));
      for (const row of decisions) {
        const documentNamed = (name: string) =>
          by_id.get(documentId(zone_id, monthOf(row.occurred_at), name)) ?? undefined;
        assert.deepEqual(rebuiltTexts(row, documentNamed), [inputs.get(row.id)]);
      }
      assert.equal(decisions.length, 6);
    });

    it("go to the journal with the event that names them, and are sent again after it", async () => {
      await newStreams();
      const zone_id = uuidv7();
      const call = ordinaryCalls(zone_id);
      const writer = await newWriter();
      away = true;
      await assert.rejects(writer.append(call().decision), Unavailable);
      away = false;
      await writer.replay();
      await writer.append(call().decision);
      const events = await arrived();
      assert.equal(events.length, 10);
      assert.equal((await ingested(events)).chained, 6);
      assert.deepEqual(
        (await rowsOf(zone_id)).map((row) => [row.event_type, row.decision]),
        [
          ...Array.from({ length: 4 }, () => ["document", "none"]),
          ["token.exchange", "deny"],
          ["token.exchange", "allow"],
        ],
      );
      assert.equal(await holes(), 0);
    });

    it("are other rows in another zone", async () => {
      await newStreams();
      const writer = await newWriter();
      const documents = [documentOf(uuidv7())];
      const zones = [uuidv7(), uuidv7()];
      const draft = (zone_id: string): AuditDraft => ({
        zone_id,
        event_type: "token.exchange",
        decision: "deny",
        documents,
      });
      for (const zone_id of zones) await writer.append(draft(zone_id));
      assert.equal((await ingested(await arrived())).chained, 4);
      for (const zone_id of zones) assert.equal((await rowsOf(zone_id)).length, 2);
    });

    it("leave the two events of an ordinary call no more than their share of the table", async (t) => {
      await newStreams();
      const zone_id = uuidv7();
      const call = ordinaryCalls(zone_id);
      const writer = await newWriter();
      for (let i = 0; i < 3; i += 1) {
        const { decision, outcome } = call();
        await writer.append(decision);
        writer.record(outcome);
      }
      await writer.flush();
      const events = await arrived();
      await ingested(events);
      const rows = await ledger.db.sql<{ event_type: string; bytes: number }[]>`
        select event_type, pg_column_size(e.*)::int as bytes from audit_events e where zone_id = ${zone_id} order by chain_seq`;
      const [decision, outcome] = rows.slice(-2);
      assert.deepEqual([decision?.event_type, outcome?.event_type], ["token.exchange", "gateway.outcome"]);
      const bytes = (decision?.bytes ?? 0) + (outcome?.bytes ?? 0);
      t.diagnostic(
        `decision ${decision?.bytes}, outcome ${outcome?.bytes}, documents ${rows
          .slice(0, 4)
          .map((row) => row.bytes)
          .join(" ")}`,
      );
      t.diagnostic(
        `in the stream: ${events
          .slice(-2)
          .map(({ text }) => text.length)
          .join(" ")}`,
      );
      assert.ok(bytes > 0 && bytes <= MOST_BYTES, String(bytes));
    });
  });
}
