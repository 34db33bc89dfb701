import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, it } from "node:test";
import { openJournal } from "../../src/adapters/journal/index.ts";
import { createMemory } from "../../src/adapters/memory/index.ts";
import { AUDIT_GROUP, deadLetterOf, STREAMS } from "../../src/contracts/streams.ts";
import { AT, type AuditDraft, type AuditEvent, LedgerShare } from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import type { Journal } from "../../src/ports/journal.ts";
import { START, type StreamLoad, type Streams, Unavailable } from "../../src/ports/streams.ts";
import { entriesOf, MAX_EVENT_BYTES, type SentEvent } from "../../src/ledger/entry.ts";
import { createAuditWriter } from "../../src/ledger/writer.ts";
import { signEntry, verifyEntry } from "../../src/broadcast/envelope.ts";
import { type AuditConsumerOptions, createAuditConsumer, replayDead } from "../../src/ledger/consumer.ts";
import { eventOf, readEvents } from "../audit/events.ts";
import { type Backend, BACKENDS } from "../contract/backends.ts";
import { eventually } from "../support/eventually.ts";
import { quietLog } from "../support/quiet-log.ts";

const ring = keyring(randomBytes(32));
const idOf = ({ values }: SentEvent): string => eventOf(values).id;
const [C1, C2, POISON] = [uuidv7(), uuidv7(), uuidv7()];
const DLQ = deadLetterOf(STREAMS.audit);
const draft = (more: Partial<AuditDraft> = {}): AuditDraft => ({
  zone_id: "z1",
  event_type: "token.exchange",
  decision: "allow",
  ...more,
});

