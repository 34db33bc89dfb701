import assert from "node:assert/strict";
import { createHash, createHmac, randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  canonicalContent,
  CHAINED_FIELDS,
  type ChainedFields,
  chainHmac,
  type ChainPoint,
  contentSha256,
  type Finding,
  GENESIS,
  judgeEnd,
  type LedgerRow,
  unkeepableField,
  walkChain,
} from "../../src/domain/audit-chain.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { anyEvent, auditEvent } from "../audit/events.ts";

const ring = keyring(Buffer.alloc(32, 7));

const chained = (count: number, using = ring): LedgerRow[] => {
  let previous = GENESIS;
  return Array.from({ length: count }, (_, index) => {
    const event = auditEvent({ producer_seq: index + 1 });
    const content = contentSha256(event);
    previous = chainHmac(using.current, { zone_id: "z1", chain_seq: index + 1, content, previous });
    return {
      ...event,
      producer_seq: String(event.producer_seq),
      chain_seq: String(index + 1),
      content_sha256: content,
      chain_hmac: previous,
      key_id: using.current.id,
    };
  });
};

const walk = (rows: readonly LedgerRow[], seen?: ChainPoint): readonly Finding[] => {
  const chain = walkChain(ring, "z1", seen);
  return [...rows.flatMap((row) => chain.judge(row)), ...chain.end()];
};

const places = (findings: readonly Finding[]): readonly (readonly unknown[])[] =>
  findings.map((finding) => [finding.kind, finding.chain_seq]);

describe("the content of an event", () => {
  it("covers every field that an event has, each once", () => {
    assert.deepEqual([...CHAINED_FIELDS].sort(), Object.keys(auditEvent()).sort());
  });

  it("is its fields in the published order, each behind its length, null as 0xFFFFFFFF, numbers in decimal", () => {
    const event = auditEvent({ id: "ä", zone_id: "z", request_id: null, producer_seq: 1203 });
    const expected = Buffer.concat(
      CHAINED_FIELDS.map((field) => {
        const value = event[field];
        if (value === null) return Buffer.from("ffffffff", "hex");
        const text = Buffer.from(String(value), "utf8");
        const length = Buffer.alloc(4);
        length.writeUInt32BE(text.length);
        return Buffer.concat([length, text]);
      }),
    );
    assert.deepEqual(canonicalContent(event), expected);
    assert.equal(contentSha256(event), createHash("sha256").update(expected).digest("hex"));
  });

  it("differs wherever two events differ", () => {
    const differs = (one: ChainedFields, other: ChainedFields): boolean =>
      CHAINED_FIELDS.some((field) => one[field] !== other[field]);
    fc.assert(
      fc.property(anyEvent, anyEvent, (one, other) => {
        fc.pre(unkeepableField(one) === undefined && unkeepableField(other) === undefined);
        assert.equal(canonicalContent(one).equals(canonicalContent(other)), !differs(one, other));
      }),
    );
  });

  it("differs when one field alone changes, and when text moves over the border between two", () => {
    const text = fc.string({ unit: "binary" });
    const field = fc.constantFrom(...CHAINED_FIELDS.filter((name) => name !== "producer_seq"));
    fc.assert(
      fc.property(anyEvent, field, text, (event, name, value) => {
        const other = { ...event, [name]: value };
        fc.pre(unkeepableField(other) === undefined && event[name] !== value);
        assert.notDeepEqual(canonicalContent(event), canonicalContent(other));
      }),
    );
    const ab = auditEvent({ client_id: "ab", subject: "c" });
    assert.notDeepEqual(canonicalContent(ab), canonicalContent({ ...ab, client_id: "a", subject: "bc" }));
    assert.notDeepEqual(
      canonicalContent({ ...ab, client_id: null, subject: "" }),
      canonicalContent({ ...ab, client_id: "", subject: null }),
    );
  });

  it("can be kept but for U+0000 and half surrogate pairs, and the field that can't is named", () => {
    assert.equal(unkeepableField(auditEvent({ subject: "\u{1F600} \uFFFD \u0001" })), undefined);
    assert.equal(unkeepableField(auditEvent({ subject: "a\u0000" })), "subject");
    assert.equal(unkeepableField(auditEvent({ metadata_json: "\ud800" })), "metadata_json");
    assert.equal(unkeepableField(auditEvent({ metadata_json: "\udc00\ud800" })), "metadata_json");
  });
});

