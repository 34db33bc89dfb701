import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { STREAMS } from "../../src/contracts/streams.ts";
import { AT, type AuditEvent, faultIn, MEMBER_NAMES, type MemberName } from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { sentEvents } from "../../src/ledger/entry.ts";
import { verifyEntry } from "../../src/broadcast/envelope.ts";
import { anyEvent, asKept, auditEvent, readEvents, sent, writeEvents } from "../audit/events.ts";

const ring = keyring(Buffer.alloc(32, 7));
const text = fc
  .array(fc.constantFrom("\0", "\u0001", "\u001f", "\u001e", "a", '"', "\\", "é", "\ud800"), { maxLength: 4 })
  .map((all) => all.join(""));
const FREE = ["request_id", "subject", "evaluation_status", "diagnostics_json", "metadata_json"] as const;

/** Events, many with values next to the codec's own separators. */
const markedEvent: fc.Arbitrary<AuditEvent> = fc
  .tuple(anyEvent, fc.dictionary(fc.constantFrom(...FREE), text, { maxKeys: 6 }))
  .map(([event, some]) => ({ ...event, ...some }));

const formOf = (...events: readonly AuditEvent[]): string => writeEvents(ring, events)[0]?.["events"] as string;
const read = (form: string): readonly AuditEvent[] | undefined => readEvents({ events: form });

