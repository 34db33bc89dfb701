import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { createFindings } from "../../src/audit/findings.ts";
import { createIngest, type IngestOptions } from "../../src/audit/ingest.ts";
import { keepEvents } from "../../src/audit/store.ts";
import { verifyLedger } from "../../src/audit/verify.ts";
import { createGaps } from "../../src/audit/workers/gaps.ts";
import type { Finding } from "../../src/domain/audit-chain.ts";
import { type AuditEvent, COLUMNS, MEMBER_NAMES, valuesOf } from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { createLog } from "../../src/kernel/log.ts";
import type { Database } from "../../src/ports/database.ts";
import {
  anyEvent,
  asKept,
  auditEvent,
  auditEvents,
  eventOf,
  ingestByName,
  rejectedIds,
  sent,
  sentUnfitted,
} from "./events.ts";
import { textOf } from "../../src/ledger/entry.ts";
import { LEDGER_DATABASES, type LedgerDatabase } from "./ledger-databases.ts";

const ring = keyring(Buffer.alloc(32, 7));
const silent = createLog({ level: "silent" });

const ROWS = `select ${COLUMNS.map(({ name, text }) => `${text} as ${name}`).join(", ")} from audit_events
  where id in (select i::uuid from json_array_elements_text($1::text::json) as i)`;
const textsOf = (event: AuditEvent) => Object.fromEntries(valuesOf(event).map((text, at) => [MEMBER_NAMES[at], text]));