describe("the chain's HMAC", () => {
  it("is HMAC-SHA256 over the zone behind its length, the number as uint64, the content and the one before", () => {
    const content = randomBytes(32);
    const previous = randomBytes(32);
    const bytes = Buffer.concat([
      Buffer.from("00000003", "hex"),
      Buffer.from("zon"),
      Buffer.from("0000000000000102", "hex"),
      content,
      previous,
    ]);
    assert.deepEqual(
      chainHmac(ring.current, {
        zone_id: "zon",
        chain_seq: 258,
        content: content.toString("hex"),
        previous: previous.toString("hex"),
      }),
      createHmac("sha256", Buffer.alloc(32, 7)).update(bytes).digest("hex"),
    );
  });

  it("takes numbers beyond 32 bits", () => {
    const link = { zone_id: "z", content: "11".repeat(32), previous: GENESIS };
    for (const chain_seq of [2 ** 32 - 1, 2 ** 32, 2 ** 40 + 3, Number.MAX_SAFE_INTEGER]) {
      const bytes = Buffer.alloc(4 + 1 + 8 + 64);
      bytes.writeUInt32BE(1, 0);
      bytes.write("z", 4);
      bytes.writeBigUInt64BE(BigInt(chain_seq), 5);
      bytes.fill(0x11, 13, 45);
      const expected = createHmac("sha256", Buffer.alloc(32, 7)).update(bytes).digest("hex");
      assert.equal(chainHmac(ring.current, { ...link, chain_seq }), expected);
    }
  });

  it("differs by zone, number, content, predecessor and key", () => {
    const link = { zone_id: "z1", chain_seq: 2, content: "01".repeat(32), previous: "02".repeat(32) };
    const all = [
      chainHmac(ring.current, link),
      chainHmac(ring.current, { ...link, zone_id: "z2" }),
      chainHmac(ring.current, { ...link, chain_seq: 3 }),
      chainHmac(ring.current, { ...link, content: "03".repeat(32) }),
      chainHmac(ring.current, { ...link, previous: "03".repeat(32) }),
      chainHmac(keyring(Buffer.alloc(32, 8)).current, link),
    ];
    assert.equal(new Set(all).size, all.length);
  });
});