describe("the audit stream", () => {
  let root = "";
  let unique = 0;
  const closing: (() => Promise<unknown>)[] = [];
  before(async () => {
    root = await mkdtemp(join(tmpdir(), "caracal-audit-"));
  });
  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });
  after(() => rm(root, { recursive: true, force: true }));

  const newJournal = async (more: { max_bytes?: number; dir?: string } = {}): Promise<Journal> => {
    const journal = await openJournal({
      dir: more.dir ?? join(root, `j${++unique}`),
      name: "replay",
      max_bytes: more.max_bytes ?? 10_000_000,
      log: quietLog(),
    });
    closing.push(() => journal.close());
    return journal;
  };
  const eventsIn = async (streams: Streams, stream: string = STREAMS.audit): Promise<AuditEvent[]> =>
    (await streams.range(stream, START, 10_000)).flatMap((entry) => readEvents(entry.fields) ?? []);

  /** Memory streams that can be taken away. */
  const fragile = async () => {
    const memory = await createMemory({ clock: systemClock });
    closing.push(() => memory.close());
    let away = false;
    let appends = 0;
    const streams: Streams = {
      ...memory.streams,
      append: (stream, entries) => {
        appends += 1;
        return away ? Promise.reject(new Unavailable("Redis")) : memory.streams.append(stream, entries);
      },
    };
    return { streams, appends: () => appends, setAway: (value: boolean) => (away = value) };
  };
  const writerOn = (streams: Streams, journal: Journal) => {
    const where: string[] = [];
    const log = quietLog();
    const writer = createAuditWriter({
      streams,
      ring,
      journal,
      producer: "sts:1",
      clock: systemClock,
      log,
      onEvents: (place, count) => where.push(...Array<string>(count).fill(place)),
    });
    closing.push(() => writer.stop(1000));
    return { writer, where, log };
  };

  describe("at its writer's end", () => {
    it("puts all events of one tick into one signed entry, numbered without gaps", async () => {
      const { streams, appends } = await fragile();
      const { writer } = writerOn(streams, await newJournal());
      const recorded = writer.record(draft({ decision: "deny" }));
      const ids = await Promise.all(Array.from({ length: 20 }, () => writer.append(draft())));
      assert.equal(appends(), 1);
      const entries = await streams.range(STREAMS.audit, START, 10);
      assert.equal(entries.length, 1);
      assert.ok(verifyEntry(ring, STREAMS.audit, entries[0]?.fields ?? {}));
      const events = await eventsIn(streams);
      assert.deepEqual(
        events.map((event) => event.id),
        [recorded, ...ids],
      );
      assert.deepEqual(
        events.map((event) => event.producer_seq),
        Array.from({ length: 21 }, (_, i) => i + 1),
      );
      assert.ok(
        events.every(
          (event) => event.producer === "sts:1" && /^\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z$/.test(event.occurred_at),
        ),
      );
    });

    it("writes a recorded event soon, without an append to go along with", async () => {
      const { streams } = await fragile();
      const { writer } = writerOn(streams, await newJournal());
      writer.record(draft());
      await eventually(async () => assert.equal((await eventsIn(streams)).length, 1), { timeout_ms: 500 });
    });

    it("splits what is too much for one entry", async () => {
      const { streams } = await fragile();
      const { writer } = writerOn(streams, await newJournal());
      await Promise.all(Array.from({ length: 600 }, () => writer.append(draft())));
      await Promise.all(
        Array.from({ length: 20 }, () => writer.append(draft({ metadata_json: JSON.stringify("x".repeat(60_000)) }))),
      );
      const entries = await streams.range(STREAMS.audit, START, 100);
      assert.ok(entries.every((entry) => (entry.fields["events"] as string).length <= 512 * 1024 + 1024));
      assert.ok(entries.every((entry) => (readEvents(entry.fields) ?? []).length <= 256));
      assert.equal((await eventsIn(streams)).length, 620);
    });

    it("keeps what was granted by an event that is too long", async () => {
      const { streams } = await fragile();
      const { writer } = writerOn(streams, await newJournal());
      const scope = Array.from({ length: 150 }, (_, at) => `scope-number-${at}`).join(" ");
      const target = Array.from({ length: 16 }, (_, at) => `resource://number-${at}-${"x".repeat(100)}`);
      await writer.append(draft({ metadata_json: JSON.stringify({ scope, target, rest: "x".repeat(200_000) }) }));
      const [event] = await eventsIn(streams);
      assert.deepEqual(JSON.parse(event?.metadata_json ?? ""), { scope, target, rest: { truncated_chars: 200_002 } });
    });

    it("refuses an event that can't be written, says so under its number, and writes the others of its tick", async () => {
      const { streams } = await fragile();
      const { writer, log } = writerOn(streams, await newJournal());
      const deep = `{"evaluations":${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
      const before = writer.append(draft({ subject: "before" }));
      const refused = writer.append(draft({ subject: "deep", metadata_json: deep }));
      const behind = writer.append(draft({ subject: "behind" }));
      await assert.rejects(refused, Unavailable);
      await Promise.all([before, behind]);
      const events = await eventsIn(streams);
      assert.deepEqual(
        events.map(({ subject, decision, producer_seq }) => [subject, decision, producer_seq]),
        [
          ["before", "allow", 1],
          ["deep", "deny", 2],
          ["behind", "allow", 3],
        ],
      );
      assert.deepEqual(JSON.parse(events[1]?.metadata_json ?? ""), { reason: "unwritable", decided: "allow" });
      assert.match(JSON.stringify(log.lines), /can't be written/);
    });

    it("keeps the decision of an event that is too long, without its free texts", async () => {
      const { streams } = await fragile();
      const { writer } = writerOn(streams, await newJournal());
      const id = await writer.append(draft({ metadata_json: JSON.stringify("x".repeat(1_000_000)), subject: "who" }));
      const [event] = await eventsIn(streams);
      assert.deepEqual([event?.id, event?.decision, event?.subject], [id, "allow", "who"]);
      assert.deepEqual(JSON.parse(event?.metadata_json ?? ""), { truncated_chars: 1_000_002 });
      assert.ok(JSON.stringify(event).length < MAX_EVENT_BYTES);
    });

    it("refuses an append that can't be written, journals it as the refusal that it became, and sends it when the stream is back", async () => {
      const { streams, setAway } = await fragile();
      const { writer, where } = writerOn(streams, await newJournal());
      await writer.append(draft());
      setAway(true);
      const appended = writer.append(draft({ metadata_json: '{"method":"GET"}' }));
      const recorded = writer.record(draft({ decision: "deny", metadata_json: '{"reason":"policy"}' }));
      await assert.rejects(appended, Unavailable);
      assert.equal(writer.backlog, 2);
      setAway(false);
      await writer.replay();
      await writer.append(draft());
      assert.equal(writer.backlog, 0);
      const events = (await eventsIn(streams)).sort((a, b) => a.producer_seq - b.producer_seq);
      assert.deepEqual(
        events.map((event) => [event.producer_seq, event.decision]),
        [
          [1, "allow"],
          [2, "deny"],
          [3, "deny"],
          [4, "allow"],
        ],
      );
      assert.deepEqual(JSON.parse(events[1]?.metadata_json ?? ""), {
        method: "GET",
        reason: "audit_unavailable",
        decided: "allow",
      });
      assert.deepEqual([events[2]?.id, events[2]?.metadata_json], [recorded, '{"reason":"policy"}']);
      assert.deepEqual([...where].sort(), ["journal", "journal", "stream", "stream", "stream", "stream"]);
    });

    it("finds what the process before it journaled, and sends it in order by itself", async () => {
      const { streams, setAway } = await fragile();
      const dir = join(root, `j${++unique}`);
      const journal = await newJournal({ dir });
      const first = writerOn(streams, journal);
      setAway(true);
      const ids = Array.from({ length: 700 }, () => first.writer.record(draft({ decision: "deny" })));
      await first.writer.flush();
      await first.writer.stop(1000);
      await journal.close();
      setAway(false);
      const second = writerOn(streams, await newJournal({ dir }));
      assert.equal(second.writer.backlog, 700);
      await second.writer.start(() => undefined);
      await eventually(() => assert.equal(second.writer.backlog, 0));
      assert.deepEqual(
        (await eventsIn(streams)).map((event) => event.id),
        ids,
      );
    });

    it("says so when neither stream nor journal takes an event, holds it, and writes it when it can", async () => {
      const { streams, setAway } = await fragile();
      const { writer, log } = writerOn(streams, await newJournal({ max_bytes: 10 }));
      setAway(true);
      await assert.rejects(writer.append(draft()), Unavailable);
      assert.ok(log.lines.some((line) => line.level === "error" && /neither/.test(line.message)));
      assert.equal(writer.backlog, 1);
    });

    describe("of a stream that is near full", () => {
      const MIB = 1024 * 1024;
      const filled = async () => {
        const { streams } = await fragile();
        let load: StreamLoad = { bytes: 0, room_bytes: 64 * MIB, oldest_ms: 0 };
        let looks = 0;
        let now_ms = 1_700_000_000_000;
        const writer = createAuditWriter({
          streams: {
            ...streams,
            load: async () => {
              looks += 1;
              return load;
            },
          },
          ring,
          journal: await newJournal(),
          producer: "sts:1",
          clock: { now_ms: () => now_ms, monotonic_ms: () => now_ms },
          log: quietLog(),
        });
        closing.push(() => writer.stop(1000));
        const fill = async (zone_id: string, count: number): Promise<void> => {
          await Promise.all(
            Array.from({ length: count }, () =>
              writer.append(draft({ zone_id, metadata_json: `"${"x".repeat(64 * 1024)}"` })),
            ),
          );
        };
        const look = async (bytes: number, room_bytes: number, oldest_ms: number): Promise<void> => {
          load = { bytes, room_bytes, oldest_ms };
          now_ms += 1000;
          await writer.look();
        };
        return { writer, streams, fill, look, looks: () => looks };
      };

      it("refuses the zone that filled it, by that word, and goes on for all others until it is full", async () => {
        const { writer, streams, fill, look } = await filled();
        await fill("loud", 40);
        await fill("quiet", 1);
        await look(2.6 * MIB, 60 * MIB, 5_000);
        await fill("loud", 17);
        await look(2.6 * MIB, 0.8 * MIB, 6_000); // 76 % full
        await assert.rejects(writer.append(draft({ zone_id: "loud" })), LedgerShare);
        await assert.rejects(writer.append(draft({ zone_id: "loud" })), Unavailable);
        await fill("quiet", 1);
        await fill("new", 1);
        await look(2.6 * MIB, 0.3 * MIB, 7_000); // 90 %
        await fill("quiet", 1);
        await writer.flush();
        const refusals = (await eventsIn(streams)).filter(
          (event) => event.zone_id === "loud" && event.decision === "deny",
        );
        assert.deepEqual(
          refusals
            .map((event) => JSON.parse(event.metadata_json ?? "") as unknown)
            .map((one) => (one as { reason: string }).reason),
          ["ledger_share", "ledger_share"],
        );
      });

      it("lets the zone in again once what it appended was read, or the stream has room", async () => {
        const { writer, fill, look } = await filled();
        await fill("loud", 40);
        await look(2.6 * MIB, 0.8 * MIB, 5_000);
        await assert.rejects(writer.append(draft({ zone_id: "loud" })), LedgerShare);
        await look(2.6 * MIB, 0.8 * MIB, 500); // still as full, of what others appended
        await writer.append(draft({ zone_id: "loud" }));
        await fill("loud", 40);
        await look(2.6 * MIB, 0.8 * MIB, 5_000);
        await assert.rejects(writer.append(draft({ zone_id: "loud" })), LedgerShare);
        await look(2.6 * MIB, 60 * MIB, 6_000);
        await writer.append(draft({ zone_id: "loud" }));
      });

      it("does not ask about the stream while little is appended", async () => {
        const { fill, look, looks } = await filled();
        await fill("z", 2);
        await look(1, MIB, 0);
        assert.equal(looks(), 0);
        await fill("z", 20);
        await look(1, MIB, 0);
        await look(1, MIB, 0);
        assert.equal(looks(), 1);
      });
    });

    it("tries a stream that is away a few times a second, and counts what it refuses meanwhile", async () => {
      const { streams, appends, setAway } = await fragile();
      const journal = await newJournal();
      const { writer } = writerOn(streams, journal);
      setAway(true);
      const refusals = await Promise.allSettled(Array.from({ length: 3 }, () => writer.append(draft())));
      const before = appends();
      for (let tick = 0; tick < 20; tick += 1)
        refusals.push(...(await Promise.allSettled(Array.from({ length: 500 }, () => writer.append(draft())))));
      assert.ok(refusals.every((one) => one.status === "rejected" && one.reason instanceof Unavailable));
      assert.ok(appends() - before <= 20);
      await writer.flush();
      assert.ok(journal.size < 50, `${journal.size} events for 10 003 refusals`);
      setAway(false);
      await eventually(() => writer.append(draft()));
      await writer.replay();
      const events = await eventsIn(streams);
      const counted = events
        .filter((event) => event.decision === "deny")
        .reduce(
          (sum, { metadata_json }) => sum + ((JSON.parse(metadata_json ?? "{}") as { count?: number }).count ?? 1),
          0,
        );
      assert.ok(counted >= 10_003, String(counted));
      assert.deepEqual(
        events.map((event) => event.producer_seq).toSorted((a, b) => a - b),
        Array.from({ length: events.length }, (_, i) => i + 1),
      );
    });

    describe("of repeated denials", () => {
      const denial = (more: Partial<AuditDraft> = {}): AuditDraft =>
        draft({
          decision: "deny",
          client_id: C1,
          reason: "revoked",
          metadata_json: '{"reason":"revoked","path":"/x"}',
          ...more,
        });
      const factsOf = ({ metadata_json }: AuditEvent): Record<string, unknown> => JSON.parse(metadata_json ?? "{}");
      /** A writer whose seconds pass when the test says so. */
      const timed = async () => {
        const { streams, setAway } = await fragile();
        let now_ms = 1_700_000_000_000;
        const clock = { now_ms: () => now_ms, monotonic_ms: () => now_ms };
        const writer = createAuditWriter({
          streams,
          ring,
          journal: await newJournal(),
          producer: "sts:1",
          clock,
          log: quietLog(),
        });
        closing.push(() => writer.stop(1000));
        const written = async (): Promise<AuditEvent[]> => {
          await eventually(async () => {
            await writer.append(draft({ event_type: "gateway.outcome", decision: "none" }));
            return true;
          });
          return (await eventsIn(streams)).filter((event) => event.decision === "deny");
        };
        const pass = (ms: number): void => {
          now_ms += ms;
          writer.sumUp();
        };
        return { writer, written, pass, setAway, streams };
      };

      it("writes the first at once and those that follow once a second, with their number and times", async () => {
        const { writer, written, pass } = await timed();
        const first_id = writer.record(denial());
        for (let i = 0; i < 5; i += 1) {
          pass(100);
          for (let j = 0; j < 1000; j += 1) writer.record(denial({ subject: `s${j}` }));
        }
        const [first, ...none] = await written();
        assert.equal(first?.id, first_id);
        assert.equal(first?.metadata_json, '{"reason":"revoked","path":"/x"}');
        assert.deepEqual(none, []);
        pass(500);
        const sum = (await written())[1] as AuditEvent;
        assert.deepEqual(factsOf(sum), {
          reason: "revoked",
          count: 5000,
          first_at: "2023-11-14T22:13:20.100Z",
          last_at: "2023-11-14T22:13:20.500Z",
          like: first_id,
        });
        assert.deepEqual([sum.zone_id, sum.client_id, sum.event_type], ["z1", C1, "token.exchange"]);
        for (let second = 0; second < 10; second += 1) {
          for (let i = 0; i < 4; i += 1) {
            writer.record(denial());
            pass(250);
          }
        }
        const all = await written();
        assert.equal(all.length, 12, "one event a second while they keep coming");
        assert.equal(
          all.slice(2).reduce((count, event) => count + Number(factsOf(event)["count"]), 0),
          40,
        );
      });

      it("names the session and the subject in a sum where all that it counts have the same, and no other", async () => {
        const { writer, written, pass } = await timed();
        const [first, second, third] = [uuidv7(), uuidv7(), uuidv7()];
        writer.record(denial({ session_id: first, subject: "s" }));
        for (let i = 0; i < 2; i += 1) writer.record(denial({ session_id: second, subject: "s" }));
        pass(1000);
        for (const session_id of [second, third]) writer.record(denial({ session_id, subject: "s" }));
        pass(1000);
        const events = await written();
        assert.deepEqual(
          events.map((event) => [event.session_id, event.subject, factsOf(event)["count"]]),
          [
            [first, "s", undefined],
            [second, "s", 2],
            [null, "s", 2],
          ],
        );
      });

      it("begins anew after a second without any, and keeps nothing in memory", async () => {
        const { writer, written, pass } = await timed();
        writer.record(denial());
        pass(1000);
        writer.record(denial());
        pass(1000);
        const events = await written();
        assert.deepEqual(
          events.map((event) => factsOf(event)["count"]),
          [undefined, undefined],
        );
      });

      it("tells zones, clients, resources and reasons apart, and never sums up what was allowed", async () => {
        const { writer, written, pass, streams } = await timed();
        const kinds = [{}, { zone_id: "z2" }, { client_id: C2 }, { resource_id: "r" }, { reason: "expired" }];
        for (const kind of kinds) for (let i = 0; i < 3; i += 1) writer.record(denial(kind));
        for (let i = 0; i < 3; i += 1) writer.record(draft({ decision: "allow", client_id: C1, reason: "revoked" }));
        assert.equal((await written()).length, 5);
        pass(1000);
        const sums = (await written()).slice(5);
        assert.deepEqual(
          sums.map((event) => factsOf(event)["count"]),
          [2, 2, 2, 2, 2],
        );
        assert.equal((await eventsIn(streams)).filter((event) => event.decision === "allow").length, 3);
      });

      it("lets no zone fill ledger or memory with kinds: beyond a bound they are told apart by reason alone", async () => {
        const { writer, written, pass } = await timed();
        for (let i = 0; i < 10_000; i += 1) writer.record(denial({ client_id: `c${i}`, resource_id: `r${i % 7}` }));
        for (let i = 0; i < 3; i += 1) writer.record(denial({ zone_id: "z2" }));
        pass(1000);
        const events = await written();
        const noisy = events.filter((event) => event.zone_id === "z1");
        assert.ok(noisy.length <= 130, String(noisy.length));
        const counted = noisy.reduce((count, event) => count + Number(factsOf(event)["count"] ?? 1), 0);
        assert.equal(counted, 10_000);
        assert.equal(events.length - noisy.length, 2, "another zone's are its own");
      });

      it("writes all sums when it is flushed or stops", async () => {
        const { writer, streams } = await timed();
        for (let i = 0; i < 3; i += 1) writer.record(denial());
        await writer.flush();
        assert.equal((await eventsIn(streams)).length, 2);
        for (let i = 0; i < 3; i += 1) writer.record(denial());
        await writer.stop(1000);
        const events = await eventsIn(streams);
        assert.deepEqual(
          events.map((event) => factsOf(event)["count"]),
          [undefined, 2, 3],
        );
        assert.deepEqual(
          events.map((event) => event.producer_seq),
          [1, 2, 3],
        );
      });
    });

    it("refuses at once, instead of growing, when the stream does not keep up", async () => {
      const { streams } = await fragile();
      const hung: Streams = { ...streams, append: () => new Promise(() => undefined) };
      const { writer } = writerOn(hung, await newJournal());
      for (let i = 0; i < 20_000; i += 1) writer.record(draft());
      await assert.rejects(writer.append(draft()), Unavailable);
      await eventually(() => assert.equal(writer.backlog, 1));
    });

    it("writes everything when it stops", async () => {
      const { streams } = await fragile();
      const { writer } = writerOn(streams, await newJournal());
      for (let i = 0; i < 10; i += 1) writer.record(draft());
      await writer.stop(1000);
      assert.equal((await eventsIn(streams)).length, 10);
    });
  });

  for (const [name, start] of Object.entries(BACKENDS)) {
    describe(`at its reader's end on ${name}`, () => {
      let backend: Backend;
      before(async () => {
        backend = await start();
      });
      afterEach(async () => {
        for (const stream of [STREAMS.audit, DLQ]) {
          await backend.streams.remove(
            stream,
            (await backend.streams.range(stream, START, 1000)).map((entry) => entry.id),
          );
        }
      });
      after(() => backend.close());

      const consume = async (handle: AuditConsumerOptions["handle"], more: Partial<AuditConsumerOptions> = {}) => {
        const dead: string[] = [];
        const log = quietLog();
        const consumer = createAuditConsumer({
          streams: backend.streams,
          ring,
          consumer: "one",
          max_deliveries: 2,
          claim_after_ms: 500,
          handle,
          log,
          onDead: (reason) => dead.push(reason),
          ...more,
        });
        closing.push(() => consumer.stop(1000));
        await consumer.start(() => undefined);
        return { consumer, dead, log };
      };
      const write = async (...drafts: AuditDraft[]): Promise<string[]> => {
        const { writer } = writerOn(backend.streams, await newJournal());
        return Promise.all(drafts.map((one) => writer.append(one)));
      };

      it("hands over every event, in order, and leaves nothing behind", async () => {
        const got: string[] = [];
        const { consumer } = await consume(async (events) => void got.push(...events.map(idOf)));
        const ids = [...(await write(draft(), draft())), ...(await write(draft()))];
        await eventually(() => assert.deepEqual(got, ids));
        await eventually(async () => assert.equal(await consumer.backlog(), 0));
        assert.equal(await consumer.dlqDepth(), 0);
      });

      it("puts forged, foreign and unreadable entries into the dead letters at once, and hands none of them over", async () => {
        const got: string[] = [];
        const { consumer, dead } = await consume(async (events) => void got.push(...events.map(idOf)));
        await backend.streams.append(STREAMS.audit, [
          { events: "[]" },
          signEntry(keyring(randomBytes(32)), STREAMS.audit, { events: "[]" }),
          signEntry(ring, STREAMS.audit, { events: '[{"id":1}]' }),
          signEntry(ring, STREAMS.audit, { events: "not json" }),
        ]);
        const ids = await write(draft());
        await eventually(() => assert.deepEqual(got, ids));
        await eventually(async () => assert.equal(await consumer.dlqDepth(), 4));
        assert.deepEqual([...dead].sort(), ["bad_signature", "bad_signature", "malformed", "malformed"]);
        await eventually(async () => assert.equal(await consumer.backlog(), 0));
      });

      it("gives up an entry that fails by itself after its deliveries, and keeps what came with it", async () => {
        const got: string[] = [];
        const { consumer, dead } = await consume(async (events) => {
          if (events.some(({ values }) => values[AT.client_id] === POISON)) throw new TypeError("can't be kept");
          got.push(...events.map(idOf));
        });
        const entries = [draft(), draft({ client_id: POISON }), draft()].map((one, i) => ({ ...one, n: i }));
        const ids: string[] = [];
        for (const { n: _, ...one } of entries) ids.push(...(await write(one)));
        await eventually(() => assert.deepEqual([...got].sort(), [ids[0], ids[2]].sort()));
        await eventually(async () => assert.equal(await consumer.dlqDepth(), 1), { timeout_ms: 10_000 });
        assert.deepEqual(dead, ["max_deliveries"]);
        await eventually(async () => assert.equal(await consumer.backlog(), 0));
      });

      it("makes no dead letter of an outage, however long, and keeps everything when it is over", async () => {
        let failures = 0;
        let away = true;
        const got: string[] = [];
        const { consumer } = await consume(async (events) => {
          if (away) {
            failures += 1;
            throw new Error("whatever it is, it is no fault of our code");
          }
          got.push(...events.map(idOf));
        });
        const ids = await write(draft());
        await eventually(() => assert.ok(failures >= 4), { timeout_ms: 10_000 });
        assert.equal(await consumer.dlqDepth(), 0);
        away = false;
        await eventually(() => assert.deepEqual(got, ids), { timeout_ms: 10_000 });
      });

      it("brings dead entries back whose signature holds, and leaves the forged ones", async () => {
        let broken = true;
        const got: string[] = [];
        const { consumer } = await consume(
          async (events) => {
            if (broken) throw new TypeError("a fault of this build");
            got.push(...events.map(idOf));
          },
          { max_deliveries: 1 },
        );
        const ids = await write(draft());
        await backend.streams.append(STREAMS.audit, [{ events: "[]", _sig: "forged" }]);
        await eventually(async () => assert.equal(await consumer.dlqDepth(), 2));
        broken = false;
        const away: Streams = { ...backend.streams, append: () => Promise.reject(new Unavailable("Redis")) };
        await assert.rejects(replayDead({ streams: away, ring, stream: STREAMS.audit, limit: 100 }), Unavailable);
        assert.equal(await consumer.dlqDepth(), 2);
        assert.deepEqual(await replayDead({ streams: backend.streams, ring, stream: STREAMS.audit, limit: 100 }), {
          moved: 1,
          kept: 1,
        });
        await eventually(() => assert.deepEqual(got, ids));
        assert.equal(await consumer.dlqDepth(), 1);
      });
    });
  }

  it("is kept over a restart of the process where there is no Redis: what was not acknowledged comes again", async () => {
    const dir = join(root, `embedded-${++unique}`);
    const open = async () => {
      const journals = {
        [STREAMS.audit]: await openJournal({ dir, name: "events", max_bytes: 1_000_000, log: quietLog() }),
        [DLQ]: await openJournal({ dir, name: "dead", max_bytes: 1_000_000, log: quietLog() }),
      };
      const memory = await createMemory({ clock: systemClock, journals });
      return {
        memory,
        close: async () => {
          await memory.close();
          await Promise.all(Object.values(journals).map((journal) => journal.close()));
        },
      };
    };
    const entries = entriesOf(ring, []);
    assert.deepEqual(entries, []);
    const first = await open();
    await first.memory.streams.append(STREAMS.audit, [{ n: "1" }, { n: "2" }, { n: "3" }]);
    const acknowledged: string[] = [];
    await first.memory.streams.consumeGroup({
      stream: STREAMS.audit,
      group: AUDIT_GROUP,
      consumer: "a",
      count: 1,
      claim_after_ms: 1000,
      onEntries: async (batch) => {
        const done = batch.filter((entry) => entry.fields["n"] !== "2");
        acknowledged.push(...done.map((entry) => entry.fields["n"] as string));
        return done.map((entry) => entry.id);
      },
      onError: () => undefined,
    });
    await eventually(() => assert.deepEqual(acknowledged, ["1", "3"]));
    const [dead] = await first.memory.streams.range(STREAMS.audit, START, 1);
    await first.memory.streams.append(DLQ, [{ n: "dead" }]);
    assert.equal(dead?.fields["n"], "2");
    await first.close();
    const second = await open();
    const again: string[] = [];
    await second.memory.streams.consumeGroup({
      stream: STREAMS.audit,
      group: AUDIT_GROUP,
      consumer: "b",
      count: 10,
      claim_after_ms: 1000,
      onEntries: async (batch) => {
        again.push(...batch.map((entry) => entry.fields["n"] as string));
        return batch.map((entry) => entry.id);
      },
      onError: () => undefined,
    });
    await eventually(() => assert.deepEqual(again, ["2", "3"]));
    assert.equal(await second.memory.streams.length(DLQ), 1);
    await second.memory.streams.append(STREAMS.audit, [{ n: "4" }]);
    await eventually(() => assert.deepEqual(again, ["2", "3", "4"]));
    await second.close();
    const third = await open();
    assert.equal(await third.memory.streams.length(STREAMS.audit), 0);
    await third.close();
  });
});
