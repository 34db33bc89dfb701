import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { STREAMS } from "../../src/contracts/streams.ts";
import { CHAINED_FIELDS, type ChainedField, unkeepableField } from "../../src/domain/audit-chain.ts";
import type { AuditEvent } from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { auditEntries, auditEvents, fittedForm } from "../../src/ledger/entry.ts";
import { verifyEntry } from "../../src/broadcast/envelope.ts";
import { anyEvent, auditEvent } from "../audit/events.ts";

const ring = keyring(Buffer.alloc(32, 7));
const text = fc.oneof(
  { weight: 3, arbitrary: fc.string({ unit: "binary", maxLength: 20 }) },
  {
    weight: 2,
    arbitrary: fc
      .array(fc.constantFrom("\u0001", "\u001f", "\u001e", "a", '"'), { maxLength: 4 })
      .map((all) => all.join("")),
  },
);

/** Events that can be kept, many with values next to the form's own marks. */
const keepableEvent: fc.Arbitrary<AuditEvent> = fc
  .tuple(anyEvent, fc.dictionary(fc.constantFrom(...CHAINED_FIELDS), text, { maxKeys: 6 }))
  .map(([event, some]) => {
    const { decision: _, producer_seq: __, ...texts } = some;
    return { ...event, ...texts };
  })
  .filter((event) => unkeepableField(event) === undefined);

const formOf = (...events: readonly AuditEvent[]): string => auditEntries(ring, events)[0]?.["events"] as string;
const read = (form: string): readonly AuditEvent[] | undefined => auditEvents({ events: form });

describe("the form of ledger events in an entry", () => {
  it("gives back every event that can be kept, to the letter and in order, behind a signature", () => {
    fc.assert(
      fc.property(fc.array(keepableEvent, { minLength: 1, maxLength: 5 }), (events) => {
        const entries = auditEntries(ring, events);
        assert.ok(entries.every((entry) => verifyEntry(ring, STREAMS.audit, entry)));
        assert.deepEqual(
          entries.flatMap((entry) => auditEvents(entry)),
          events,
        );
      }),
      { numRuns: 300 },
    );
  });

  it("is no other event's, nor another number of events'", () => {
    const lists = fc.array(keepableEvent, { minLength: 1, maxLength: 3 });
    fc.assert(
      fc.property(lists, lists, (ones, others) => {
        assert.equal(formOf(...ones) === formOf(...others), JSON.stringify(ones) === JSON.stringify(others));
      }),
      { numRuns: 300 },
    );
  });

  it("differs where text moves over the border between two fields, and tells null from the empty text", () => {
    const one = auditEvent({ client_id: "ab", subject: "c" });
    const others = [
      { ...one, client_id: "a", subject: "bc" },
      { ...one, client_id: null, subject: "" },
      { ...one, client_id: "", subject: null },
      { ...one, client_id: "", subject: "" },
      { ...one, client_id: null, subject: "\u0001" },
      { ...one, client_id: null, subject: null },
      { ...one, client_id: "\u0001\u0001", subject: null },
    ];
    assert.equal(new Set([one, ...others].map((event) => formOf(event))).size, 8);
    for (const event of others) assert.deepEqual(read(formOf(event)), [event]);
  });

  it("has one text for each event: what was read is written the same again, whatever was done to it", () => {
    const change = fc.record({
      at: fc.nat(),
      cut: fc.nat({ max: 3 }),
      put: fc.string({ unit: fc.constantFrom("\0", "\u0001", "0", "1", "a", "é", "allow"), maxLength: 3 }),
    });
    fc.assert(
      fc.property(fc.array(keepableEvent, { minLength: 1, maxLength: 3 }), change, (events, { at, cut, put }) => {
        const form = formOf(...events);
        const place = at % (form.length + 1);
        const changed = form.slice(0, place) + put + form.slice(place + cut);
        const got = read(changed);
        if (changed === form) assert.deepEqual(got, events);
        else if (got !== undefined) {
          assert.notDeepEqual(got, events);
          assert.equal(formOf(...got), changed);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  it("is refused where a field is missing or too many, in any of its events", () => {
    fc.assert(
      fc.property(keepableEvent, keepableEvent, fc.nat({ max: 41 }), (one, other, at) => {
        const values = formOf(one, other).split("\0");
        assert.equal(read(values.toSpliced(at, 1).join("\0")), undefined);
        assert.equal(read(values.toSpliced(at, 0, "x").join("\0")), undefined);
        assert.equal(read(values.slice(0, at).join("\0"))?.length, at === 21 ? 1 : undefined);
      }),
    );
    for (const none of ["", "x", "[]", '[{"id":1}]', "\0".repeat(20), "\0".repeat(41)])
      assert.equal(read(none), undefined);
    assert.equal(auditEvents({}), undefined);
  });

  it("is refused with a value that no event has", () => {
    const values = formOf(auditEvent()).split("\0");
    const put = (field: ChainedField, value: string) =>
      read(values.with(CHAINED_FIELDS.indexOf(field), value).join("\0"));
    assert.equal(put("subject", "x")?.[0]?.subject, "x");
    for (const decision of ["", "maybe", "Allow", "allow ", "\u0001allow", "toString"]) {
      assert.equal(put("decision", decision), undefined, decision);
    }
    const numbers = [
      "",
      "0",
      "01",
      "-1",
      "+1",
      "1.0",
      "1e3",
      "0x1",
      " 1",
      "1 ",
      "9007199254740992",
      "99999999999999999999",
      "NaN",
      "\u00011",
      "١",
    ];
    for (const number of numbers) assert.equal(put("producer_seq", number), undefined, number);
    assert.equal(put("producer_seq", String(Number.MAX_SAFE_INTEGER))?.[0]?.producer_seq, Number.MAX_SAFE_INTEGER);
    for (const field of ["id", "zone_id", "event_type", "producer", "occurred_at"] as const) {
      assert.equal(put(field, ""), undefined, field);
    }
    // A mark before a text that needs none would be a second form of it.
    for (const field of ["id", "subject", "metadata_json"] as const)
      assert.equal(put(field, "\u0001x"), undefined, field);
  });

  it("is never made of an event that has none", () => {
    for (const field of ["id", "subject", "metadata_json"] as const) {
      assert.throws(() => auditEntries(ring, [auditEvent({ [field]: "a\0b" })]), RangeError);
    }
  });

  it("is fit for the ledger when a producer made it, and the event's own wherever that was fit", () => {
    fc.assert(
      fc.property(anyEvent, (event) => {
        const [fit, another] = read(fittedForm(event)) ?? [];
        assert.equal(another, undefined);
        assert.equal(unkeepableField(fit as AuditEvent), undefined);
        if (unkeepableField(event) === undefined) assert.deepEqual(fit, { ...event });
      }),
      { numRuns: 300 },
    );
  });
});