describe("a walk over a chain", () => {
  it("finds nothing in a whole chain, and in an empty one", () => {
    assert.deepEqual(walk(chained(20)), []);
    assert.deepEqual(walk([]), []);
  });

  it("finds each altered field at its row, and nothing behind it", () => {
    for (const field of CHAINED_FIELDS) {
      const rows = chained(5);
      rows[2] = { ...(rows[2] as LedgerRow), [field]: field === "producer_seq" ? "4" : "forged" };
      assert.deepEqual(places(walk(rows)), [["hmac_mismatch", 3]], field);
    }
  });

  it("finds an altered content hash, chain_hmac or key at its row, and nothing behind it", () => {
    for (const [field, value] of [
      ["content_sha256", "00".repeat(32)],
      ["chain_hmac", "00".repeat(32)],
      ["chain_hmac", "not hex"],
      ["key_id", "deadbeef"],
      ["key_id", "' or 1=1"],
    ] as const) {
      const rows = chained(5);
      rows[2] = { ...(rows[2] as LedgerRow), [field]: value };
      assert.deepEqual(places(walk(rows)), [["hmac_mismatch", 3]], `${field} ${value}`);
    }
  });

  it("finds a row that was forged with its content hash", () => {
    const rows = chained(5);
    const forged = { ...(rows[2] as LedgerRow), decision: "allow", subject: "mallory" };
    rows[2] = { ...forged, content_sha256: contentSha256(forged) };
    assert.deepEqual(places(walk(rows)), [["hmac_mismatch", 3]]);
  });

  it("finds rows that are missing at the start and in the middle", () => {
    const rows = chained(10);
    assert.deepEqual(places(walk(rows.slice(2))), [["chain_break", 1]]);
    assert.deepEqual(places(walk(rows.toSpliced(4, 3))), [["chain_break", 5]]);
    assert.match(walk(rows.toSpliced(4, 3))[0]?.detail ?? "", /^rows 5 to 7 missing/);
  });

  it("goes on behind a gap, and finds what is altered there", () => {
    const rows = chained(10);
    rows[8] = { ...(rows[8] as LedgerRow), subject: "mallory" };
    assert.deepEqual(places(walk(rows.toSpliced(4, 1))), [
      ["chain_break", 5],
      ["hmac_mismatch", 9],
    ]);
  });

  it("finds two rows that changed places", () => {
    const rows = chained(6);
    const [third, fourth] = [rows[2] as LedgerRow, rows[3] as LedgerRow];
    rows[2] = { ...fourth, chain_seq: "3" };
    rows[3] = { ...third, chain_seq: "4" };
    const found = walk(rows);
    assert.equal(found[0]?.kind, "hmac_mismatch");
    assert.equal(found[0]?.chain_seq, 3);
  });

  it("finds a chain that closed over a deleted row", () => {
    const rows = chained(6).toSpliced(2, 1);
    const renumbered = rows.map((row, index) => ({ ...row, chain_seq: String(index + 1) }));
    assert.deepEqual(places(walk(renumbered)), [["hmac_mismatch", 3]]);
  });

  it("finds rows that are none of the chain's, wherever they were put", () => {
    const rows = chained(3);
    const alien = { ...(rows[0] as LedgerRow) };
    const [below, above] = ["0", String(2n ** 63n - 1n)];
    assert.deepEqual(places(walk([{ ...alien, chain_seq: "-7" }, { ...alien, chain_seq: below }, ...rows])), [
      ["chain_break", 1],
      ["chain_break", 1],
    ]);
    assert.deepEqual(places(walk([...rows, { ...alien, chain_seq: above }])), [["chain_break", 4]]);
  });

  it("tells of a run of rows with one fault once, with its length", () => {
    const rows = chained(500, keyring(Buffer.alloc(32, 9)));
    const found = walk(rows);
    assert.deepEqual(places(found), [["hmac_mismatch", 1]]);
    assert.match(found[0]?.detail ?? "", /^rows 1 to 500: /);
  });

  it("takes rows that were chained under a previous key", () => {
    const old = keyring(Buffer.alloc(32, 9));
    const both = keyring(Buffer.alloc(32, 7), [Buffer.alloc(32, 9)]);
    const chain = walkChain(both, "z1");
    assert.deepEqual(
      chained(5, old).flatMap((row) => chain.judge(row)),
      [],
    );
  });

  it("finds any single change of any row, by property", () => {
    const column = fc.constantFrom(...CHAINED_FIELDS, "content_sha256", "chain_hmac", "key_id");
    fc.assert(
      fc.property(fc.nat(9), column, fc.string(), (index, name, value) => {
        const rows = chained(10);
        const row = rows[index] as LedgerRow;
        fc.pre(row[name] !== value && unkeepableField(auditEvent({ subject: value })) === undefined);
        rows[index] = { ...row, [name]: value };
        assert.deepEqual(places(walk(rows)), [["hmac_mismatch", index + 1]]);
      }),
    );
  });

  it("finds a rewritten row where an earlier walk remembers another, even under the right key", () => {
    const [before, after] = [chained(5), chained(5)];
    const seen = { chain_seq: 4, chain_hmac: before[3]?.chain_hmac ?? "" };
    assert.deepEqual(walk(before, seen), []);
    assert.deepEqual(places(walk(after, seen)), [["chain_break", 4]]);
  });
});

describe("the end of a chain", () => {
  const point = (chain_seq: number, fill = chain_seq): ChainPoint => ({
    chain_seq,
    chain_hmac: Buffer.alloc(32, fill).toString("hex"),
  });
  const place = (end: { head?: ChainPoint; last?: ChainPoint }, seen?: ChainPoint): number | null | undefined => {
    const found = judgeEnd({ zone_id: "z1", head: end.head, last: end.last }, seen);
    if (found !== undefined) assert.equal(found.kind, "chain_break");
    return found?.chain_seq;
  };

  it("is sound where head and last row are one, and where there is neither", () => {
    assert.equal(place({ head: point(5), last: point(5) }), undefined);
    assert.equal(place({ head: point(0, 0) }), undefined);
  });

  it("is broken where rows are missing before the head, at the first of them", () => {
    assert.equal(place({ head: point(5), last: point(3) }), 4);
    assert.equal(place({ head: point(5) }), 1);
  });

  it("is broken where rows go on behind the head, or have none", () => {
    assert.equal(place({ head: point(3), last: point(5) }), 5);
    assert.equal(place({ last: point(5) }), 5);
    assert.equal(place({ head: point(3), last: point(2 ** 63) }), Number.MAX_SAFE_INTEGER);
  });

  it("is broken where the head has another chain_hmac", () => {
    assert.equal(place({ head: point(5, 1), last: point(5) }), 5);
    assert.equal(place({ head: point(0, 1) }), 0);
  });

  it("is broken where it came further before", () => {
    assert.equal(place({ head: point(5), last: point(5) }, point(8)), 6);
    assert.equal(place({ head: point(9), last: point(9) }, point(8)), undefined);
  });
});
