import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import { keyring } from "../../src/domain/keyring.ts";
import { type Fields, signEntry } from "../../src/broadcast/envelope.ts";
import { createSequence, headFields, messageFields, type Verdict } from "../../src/broadcast/sequence.ts";

const ring = keyring(randomBytes(32));
const STREAM = "caracal.sessions.revoke";
const NOW_MS = 1_800_000_000_000;

const message = (zone_id: string, seq: number, at_ms = NOW_MS): Fields =>
  signEntry(ring, STREAM, messageFields({ id: `${zone_id}-${seq}` }, { zone_id, seq, outbox_id: seq, at_ms }));
const head = (total: number, zones: number, at_ms = NOW_MS): Fields =>
  signEntry(ring, STREAM, headFields({ total, zones, at_ms }));

/** A stream as the dispatcher writes it: messages of a few zones, and now and then the head of what there is. */
const written = fc
  .array(
    fc.oneof(
      { weight: 4, arbitrary: fc.integer({ min: 0, max: 2 }) },
      { weight: 1, arbitrary: fc.constant("head" as const) },
    ),
    { maxLength: 40 },
  )
  .map((steps) => {
    const seqs = new Map<string, number>();
    const entries: { readonly fields: Fields; readonly head: boolean }[] = [];
    for (const step of [...steps, "head" as const]) {
      if (step === "head") {
        entries.push({
          fields: head(
            [...seqs.values()].reduce((a, b) => a + b, 0),
            seqs.size,
          ),
          head: true,
        });
      } else {
        const zone = `zone-${step}`;
        seqs.set(zone, (seqs.get(zone) ?? 0) + 1);
        entries.push({ fields: message(zone, seqs.get(zone) as number), head: false });
      }
    }
    return entries;
  });

const play = (entries: readonly Fields[]): { applied: string[]; last: string; hole: boolean } => {
  const sequence = createSequence(ring, STREAM);
  sequence.restart(new Map());
  const applied: string[] = [];
  let last = "";
  let hole = false;
  for (const fields of entries) {
    const verdict = sequence.accept(fields);
    if (verdict.kind === "message") {
      applied.push(verdict.message.fields["id"] as string);
      hole ||= verdict.hole;
    }
    if (verdict.kind === "head") {
      last = verdict.relation;
      hole ||= verdict.relation === "behind";
    }
  }
  return { applied, last, hole };
};

const relationOf = (verdict: Verdict): string => (verdict.kind === "head" ? verdict.relation : verdict.kind);

