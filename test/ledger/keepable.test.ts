import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import { openJournal } from "../../src/adapters/journal/index.ts";
import { createMemory } from "../../src/adapters/memory/index.ts";
import type { Ingested } from "../../src/audit/ingest.ts";
import { verifyLedger } from "../../src/audit/verify.ts";
import { STREAMS } from "../../src/contracts/streams.ts";
import { type AuditDraft, type AuditEvent, isReserved, unreserved } from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import type { Journal } from "../../src/ports/journal.ts";
import { START, type Streams, Unavailable } from "../../src/ports/streams.ts";
import { MAX_EVENT_BYTES } from "../../src/ledger/entry.ts";
import { type AuditWriterService, createAuditWriter } from "../../src/ledger/writer.ts";
import { ingestByName, readEvents, sent } from "../audit/events.ts";
import { LEDGER_DATABASES, type LedgerDatabase } from "../audit/ledger-databases.ts";
import { quietLog } from "../support/quiet-log.ts";

const ring = keyring(randomBytes(32));
const RESERVED_UNITS: readonly number[] = [0, 0x1e, 0x1f];

/** Everything that a caller could get into a field: what PostgreSQL's text, UTF-8 or an index does not take included. */
const anyText = fc.oneof(
  { weight: 4, arbitrary: fc.string({ unit: "binary", maxLength: 40 }) },
  {
    weight: 3,
    arbitrary: fc
      .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 30 })
      .map((units) => String.fromCharCode(...units)),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom("\u0000", "\ud800", "\udfff", "a\u0000b\udbff", "\\u0000", "\udc00\ud800", "😀\ud83d"),
  },
  {
    weight: 1,
    arbitrary: fc.integer({ min: 2_000, max: 9_000 }).map((length) => randomBytes(length).toString("base64url")),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom("\u0000".repeat(3_000), "\ud800".repeat(900), "世".repeat(1_500), "x".repeat(90_000)),
  },
);
const maybe = fc.option(anyText, { nil: null });

const anyDraft = (zone_id: string): fc.Arbitrary<AuditDraft> =>
  fc.record({
    zone_id: fc.constant(zone_id),
    event_type: fc.constantFrom("gateway.call", "token.issue"),
    decision: fc.constantFrom("allow", "deny", "none"),
    request_id: maybe,
    client_id: maybe,
    subject: maybe,
    session_id: maybe,
    agent_session_id: maybe,
    delegation_edge_id: maybe,
    resource_id: maybe,
    policy_set_id: maybe,
    evaluation_status: maybe,
    determining_policies_json: maybe,
    diagnostics_json: maybe,
    metadata_json: fc.oneof(
      maybe,
      fc.record({ reason: anyText, step: anyText, path: anyText }).map((value) => JSON.stringify(value)),
    ),
  });

