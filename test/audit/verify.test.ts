import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { createFindings } from "../../src/audit/findings.ts";
import { verifyHeads, verifyLedger } from "../../src/audit/verify.ts";
import { createGaps } from "../../src/audit/workers/gaps.ts";
import { createSweep, type Sweep } from "../../src/audit/workers/sweep.ts";
import { type ChainPoint, type Finding, type FindingKind } from "../../src/domain/audit-chain.ts";
import { COLUMNS } from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import type { Log } from "../../src/kernel/log.ts";
import type { Database } from "../../src/ports/database.ts";
import { auditEvent, auditEvents, ingestByName } from "./events.ts";
import { LEDGER_DATABASES, type LedgerDatabase } from "./ledger-databases.ts";

const ring = keyring(Buffer.alloc(32, 7));

const places = (findings: readonly Finding[]): readonly (readonly unknown[])[] =>
  findings.map((finding) => [finding.kind, finding.chain_seq]);

type Line = { readonly level: string; readonly facts: Record<string, unknown>; readonly message: string };
const collectingLog = (lines: Line[]): Log => {
  const at = (level: string) => (facts: object, message: string) =>
    void lines.push({ level, facts: facts as Record<string, unknown>, message });
  const log: Log = { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error"), child: () => log };
  return log;
};

for (const { kind, open } of LEDGER_DATABASES) {
  describe(`verification on ${kind}`, () => {
    let ledger: LedgerDatabase;
    let db: Database;
    let ingest: ReturnType<typeof ingestByName>;

    /** A zone with `count` events, alone in what it tests. */
    const newZone = async (count: number): Promise<string> => {
      const zone_id = uuidv7();
      await ingest.ingest(auditEvents(count, { zone_id, producer: uuidv7() }));
      return zone_id;
    };
    const verify = async (zone_id: string) => (await verifyLedger(db, ring, { zone_id })).findings;

    before(async () => {
      ledger = await open();
      db = ledger.db;
      ingest = ingestByName({ db, ring, onFindings: () => {}, onFilled: () => {} });
    });
    after(() => ledger.close());

    const FORGED: Readonly<Record<string, string>> = {
      text: "forged",
      uuid: uuidv7(),
      bigint: "77",
      smallint: "2",
      bytea: `\\x${"00".repeat(32)}`,
    };
    const columns = [
      ...COLUMNS.filter(({ name }) => name !== "zone_id"),
      { name: "content_sha256", type: "bytea" },
      { name: "chain_hmac", type: "bytea" },
      { name: "key_id", type: "text" },
    ];
    for (const { name: column, type } of columns) {
      it(`finds an altered ${column}`, async () => {
        const zone_id = await newZone(7);
        const change = `update audit_events set ${column} = $1::text::${type} where zone_id = $2 and chain_seq = 4`;
        await db.sql.unsafe(change, [FORGED[type] ?? "", zone_id]);
        assert.deepEqual(places(await verify(zone_id)), [["hmac_mismatch", 4]]);
      });
    }

    it("finds a field that was made null, and one that was null and is not", async () => {
      for (const harm of [
        (zone_id: string) =>
          db.sql`update audit_events set subject = null where zone_id = ${zone_id} and chain_seq = 4`,
        (zone_id: string) =>
          db.sql`update audit_events set agent_session_id = gen_random_uuid() where zone_id = ${zone_id} and chain_seq = 4`,
      ]) {
        const zone_id = await newZone(5);
        await harm(zone_id);
        assert.deepEqual(places(await verify(zone_id)), [["hmac_mismatch", 4]]);
      }
    });

    it("finds a row that was moved to another zone, in both", async () => {
      const [from, to] = [await newZone(5), await newZone(3)];
      await db.sql`update audit_events set zone_id = ${to}, chain_seq = 4 where zone_id = ${from} and chain_seq = 4`;
      assert.deepEqual(places(await verify(from)), [["chain_break", 4]]);
      assert.deepEqual(places(await verify(to)), [
        ["chain_break", 4],
        ["hmac_mismatch", 4],
      ]);
    });

    it("finds deleted rows: first, in the middle, last, and all", async () => {
      const cases: readonly (readonly [number, number, number])[] = [
        [1, 1, 1],
        [3, 5, 3],
        [8, 9, 8],
        [1, 9, 1],
      ];
      for (const [first, last, place] of cases) {
        const zone_id = await newZone(9);
        await db.sql`delete from audit_events where zone_id = ${zone_id} and chain_seq between ${first}::int and ${last}::int`;
        assert.deepEqual(places(await verify(zone_id)), [["chain_break", place]]);
      }
    });

    it("names the same place for a cut tail, also when the chain has gone on behind it", async () => {
      const zone_id = await newZone(9);
      await db.sql`delete from audit_events where zone_id = ${zone_id} and chain_seq > 6`;
      assert.deepEqual(places(await verify(zone_id)), [["chain_break", 7]]);
      await ingest.ingest(auditEvents(4, { zone_id, producer: uuidv7() }));
      assert.deepEqual(places(await verify(zone_id)), [["chain_break", 7]]);
    });

    it("finds swapped rows", async () => {
      const zone_id = await newZone(6);
      await db.sql`update audit_events set chain_seq = 1000 where zone_id = ${zone_id} and chain_seq = 3`;
      await db.sql`update audit_events set chain_seq = 3 where zone_id = ${zone_id} and chain_seq = 4`;
      await db.sql`update audit_events set chain_seq = 4 where zone_id = ${zone_id} and chain_seq = 1000`;
      assert.deepEqual(places(await verify(zone_id))[0], ["hmac_mismatch", 3]);
    });

    it("finds an altered and a deleted head, and rows that were added by another hand", async () => {
      const cases: readonly (readonly [(zone_id: string) => Promise<unknown>, unknown])[] = [
        [
          (z) => db.sql`update audit_heads set chain_hmac = ${"00".repeat(32)} where zone_id = ${z}`,
          [["chain_break", 6]],
        ],
        [(z) => db.sql`update audit_heads set chain_seq = 4 where zone_id = ${z}`, [["chain_break", 6]]],
        [(z) => db.sql`update audit_heads set chain_seq = 8 where zone_id = ${z}`, [["chain_break", 7]]],
        [
          (z) => db.sql`update audit_heads set chain_seq = 9223372036854775807 where zone_id = ${z}`,
          [["chain_break", 7]],
        ],
        [(z) => db.sql`delete from audit_heads where zone_id = ${z}`, [["chain_break", 6]]],
        [
          (z) => db.sql`
            insert into audit_events select (json_populate_record(e, '{"chain_seq": 9223372036854775807}')).*
            from audit_events e where zone_id = ${z} and chain_seq = 6`,
          [["chain_break", Number.MAX_SAFE_INTEGER]],
        ],
        [
          (z) => db.sql`
            insert into audit_events select (json_populate_record(e, '{"chain_seq": -9223372036854775808}')).*
            from audit_events e where zone_id = ${z} and chain_seq = 6`,
          [["chain_break", 1]],
        ],
      ];
      for (const [harm, expected] of cases) {
        const zone_id = await newZone(6);
        await harm(zone_id);
        assert.deepEqual(places(await verify(zone_id)), expected);
      }
    });

    it("finds what was done to any row of a chain that takes many batches", async () => {
      const zone_id = await newZone(1_000);
      await db.sql`update audit_events set subject = 'mallory' where zone_id = ${zone_id} and chain_seq in (256, 257, 700)`;
      await db.sql`delete from audit_events where zone_id = ${zone_id} and chain_seq = 512`;
      assert.deepEqual(places(await verify(zone_id)), [
        ["hmac_mismatch", 256],
        ["chain_break", 512],
        ["hmac_mismatch", 700],
      ]);
    });

    it("bounds what it finds in one zone", async () => {
      const zone_id = await newZone(1_500);
      await db.sql`update audit_events set subject = 'mallory' where zone_id = ${zone_id} and chain_seq % 2 = 0`;
      const { findings_total, rows } = await verifyLedger(db, ring, { zone_id });
      assert.ok(findings_total > 100 && findings_total < 400, String(findings_total));
      assert.ok(rows < 1_500);
    });

    it("is not disturbed by events that are chained meanwhile", async () => {
      const zone_id = await newZone(600);
      let more = 0;
      const { findings_total } = await verifyLedger(db, ring, {
        zone_id,
        onRows: () => {
          more += 1;
        },
        onFindings: async () => {},
        share: 0.5,
      });
      const producer = uuidv7();
      const going = Promise.all([
        ...[1, 2, 3, 4].map((n) => ingest.ingest(auditEvents(50, { zone_id, producer }, n * 50 - 49))),
        ...[1, 2, 3].map(() => verify(zone_id)),
      ]);
      const found = (await going).filter((one) => Array.isArray(one)).flat();
      assert.deepEqual([findings_total, found], [0, []]);
      assert.ok(more > 1);
    });

    it("ends between two batches when it is told to", async () => {
      const zone_id = await newZone(600);
      const abort = new AbortController();
      const cut = verifyLedger(db, ring, {
        zone_id,
        signal: abort.signal,
        onRows: () => abort.abort(new Error("drain")),
      });
      await assert.rejects(cut, /drain/);
    });

    it("remembers how far a chain went, and sees a cut that the head was made to fit", async () => {
      const zone_id = await newZone(8);
      const seen = new Map<string, ChainPoint>();
      assert.deepEqual((await verifyLedger(db, ring, { zone_id, seen })).findings, []);
      await db.sql`delete from audit_events where zone_id = ${zone_id} and chain_seq > 5`;
      await db.sql`
        update audit_heads h set chain_seq = 5, chain_hmac = encode(e.chain_hmac, 'hex') from audit_events e
        where h.zone_id = ${zone_id} and e.zone_id = ${zone_id} and e.chain_seq = 5`;
      assert.deepEqual(await verify(zone_id), []); // the chain alone can't show it
      assert.deepEqual(places((await verifyLedger(db, ring, { zone_id, seen })).findings), [["chain_break", 6]]);
    });

    it("sees a zone that was taken out whole, head and rows", async () => {
      const zone_id = await newZone(4);
      const seen = new Map<string, ChainPoint>();
      await verifyLedger(db, ring, { zone_id, seen });
      await db.sql`delete from audit_events where zone_id = ${zone_id}`;
      await db.sql`delete from audit_heads where zone_id = ${zone_id}`;
      assert.deepEqual(places((await verifyLedger(db, ring, { zone_id, seen })).findings), [["chain_break", 1]]);
    });

    it("says of a zone that the ledger does not have that it has no rows", async () => {
      const nothing = await verifyLedger(db, ring, { zone_id: "no such zone" });
      assert.deepEqual(nothing, { zones: 0, rows: 0, findings: [], findings_total: 0 });
    });
  });

  describe(`the workers that watch the ledger on ${kind}`, () => {
    let ledger: LedgerDatabase;
    let db: Database;
    let ingest: ReturnType<typeof ingestByName>;
    let now_ms = 1_000;
    const clock = { now_ms: () => now_ms, monotonic_ms: () => now_ms };

    const watch = (): {
      sweep: Sweep;
      lines: Line[];
      counted: FindingKind[];
      findings: ReturnType<typeof createFindings>;
    } => {
      const lines: Line[] = [];
      const counted: FindingKind[] = [];
      const log = collectingLog(lines);
      const findings = createFindings({ db, log, onFinding: (found) => counted.push(found) });
      return { sweep: createSweep({ db, ring, findings, clock, log, onRows: () => {} }), lines, counted, findings };
    };
    const stored = async () => [
      ...(await db.sql<{ kind: string; zone_id: string | null; chain_seq: number | null; detail: string }[]>`
        select kind, zone_id, chain_seq::float8 as chain_seq, detail from audit_findings order by id`),
    ];

    before(async () => {
      ledger = await open();
      db = ledger.db;
      ingest = ingestByName({ db, ring, onFindings: () => {}, onFilled: () => {} });
    });
    after(() => ledger.close());

    it("are not ready before every zone's head was looked at, and are after, whatever was found", async () => {
      const broken = uuidv7();
      const headless = uuidv7();
      for (const zone_id of [broken, headless, uuidv7()])
        await ingest.ingest(auditEvents(300, { zone_id, producer: uuidv7() }));
      await db.sql`delete from audit_events where zone_id = ${broken} and chain_seq = 300`;
      await db.sql`delete from audit_heads where zone_id = ${headless}`;
      const { sweep, lines, counted } = watch();
      assert.match(sweep.fault() ?? "", /not verified/);
      await sweep.tick();
      assert.equal(sweep.fault(), undefined);
      assert.deepEqual(places(await verifyHeads(db)), [
        ["chain_break", 300],
        ["chain_break", 300],
      ]);
      assert.deepEqual(counted, ["chain_break", "chain_break"]);
      const errors = lines.filter((line) => line.level === "error");
      assert.deepEqual(new Set(errors.map((line) => line.facts["zone_id"])), new Set([broken, headless]));
      assert.ok(errors.every((line) => line.message.startsWith("chain_break")));
      assert.equal((await stored()).length, 2);
    });

    it("verify again after an hour and not before, and tell and store a place once", async () => {
      const zone_id = uuidv7();
      await ingest.ingest(auditEvents(10, { zone_id, producer: uuidv7() }));
      await db.sql`update audit_events set decision = 'allow' where zone_id = ${zone_id} and chain_seq = 5`;
      const { sweep, lines, counted } = watch();
      const sweeps = () => lines.filter((line) => line.message === "the ledger was verified").length;
      await sweep.tick();
      assert.equal(sweeps(), 1);
      const known = counted.length;
      assert.ok(counted.includes("hmac_mismatch"));
      assert.ok(lines.some((line) => line.message.startsWith("hmac_mismatch") && line.facts["chain_seq"] === 5));
      now_ms += 3_599_000;
      await sweep.tick();
      assert.equal(sweeps(), 1);
      now_ms += 2_000;
      await sweep.tick();
      assert.equal(sweeps(), 2);
      assert.equal(counted.length, known);
      const places_stored = (await stored()).filter((finding) => finding.zone_id === zone_id);
      assert.deepEqual(
        places_stored.map(({ kind: found, chain_seq }) => [found, chain_seq]),
        [["hmac_mismatch", 5]],
      );
      const restarted = watch();
      await restarted.sweep.tick();
      assert.ok(restarted.counted.includes("hmac_mismatch")); // who restarts is told again; the table is not
      assert.equal((await stored()).filter((finding) => finding.zone_id === zone_id).length, 1);
    });

    it("try again where the database was away, and stay unready until then", async () => {
      const lines: Line[] = [];
      const log = collectingLog(lines);
      const away: Database = { ...db, sql: ledger.unreachable };
      const findings = createFindings({ db: away, log, onFinding: () => {} });
      const sweep = createSweep({ db: away, ring, findings, clock, log, onRows: () => {} });
      await assert.rejects(sweep.tick());
      assert.match(sweep.fault() ?? "", /not verified/);
    });

    it("tell of a number that stays missing, once, as one range per producer, and not before its time", async () => {
      const zone_id = uuidv7();
      const producer = uuidv7();
      const numbered = (producer_seq: number) => auditEvent({ zone_id, producer, producer_seq });
      await ingest.ingest([1, 2, 6, 7, 9].map(numbered));
      const { lines, counted, findings } = watch();
      await createGaps({ db, findings, log: collectingLog(lines) }).tick();
      assert.deepEqual(counted, []);
      const due = createGaps({ db, findings, log: collectingLog(lines), stands_after_s: 0 });
      await due.tick();
      await due.tick();
      assert.deepEqual(counted, ["audit_gap", "audit_gap"]);
      const gaps = (await stored()).filter((finding) => finding.kind === "audit_gap").map((finding) => finding.detail);
      assert.deepEqual(gaps, [
        `producer ${producer}: numbers 3 to 5 did not come`,
        `producer ${producer}: number 8 did not come`,
      ]);
      assert.ok(lines.filter((line) => line.level === "error").every((line) => line.message.startsWith("audit_gap")));
    });
  });
}