describe("the account that a reader keeps of a stream", () => {
  it("applies everything once and matches at every head of an untouched stream", () => {
    fc.assert(
      fc.property(written, (entries) => {
        const { applied, last, hole } = play(entries.map((entry) => entry.fields));
        assert.equal(applied.length, entries.filter((entry) => !entry.head).length);
        assert.equal(last, "match");
        assert.ok(!hole);
      }),
    );
  });

  it("notices at the next head at the latest that entries were deleted, the last one too", () => {
    fc.assert(
      fc.property(written, fc.array(fc.nat(), { minLength: 1, maxLength: 5 }), (entries, picks) => {
        const messages = entries.flatMap((entry, i) => (entry.head ? [] : [i]));
        fc.pre(messages.length > 0);
        const gone = new Set(picks.map((pick) => messages[pick % messages.length]));
        const { hole, last } = play(entries.filter((_, i) => !gone.has(i)).map((entry) => entry.fields));
        assert.ok(hole);
        assert.equal(last, "behind");
      }),
    );
  });

  it("applies nothing twice, wherever old messages and heads are played again, and never takes them for news", () => {
    fc.assert(
      fc.property(written, fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 10 }), (entries, replays) => {
        const fields = entries.map((entry) => entry.fields);
        const played = [...fields];
        const last = played.pop() as Fields;
        for (const [pick, place] of replays) {
          // Only what was there before its place: nobody can play again what was never written.
          const at = place % (played.length + 1);
          if (at > 0) played.splice(at, 0, played[pick % at] as Fields);
        }
        const result = play([...played, last]);
        assert.equal(new Set(result.applied).size, result.applied.length);
        assert.deepEqual(result.applied, play(fields).applied);
        assert.equal(result.last, "match");
      }),
    );
  });

  it("cannot be made whole again by playing old messages in the place of a deleted one", () => {
    fc.assert(
      fc.property(written, fc.nat(), fc.array(fc.nat(), { maxLength: 6 }), (entries, pick, replays) => {
        const messages = entries.flatMap((entry, i) => (entry.head ? [] : [i]));
        fc.pre(messages.length > 1);
        const gone = messages[pick % messages.length];
        const left = entries.filter((_, i) => i !== gone).map((entry) => entry.fields);
        const last = left.pop() as Fields;
        const again = left.length === 0 ? [] : replays.map((one) => left[one % left.length] as Fields);
        assert.notEqual(play([...left, ...again, last]).last, "match");
      }),
    );
  });

  it("takes a head from before its snapshot for what it is: older than what it knows", () => {
    const sequence = createSequence(ring, STREAM);
    sequence.restart(
      new Map([
        ["a", 5],
        ["b", 2],
      ]),
    );
    assert.deepEqual(sequence.accept(message("a", 4)), { kind: "old" });
    assert.equal(relationOf(sequence.accept(head(6, 2))), "ahead");
    assert.equal(relationOf(sequence.accept(head(7, 2))), "match");
    assert.equal(relationOf(sequence.accept(head(7, 3))), "behind");
  });

  it("refuses what is not signed for this stream, and signed nonsense", () => {
    const sequence = createSequence(ring, STREAM);
    sequence.restart(new Map());
    const elsewhere = signEntry(
      ring,
      "caracal.keys.invalidate",
      messageFields({}, { zone_id: "a", seq: 1, outbox_id: 1, at_ms: 1 }),
    );
    assert.deepEqual(sequence.accept(elsewhere), { kind: "refused", reason: "bad_signature" });
    assert.deepEqual(sequence.accept({ head: "1", total: "0", zones: "0", at: "1" }), {
      kind: "refused",
      reason: "bad_signature",
    });
    for (const seq of ["0", "-1", "1.5", "1e3", "", "99999999999999999999"]) {
      assert.deepEqual(
        sequence.accept(signEntry(ring, STREAM, { zone_id: "a", seq, at: "1" })),
        { kind: "refused", reason: "malformed" },
        seq,
      );
    }
    assert.deepEqual(sequence.accept(signEntry(ring, STREAM, { head: "1", total: "x", zones: "1", at: "1" })), {
      kind: "refused",
      reason: "malformed",
    });
  });

  describe("of a reader that began without numbers", () => {
    const begun = () => {
      const sequence = createSequence(ring, STREAM);
      sequence.restart(undefined);
      return sequence;
    };

    it("takes its beginning from the first head and counts from there", () => {
      const sequence = begun();
      assert.equal(relationOf(sequence.accept(head(40, 3))), "match");
      assert.equal(sequence.accept(message("a", 21)).kind, "message");
      assert.equal(sequence.accept(message("b", 1)).kind, "message");
      assert.deepEqual(sequence.accept(message("a", 21)), { kind: "old" });
      assert.equal(relationOf(sequence.accept(head(42, 4))), "match");
    });

    it("notices a missing message of a zone that it had not heard of", () => {
      const sequence = begun();
      sequence.accept(head(40, 3));
      assert.equal(relationOf(sequence.accept(head(41, 3))), "behind");
    });

    it("ignores what was made long before its beginning, so that playing it again hides nothing", () => {
      const sequence = begun();
      sequence.accept(head(40, 3));
      assert.deepEqual(sequence.accept(message("old zone", 7, NOW_MS - 120_000)), { kind: "old" });
      assert.equal(relationOf(sequence.accept(head(41, 3))), "behind");
    });
  });
});