describe("the text of ledger events in an entry", () => {
  it("gives back every event as it is kept, in order, behind a signature", () => {
    fc.assert(
      fc.property(fc.array(markedEvent, { minLength: 1, maxLength: 5 }), (events) => {
        const entries = writeEvents(ring, events);
        assert.ok(entries.every((entry) => verifyEntry(ring, STREAMS.audit, entry)));
        assert.deepEqual(
          entries.flatMap((entry) => readEvents(entry)),
          events.map(asKept),
        );
      }),
      { numRuns: 300 },
    );
  });

  it("is no other event's, nor another number of events'", () => {
    const lists = fc.array(markedEvent, { minLength: 1, maxLength: 3 });
    fc.assert(
      fc.property(lists, lists, (ones, others) => {
        const same = JSON.stringify(ones.map(asKept)) === JSON.stringify(others.map(asKept));
        assert.equal(formOf(...ones) === formOf(...others), same);
      }),
      { numRuns: 300 },
    );
  });

  it("differs where text moves over the border between two fields", () => {
    const one = auditEvent({ evaluation_status: "ab", subject: "c", request_id: null });
    const others = [
      { ...one, evaluation_status: "a", subject: "bc" },
      { ...one, evaluation_status: null, subject: "abc" },
      { ...one, evaluation_status: "abc", subject: null },
      { ...one, evaluation_status: null, subject: null },
      { ...one, evaluation_status: "ab\\u001fc", subject: null },
    ];
    assert.equal(new Set([one, ...others].map((event) => formOf(event))).size, 6);
    for (const event of others) assert.deepEqual(read(formOf(event)), [event]);
  });

  it("spells out what is reserved and has no empty text", () => {
    const [event] = read(formOf(auditEvent({ request_id: "a\u001fb\u001ec\0d\ud800", subject: "" }))) ?? [];
    assert.equal(event?.request_id, "a\\u001fb\\u001ec\\u0000d\\ud800");
    assert.equal(event?.subject, null);
  });

  it("has one text for each event: what was read is written the same again, whatever was done to it", () => {
    const change = fc.record({
      at: fc.nat(),
      cut: fc.nat({ max: 3 }),
      put: fc.string({ unit: fc.constantFrom("\0", "\u001e", "\u001f", "0", "1", "a", "é", "allow"), maxLength: 3 }),
    });
    fc.assert(
      fc.property(fc.array(markedEvent, { minLength: 1, maxLength: 3 }), change, (events, { at, cut, put }) => {
        const form = formOf(...events);
        const place = at % (form.length + 1);
        const changed = form.slice(0, place) + put + form.slice(place + cut);
        const got = read(changed);
        if (changed === form) assert.deepEqual(got, events.map(asKept));
        else if (got !== undefined) {
          assert.notDeepEqual(got, events.map(asKept));
          assert.equal(formOf(...got), changed);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  it("is refused where a value is missing or too many, in any of its events", () => {
    fc.assert(
      fc.property(markedEvent, fc.nat({ max: MEMBER_NAMES.length - 1 }), (event, at) => {
        const values = formOf(event).split("\u001f");
        const other = formOf(auditEvent());
        for (const wrong of [values.toSpliced(at, 1), values.toSpliced(at, 0, "x"), values.slice(0, at)]) {
          assert.equal(read(wrong.join("\u001f")), undefined);
          assert.equal(read(`${other}\u001e${wrong.join("\u001f")}`), undefined);
          assert.equal(read(`${wrong.join("\u001f")}\u001e${other}`), undefined);
        }
      }),
    );
    for (const none of ["", "x", "[]", '[{"id":1}]', "\u001f".repeat(21), "\u001e", `${formOf(auditEvent())}\u001e`])
      assert.equal(read(none), undefined);
    assert.equal(sentEvents({}), undefined);
  });

  it("is refused with a value that no event has", () => {
    const { values } = sent(auditEvent());
    const put = (name: MemberName, value: string) => read(values.with(AT[name], value).join("\u001f"));
    assert.equal(put("subject", "x")?.[0]?.subject, "x");
    const bad: Readonly<Partial<Record<MemberName, readonly string[]>>> = {
      form: ["", "0", "2", "01", "1 "],
      id: ["", "x", uuidv7().toUpperCase(), `{${uuidv7()}}`, uuidv7().replaceAll("-", "")],
      decision: ["", "maybe", "Allow", "allow ", "toString"],
      producer_seq: ["", "0", "01", "-1", "+1", "1.0", "1e3", "0x1", " 1", "1 ", "9007199254740992", "NaN", "١"],
      occurred_at: ["", "now", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000+01:00"],
      zone_id: [""],
      event_type: [""],
      producer: [""],
      subject: ["a\0b", "\ud800", "\udc00\ud800"],
    };
    for (const [name, wrong] of Object.entries(bad) as [MemberName, readonly string[]][]) {
      for (const value of wrong) assert.equal(put(name, value), undefined, `${name} ${value}`);
    }
    const most = String(Number.MAX_SAFE_INTEGER);
    assert.equal(put("producer_seq", most)?.[0]?.producer_seq, Number.MAX_SAFE_INTEGER);
  });

  it("says an id that is no UUID, and a hash that is none, in the metadata, and keeps the event", () => {
    const odd = { client_id: "app-1", session_id: uuidv7().toUpperCase(), manifest_sha: "manifest" };
    const cases = [
      ['{"reason":"policy"}', { reason: "policy" }],
      [null, {}],
      ["[1]", { metadata: "[1]" }],
    ] as const;
    for (const [metadata_json, said] of cases) {
      const [event] = read(formOf(auditEvent({ ...odd, metadata_json }))) ?? [];
      assert.ok(event !== undefined);
      assert.deepEqual([event.client_id, event.session_id, event.manifest_sha], [null, null, null]);
      assert.deepEqual(JSON.parse(event.metadata_json ?? ""), { ...said, other_form: odd });
    }
    // Beside what is too long it stays, too.
    const long = JSON.stringify({ reason: "policy", path: "/".repeat(200_000) });
    const [event] = read(formOf(auditEvent({ ...odd, metadata_json: long }))) ?? [];
    assert.deepEqual(JSON.parse(event?.metadata_json ?? ""), {
      reason: "policy",
      path: { truncated_chars: 200_002 },
      other_form: odd,
    });
  });

  it("is fit for the ledger when a producer made it", () => {
    fc.assert(
      fc.property(markedEvent, (event) => {
        const got = sentEvents({ events: sent(event).text });
        assert.equal(got?.length, 1);
        assert.equal(faultIn(got?.[0]?.values ?? []), undefined);
      }),
      { numRuns: 300 },
    );
  });
});