for (const { kind, open } of LEDGER_DATABASES) {
  describe(`ingest on ${kind}`, () => {
    let ledger: LedgerDatabase;
    let db: Database;
    const findings: Finding[] = [];
    const filled: string[] = [];

    const options = (some: Partial<IngestOptions> = {}): IngestOptions => ({
      db,
      ring,
      onFindings: (found) => findings.push(...found),
      onFilled: (holes) => filled.push(...holes.map((hole) => `${hole.producer} ${hole.producer_seq}`)),
      ...some,
    });
    const newIngest = (some: Partial<IngestOptions> = {}) => ingestByName(options(some));

    const rowsOf = async (zone_id: string) => [
      ...(await db.sql<{ id: string; chain_seq: number }[]>`
        select id, chain_seq::float8 as chain_seq from audit_events where zone_id = ${zone_id}
        order by audit_events.chain_seq`),
    ];
    const holesOf = async (producer: string): Promise<readonly number[]> => {
      const rows = await db.sql<{ n: number }[]>`
        select producer_seq::float8 as n from audit_holes where producer = ${producer} order by producer_seq`;
      return rows.map((row) => row.n);
    };

    before(async () => {
      ledger = await open();
      db = ledger.db;
    });
    after(() => ledger.close());

    it("chains events in their order, per zone, from 1 and without gaps", async () => {
      const [a, b] = [uuidv7(), uuidv7()];
      const producer = uuidv7();
      const events = auditEvents(20, { producer }).map((event, index) => ({
        ...event,
        zone_id: index % 3 === 0 ? a : b,
      }));
      const result = await newIngest().ingest(events);
      assert.deepEqual(result, { chained: 20, duplicates: 0, rejected: [] });
      for (const zone_id of [a, b]) {
        const rows = await rowsOf(zone_id);
        const ids = events.filter((event) => event.zone_id === zone_id).map((event) => event.id);
        assert.deepEqual(
          rows.map((row) => row.id),
          ids,
        );
        assert.deepEqual(
          rows.map((row) => row.chain_seq),
          ids.map((_, index) => index + 1),
        );
        assert.deepEqual((await verifyLedger(db, ring, { zone_id })).findings, []);
      }
    });

    it("keeps every value to the letter, spells out what is reserved, and keeps an empty text as none", async () => {
      const zone_id = uuidv7();
      const producer = uuidv7();
      const row = Array.from({ length: 26 }, () => "1").join("\u001f");
      const values = [
        "\u001f",
        "\u001e",
        "\u0001",
        `a\u001e${row}\u001eb`,
        "\u001f\u001e",
        "",
        "NULL",
        "\\N",
        "é\u{1F600}",
        '"{}',
      ];
      const events = values.flatMap((value, index) => [
        auditEvent({ zone_id, producer, producer_seq: 1 + 2 * index, subject: value, session_id: null }),
        auditEvent({ zone_id, producer, producer_seq: 2 + 2 * index, request_id: value, metadata_json: value }),
      ]);
      const expected = { chained: events.length, duplicates: 0, rejected: [] };
      assert.deepEqual(await newIngest().ingest(events), expected);
      const rows = await db.sql<Record<string, unknown>[]>`
        select id, subject, session_id, request_id, metadata_json from audit_events where zone_id = ${zone_id}
        order by chain_seq`;
      assert.deepEqual(
        rows.map((one) => ({ ...one })),
        events.map(asKept).map(({ id, subject, session_id, request_id, metadata_json }) => ({
          id,
          subject,
          session_id,
          request_id,
          metadata_json,
        })),
      );
      assert.equal(rows[0]?.["subject"], "\\u001f");
      assert.deepEqual((await verifyLedger(db, ring, { zone_id })).findings, []);
      assert.deepEqual(await holesOf(producer), []);
    });

    it("keeps nothing of a batch whose texts the server reads as another number of rows", async () => {
      const zone_id = uuidv7();
      const event = auditEvent({ zone_id, producer: uuidv7() });
      const place = { chain_seq: 1, content_sha256: "00", chain_hmac: "00", key_id: "k" };
      const values = valuesOf(event);
      for (const forged of [
        textOf(values.with(2, "z\u001fz")), // a value too many
        `${textOf(values)}\u001f2\u001f00\u001f00\u001fk\u001e${textOf(values.with(1, uuidv7()))}`, // a row too many
      ]) {
        await assert.rejects(
          db.sql.begin((tx) => keepEvents(tx, [forged], [place], [], [])),
          /the database read [02] of 1 rows/,
        );
      }
      assert.deepEqual(await rowsOf(zone_id), []);
    });

    it("keeps a batch that meets every obstacle at once", async () => {
      const [zone_id, fresh] = [uuidv7(), uuidv7()];
      const producer = uuidv7();
      const [known] = auditEvents(1, { zone_id, producer });
      const ingest = newIngest();
      await ingest.ingest([known as AuditEvent]);
      await db.sql`update audit_heads set chain_seq = -3 where zone_id = ${zone_id}`;
      const events = [
        known as AuditEvent,
        auditEvent({ zone_id, producer, producer_seq: 2, subject: "\u001f" }),
        auditEvent({ zone_id: fresh, producer: uuidv7() }),
      ];
      assert.deepEqual(await ingest.ingest(events), { chained: 2, duplicates: 1, rejected: [] });
      assert.equal((await rowsOf(zone_id)).length, 2);
      assert.equal((await rowsOf(fresh)).length, 1);
    });

    it("keeps what comes again once, within a call and over calls", async () => {
      const zone_id = uuidv7();
      const events = auditEvents(10, { zone_id, producer: uuidv7() });
      const ingest = newIngest();
      assert.equal((await ingest.ingest([...events.slice(0, 6), ...events.slice(3, 6)])).duplicates, 3);
      const again = await ingest.ingest(events);
      assert.deepEqual(again, { chained: 4, duplicates: 6, rejected: [] });
      assert.deepEqual(await ingest.ingest(events), { chained: 0, duplicates: 10, rejected: [] });
      assert.deepEqual(
        (await rowsOf(zone_id)).map((row) => row.id),
        events.map((event) => event.id),
      );
    });

    it("keeps an event that two zones claim once, for the first", async () => {
      const [a, b] = [uuidv7(), uuidv7()];
      const event = auditEvent({ zone_id: a, producer: uuidv7() });
      await newIngest().ingest([event]);
      const again = await newIngest().ingest([{ ...event, zone_id: b }]);
      assert.equal(again.duplicates, 1);
      assert.deepEqual(await rowsOf(b), []);
    });

    it("keeps one chain and every event once while ingestors race over the same events and zones", async () => {
      const zone_ids = [uuidv7(), uuidv7(), uuidv7()];
      const producers = [uuidv7(), uuidv7()];
      const events = Array.from({ length: 240 }, (_, index) =>
        auditEvent({
          zone_id: zone_ids[index % 3] ?? "",
          producer: producers[index % 2] ?? "",
          producer_seq: (index >> 1) + 1,
        }),
      );
      const slices = Array.from({ length: 24 }, (_, index) => events.slice(index * 10, index * 10 + 20)); // each event twice
      const results = await Promise.all(
        [0, 1, 2, 3].map(async (hand) => {
          const ingest = newIngest();
          let chained = 0;
          for (const slice of slices.filter((_, index) => index % 4 === hand)) {
            // Each hand names its zones in another order: heads are locked in one order all the same.
            chained += (await ingest.ingest(hand % 2 === 0 ? slice : slice.toReversed())).chained;
          }
          return chained;
        }),
      );
      assert.equal(
        results.reduce((sum, one) => sum + one, 0),
        240,
      );
      const kept = (await Promise.all(zone_ids.map(rowsOf))).flat();
      assert.equal(new Set(kept.map((row) => row.id)).size, 240);
      for (const zone_id of zone_ids) {
        const verified = await verifyLedger(db, ring, { zone_id });
        assert.deepEqual([verified.rows, verified.findings], [80, []]);
      }
      assert.deepEqual((await Promise.all(producers.map(holesOf))).flat(), []);
    });

    it("counts a producer rightly while its events come in through several ingestors for different zones", async () => {
      const producer = uuidv7();
      const hands = [0, 1, 2, 3].map((hand) => ({ ingest: newIngest(), zone_id: uuidv7(), hand }));
      await Promise.all(
        hands.map(async ({ ingest, zone_id, hand }) => {
          for (let round = 0; round < 15; round += 1) {
            await ingest.ingest([auditEvent({ zone_id, producer, producer_seq: round * 4 + hand + 1 })]);
          }
        }),
      );
      const counted = await db.sql<{ last_seq: number }[]>`
        select last_seq::float8 as last_seq from audit_producers where producer = ${producer}`;
      assert.deepEqual([counted[0]?.last_seq, await holesOf(producer)], [60, []]);
    });

    it("sets poison apart, one by one, and keeps all that stands around it in its order", async () => {
      const zone_id = uuidv7();
      const producer = uuidv7();
      const good = auditEvents(8, { zone_id, producer });
      // Incompressible, so that no index takes it: the database's refusal, which nothing here foresees.
      const long = [9, 10].map((producer_seq) =>
        auditEvent({ zone_id, producer, producer_seq, request_id: Array.from({ length: 400 }, uuidv7).join("") }),
      );
      const [first, second] = long.map(sentUnfitted);
      assert.ok(first !== undefined && second !== undefined);
      const result = await createIngest(options()).ingest([
        ...good.slice(0, 3).map(sent),
        first,
        ...good.slice(3, 5).map(sent),
        second,
        ...good.slice(5).map(sent),
      ]);
      assert.equal(result.chained, 8);
      assert.deepEqual(
        rejectedIds(result),
        long.map(({ id }) => id),
      );
      for (const { reason } of result.rejected) assert.match(reason, /54000/);
      assert.deepEqual(
        (await rowsOf(zone_id)).map((row) => row.id),
        good.map((event) => event.id),
      );
      assert.deepEqual((await verifyLedger(db, ring, { zone_id })).findings, []);
      assert.deepEqual(await holesOf(producer), []); // nothing came behind them, so nothing is missing yet
      await newIngest().ingest([auditEvent({ zone_id, producer, producer_seq: 11 })]);
      assert.deepEqual(await holesOf(producer), [9, 10]);
    });

    it("sets an event apart whose text makes other rows than one, and keeps its neighbours", async () => {
      const zone_id = uuidv7();
      const producer = `sts:${zone_id}`;
      const events = auditEvents(8, { zone_id, producer }).map(sent);
      for (const separator of ["\u001e", "\u001f"]) {
        const misread = sent(auditEvent({ zone_id, producer, producer_seq: 9 }));
        const poison = { ...misread, text: `${misread.text}${separator}more` };
        const result = await createIngest(options()).ingest([...events.slice(0, 3), poison, ...events.slice(3)]);
        assert.deepEqual(rejectedIds(result), [eventOf(poison.values).id]);
        for (const { reason } of result.rejected) assert.match(reason, /its row/);
      }
      assert.deepEqual(
        (await rowsOf(zone_id)).map((row) => row.id),
        events.map(({ values }) => eventOf(values).id),
      );
      assert.deepEqual((await verifyLedger(db, ring, { zone_id })).findings, []);
    });

    it("rejects as a whole, and keeps nothing, where the database can't take any", async () => {
      const zone_id = uuidv7();
      const away = { ...db, sql: ledger.unreachable } as Database;
      await assert.rejects(newIngest({ db: away }).ingest(auditEvents(3, { zone_id })));
      assert.deepEqual(await rowsOf(zone_id), []);
    });

    it("hashes what it keeps: any event, read back, has its hash", async () => {
      const ingest = newIngest();
      const scope = uuidv7();
      await fc.assert(
        fc.asyncProperty(fc.array(anyEvent, { minLength: 1, maxLength: 12 }), async (drafts) => {
          const events = drafts.map((event): AuditEvent => ({
            ...event,
            id: uuidv7(),
            zone_id: `${scope}${event.zone_id}`,
          }));
          const { chained, rejected } = await ingest.ingest(events);
          assert.deepEqual([chained, rejected], [events.length, []]);
          const ids = events.map(({ id }) => id);
          const rows = await db.sql.unsafe<{ id: string }[]>(ROWS, [JSON.stringify(ids)]);
          const kept = new Map(rows.map((row) => [row.id, { ...row }]));
          for (const event of events) assert.deepEqual(kept.get(event.id), textsOf(asKept(event)));
        }),
        { numRuns: 40 },
      );
      const verified = await verifyLedger(db, ring);
      assert.ok(verified.zones > 10);
      assert.deepEqual(verified.findings, []);
    });

    it("notes a number that did not come, and takes the note back when it does", async () => {
      const zone_id = uuidv7();
      const producer = uuidv7();
      const events = auditEvents(6, { zone_id, producer });
      const ingest = newIngest();
      await ingest.ingest([events[1], events[4]].flatMap((event) => event ?? []));
      assert.deepEqual(await holesOf(producer), [1, 3, 4]);
      await ingest.ingest([events[3], events[5]].flatMap((event) => event ?? []));
      assert.deepEqual(await holesOf(producer), [1, 3]);
      await ingest.ingest(events);
      assert.deepEqual(await holesOf(producer), []);
      const of_producer = filled.filter((hole) => hole.startsWith(producer));
      assert.deepEqual(
        of_producer,
        [4, 1, 3].map((number) => `${producer} ${number}`),
      );
    });

    it("tells at once of a jump that is too wide to watch, and fills no table with it", async () => {
      const zone_id = uuidv7();
      const producer = uuidv7();
      findings.length = 0;
      await newIngest().ingest([auditEvent({ zone_id, producer, producer_seq: Number.MAX_SAFE_INTEGER })]);
      assert.deepEqual(await holesOf(producer), []);
      assert.deepEqual(
        findings.map((finding) => finding.kind),
        ["audit_gap"],
      );
      const stored = await db.sql`select from audit_findings where detail like ${`%${producer}%`}`;
      assert.equal(stored.length, 1);
    });

    it("chains under the current key and stays verifiable when the key changes", async () => {
      const zone_id = uuidv7();
      const producer = uuidv7();
      const events = auditEvents(6, { zone_id, producer });
      const next = keyring(Buffer.alloc(32, 8), [Buffer.alloc(32, 7)]);
      await newIngest().ingest(events.slice(0, 3));
      await newIngest({ ring: next }).ingest(events.slice(3));
      assert.deepEqual((await verifyLedger(db, next, { zone_id })).findings, []);
      const without = (await verifyLedger(db, keyring(Buffer.alloc(32, 8)), { zone_id })).findings;
      assert.deepEqual(
        without.map(({ kind, chain_seq }) => [kind, chain_seq]),
        [["hmac_mismatch", 1]],
      );
    });

    it("needs no more than the privileges of its group: it adds to the ledger and alters nothing in it", async (t) => {
      if (ledger.url === undefined) {
        t.skip("the embedded database knows one user only");
        return;
      }
      const user = `ledger_${uuidv7().slice(-12)}`;
      await db.sql.unsafe(`create role ${user} login in role caracal_audit`);
      const url = new URL(ledger.url);
      url.username = user;
      const own = createPostgres({ url: url.href, name: "audit", max: 2 });
      try {
        const zone_id = uuidv7();
        const producer = uuidv7();
        const events = auditEvents(6, { zone_id, producer });
        const by_user = newIngest({ db: own });
        await by_user.ingest(events.slice(3));
        await by_user.ingest(events);
        assert.deepEqual((await verifyLedger(own, ring, { zone_id })).findings, []);
        await createGaps({
          db: own,
          findings: createFindings({ db: own, log: silent, onFinding: () => {} }),
          log: silent,
        }).tick();
        for (const change of [
          "update audit_events set subject = 'x'",
          "delete from audit_events",
          "truncate audit_events",
        ]) {
          await assert.rejects(own.sql.unsafe(change), /permission denied/);
        }
      } finally {
        await own.close();
        await db.sql.unsafe(`drop role ${user}`);
      }
    });

    it("goes on where a head was set back, deleted or set to nonsense, and says so", async () => {
      for (const harm of [
        (zone_id: string) => db.sql`update audit_heads set chain_seq = 2 where zone_id = ${zone_id}`,
        (zone_id: string) => db.sql`delete from audit_heads where zone_id = ${zone_id}`,
        (zone_id: string) => db.sql`update audit_heads set chain_seq = -3 where zone_id = ${zone_id}`,
        (zone_id: string) => db.sql`update audit_heads set chain_seq = 9223372036854775807 where zone_id = ${zone_id}`,
        (zone_id: string) => db.sql`update audit_heads set chain_seq = 4503599627370496 where zone_id = ${zone_id}`,
        (zone_id: string) => db.sql`update audit_heads set chain_seq = 4503599627370495 where zone_id = ${zone_id}`,
        (zone_id: string) => db.sql`update audit_heads set chain_hmac = 'nonsense' where zone_id = ${zone_id}`,
      ]) {
        const zone_id = uuidv7();
        const events = auditEvents(8, { zone_id, producer: uuidv7() });
        await newIngest().ingest(events.slice(0, 5));
        await harm(zone_id);
        findings.length = 0;
        const result = await newIngest().ingest(events.slice(5));
        assert.deepEqual(result, { chained: 3, duplicates: 0, rejected: [] });
        assert.deepEqual(
          findings.map((one) => [one.kind, one.zone_id, one.chain_seq]),
          [["chain_break", zone_id, 5]],
        );
        assert.deepEqual(
          (await rowsOf(zone_id)).map((row) => row.id),
          events.map((event) => event.id),
        );
        assert.deepEqual((await verifyLedger(db, ring, { zone_id })).findings, []);
        const stored = await db.sql`select from audit_findings where zone_id = ${zone_id}`;
        assert.equal(stored.length, 1);
      }
    });

    it("keeps the events of all zones beside one whose head stands, or stood, where numbers end", async () => {
      const [innocent, wedged] = [uuidv7(), uuidv7()];
      const producer = uuidv7();
      let seq = 1;
      const both = () => [
        ...auditEvents(2, { zone_id: wedged, producer }, (seq += 4)),
        ...auditEvents(2, { zone_id: innocent, producer }, seq + 2),
      ];
      await newIngest().ingest(both());
      // The places where it could go on are tried out: the last ones with and without rows of ours in front of the end.
      for (const head of ["4503599627370494", "4503595332403200", "4503595332403199", "4503595332403198", "2", "0"]) {
        await db.sql`update audit_heads set chain_seq = ${head}::text::bigint where zone_id = ${wedged}`;
        for (let i = 0; i < 3; i += 1) {
          const result = await newIngest().ingest(both());
          assert.deepEqual(result, { chained: 4, duplicates: 0, rejected: [] }, head);
        }
      }
      assert.equal((await rowsOf(innocent)).length, 38);
      assert.equal((await rowsOf(wedged)).length, 38);
      assert.deepEqual((await verifyLedger(db, ring, { zone_id: innocent })).findings, []);
      assert.ok((await verifyLedger(db, ring, { zone_id: wedged })).findings_total > 0);
    });

    it("sets a zone apart whose head can't be set right, keeps the events of all others, and says so once", async () => {
      const wedged = uuidv7();
      const others = Array.from({ length: 9 }, () => uuidv7());
      await db.sql.unsafe(`
        create function test_wedge() returns trigger language plpgsql as
          $$ begin new.chain_seq := 9223372036854775807; return new; end $$;
        create trigger test_wedge before insert or update on audit_heads
          for each row when (new.zone_id = '${wedged}') execute function test_wedge();`);
      try {
        findings.length = 0;
        for (let round = 0; round < 2; round += 1) {
          const producer = uuidv7();
          const zones = [...others.slice(0, 4), wedged, ...others.slice(4), wedged];
          const events = zones.map((zone_id, i) => auditEvent({ zone_id, producer, producer_seq: i + 1 }));
          const result = await newIngest().ingest(events);
          assert.equal(result.chained, 9);
          assert.deepEqual(
            rejectedIds(result),
            events.filter((event) => event.zone_id === wedged).map((event) => event.id),
          );
        }
        assert.ok(findings.every((one) => one.kind === "chain_break" && one.zone_id === wedged));
        const stored = await db.sql`select from audit_findings where zone_id = ${wedged}`;
        assert.equal(stored.length, 1);
      } finally {
        await db.sql.unsafe("drop trigger test_wedge on audit_heads; drop function test_wedge");
      }
    });

    it("counts a producer anew whose count was set to nonsense, and keeps its events", async () => {
      const producer = uuidv7();
      await newIngest().ingest(auditEvents(2, { producer }));
      await db.sql`update audit_producers set last_seq = 9223372036854775807 where producer = ${producer}`;
      const result = await newIngest().ingest(auditEvents(2, { producer }, 3));
      assert.deepEqual(result, { chained: 2, duplicates: 0, rejected: [] });
      assert.deepEqual(await holesOf(producer), [1, 2]);
    });
  });
}