describe("an audit event with text from a caller", () => {
  let root = "";
  let streams: Streams;
  let journal: Journal;
  let writer: AuditWriterService;
  let away = false;
  let read_to = START;
  const closing: (() => Promise<unknown>)[] = [];

  before(async () => {
    root = await mkdtemp(join(tmpdir(), "caracal-keepable-"));
    const memory = await createMemory({ clock: systemClock });
    streams = {
      ...memory.streams,
      append: (stream, entries) =>
        away ? Promise.reject(new Unavailable("Redis")) : memory.streams.append(stream, entries),
    };
    journal = await openJournal({ dir: join(root, "journal"), name: "replay", max_bytes: 50_000_000, log: quietLog() });
    writer = createAuditWriter({
      streams,
      ring,
      journal,
      producer: `sts:${uuidv7()}`,
      clock: systemClock,
      log: quietLog(),
    });
    closing.push(
      () => rm(root, { recursive: true, force: true }),
      () => memory.close(),
      () => journal.close(),
      () => writer.stop(1_000),
    );
  });
  after(async () => {
    for (const close of closing.toReversed()) await close();
  });

  /** The events that reached the stream since the last call, as the ledger's reader gets them. */
  const arrived = async (): Promise<readonly AuditEvent[]> => {
    await writer.flush();
    const entries = await streams.range(STREAMS.audit, read_to, 10_000);
    read_to = entries.at(-1)?.id ?? read_to;
    return entries.flatMap((entry) => readEvents(entry.fields) ?? []);
  };

  for (const { kind, open } of LEDGER_DATABASES) {
    describe(`is kept by the ledger on ${kind}`, () => {
      let ledger: LedgerDatabase;
      const zone_id = uuidv7();
      before(async () => {
        ledger = await open();
      });
      after(() => ledger.close());
      const ingest = (events: readonly AuditEvent[]): Promise<Ingested> =>
        ingestByName({ db: ledger.db, ring, onFindings: () => undefined, onFilled: () => undefined }).ingest(events);

      it("whatever the text is", async () => {
        await fc.assert(
          fc.asyncProperty(fc.array(anyDraft(zone_id), { minLength: 1, maxLength: 8 }), async (drafts) => {
            const ids = drafts.map((draft) => writer.record(draft));
            const events = await arrived();
            assert.deepEqual(
              events.map((event) => event.id),
              ids,
            );
            assert.deepEqual(await ingest(events), { chained: ids.length, duplicates: 0, rejected: [] });
            for (const event of events) {
              assert.ok(Buffer.byteLength(sent(event).text) <= MAX_EVENT_BYTES);
            }
          }),
          { seed: 7, numRuns: 60 },
        );
        assert.deepEqual((await verifyLedger(ledger.db, ring, { zone_id })).findings, []);
      });

      it("also when it had to wait in the journal", async () => {
        away = true;
        const id = writer.record({
          zone_id,
          event_type: "token.issue",
          decision: "deny",
          client_id: "a\u0000\ud800",
          request_id: "\u0000".repeat(9_000),
        });
        await writer.flush();
        away = false;
        await writer.replay();
        const events = await arrived();
        assert.deepEqual(
          events.map((event) => event.id),
          [id],
        );
        assert.deepEqual((await ingest(events)).rejected, []);
      });
    });
  }

  it("keeps what is fine to the letter", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: "grapheme", maxLength: 400 }).filter((text) => !text.includes("\u0000")),
        async (text) => {
          writer.record({
            zone_id: "z",
            event_type: "token.issue",
            decision: "deny",
            subject: text,
            metadata_json: JSON.stringify({ text }),
          });
          const [event] = await arrived();
          assert.equal(event?.subject, text === "" ? null : text);
          assert.equal(event?.metadata_json, JSON.stringify({ text }));
        },
      ),
      { seed: 7, numRuns: 100 },
    );
  });

  it("spells what can't be kept as JSON does, so that JSON text stays JSON of the same value", () => {
    assert.equal(unreserved("a\u0000b\u001ec\ud800d😀\udfff"), "a\\u0000b\\u001ec\\ud800d😀\\udfff");
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.integer({ min: 0, max: 0xffff }), fc.constantFrom(...RESERVED_UNITS)), { maxLength: 30 }),
        (units) => {
          const own = units.filter(
            (unit) => RESERVED_UNITS.includes(unit) || (unit > 0x1f && unit !== 0x22 && unit !== 0x5c),
          );
          const raw = `"${String.fromCharCode(...own)}"`;
          const kept = unreserved(raw);
          assert.ok(!isReserved(kept));
          assert.equal(`"${JSON.parse(kept) as string}"`, raw);
        },
      ),
      { seed: 7, numRuns: 500 },
    );
  });

  it("shortens a text that no index takes, and two that begin alike stay two", async () => {
    for (const end of ["a", "b"]) {
      writer.record({
        zone_id: "z",
        event_type: "token.issue",
        decision: "deny",
        request_id: `${"r".repeat(5_000)}${end}`,
      });
    }
    const [one, two] = await arrived();
    assert.match(one?.request_id ?? "", /^r{500}… \(5001 characters, SHA-256 [0-9a-f]{64}\)$/);
    assert.notEqual(one?.request_id, two?.request_id);
  });

  it("keeps the reason of a denial beside a text that is too long", async () => {
    const metadata_json = JSON.stringify({ reason: "path_refused", step: "path", path: "/".repeat(140_000) });
    writer.record({ zone_id: "z", event_type: "gateway.call", decision: "deny", metadata_json });
    const [event] = await arrived();
    assert.deepEqual(JSON.parse(event?.metadata_json ?? ""), {
      reason: "path_refused",
      step: "path",
      path: { truncated_chars: 140_002 },
    });
  });
});
