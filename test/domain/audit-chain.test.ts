import assert from "node:assert/strict";
import { createHash, createHmac, randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  chainHmac,
  type ChainPoint,
  contentSha256,
  type Finding,
  GENESIS,
  judgeEnd,
  type LedgerRow,
  walkChain,
} from "../../src/domain/audit-chain.ts";
import {
  AT,
  type AuditValues,
  COLUMNS,
  MEMBER_NAMES,
  type MemberName,
  valuesOf,
} from "../../src/domain/audit-event.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { anyEvent, auditEvent, sent } from "../audit/events.ts";

const ring = keyring(Buffer.alloc(32, 7));

const chained = (count: number, using = ring): LedgerRow[] => {
  let previous = GENESIS;
  return Array.from({ length: count }, (_, index) => {
    const values = valuesOf(auditEvent({ producer_seq: index + 1 }));
    const content = contentSha256(values);
    previous = chainHmac(using.current, { zone_id: "z1", chain_seq: index + 1, content, previous });
    return {
      values,
      chain_seq: String(index + 1),
      content_sha256: content,
      chain_hmac: previous,
      key_id: using.current.id,
    };
  });
};

/** The row with another value of one member. */
const altered = (row: LedgerRow | undefined, name: MemberName, value: string | null): LedgerRow => {
  assert.ok(row !== undefined);
  return { ...row, values: row.values.with(AT[name], value) };
};

const walk = (rows: readonly LedgerRow[], seen?: ChainPoint): readonly Finding[] => {
  const chain = walkChain(ring, "z1", seen);
  return [...rows.flatMap((row) => chain.judge(row)), ...chain.end()];
};

const places = (findings: readonly Finding[]): readonly (readonly unknown[])[] =>
  findings.map((finding) => [finding.kind, finding.chain_seq]);

describe("the content of an event", () => {
  it("covers every member that an event has, each once, and first the version of their form", () => {
    assert.deepEqual([...MEMBER_NAMES].sort(), ["form", ...Object.keys(auditEvent())].sort());
    assert.deepEqual(
      COLUMNS.map(({ name }) => name),
      MEMBER_NAMES,
    );
    assert.equal(valuesOf(auditEvent())[0], "1");
  });

  it("is its values in the published order, each behind its length, null as 0xFFFFFFFF, numbers in decimal", () => {
    const values = valuesOf(auditEvent({ subject: "ä", zone_id: "z", request_id: null, producer_seq: 1203 }));
    const expected = Buffer.concat(
      values.map((value) => {
        if (value === null) return Buffer.from("ffffffff", "hex");
        const text = Buffer.from(value, "utf8");
        const length = Buffer.alloc(4);
        length.writeUInt32BE(text.length);
        return Buffer.concat([length, text]);
      }),
    );
    assert.equal(values[AT.producer_seq], "1203");
    assert.equal(contentSha256(values), createHash("sha256").update(expected).digest("hex"));
  });

  it("differs wherever two events differ", () => {
    const same = (one: AuditValues, other: AuditValues): boolean => one.every((value, at) => value === other[at]);
    fc.assert(
      fc.property(anyEvent, anyEvent, (one, other) => {
        const [ones, others] = [sent(one).values, sent(other).values];
        assert.equal(contentSha256(ones) === contentSha256(others), same(ones, others));
      }),
    );
  });

  it("differs when one value alone changes, the version too, and when text moves over the border between two", () => {
    const name = fc.constantFrom(...MEMBER_NAMES);
    fc.assert(
      fc.property(anyEvent, name, fc.option(fc.string({ unit: "grapheme" })), (event, member, value) => {
        const { values } = sent(event);
        fc.pre(values[AT[member]] !== value);
        assert.notEqual(contentSha256(values), contentSha256(values.with(AT[member], value)));
      }),
    );
    const contentOf = (some: object) => contentSha256(valuesOf(auditEvent({ ...one, ...some })));
    const one = auditEvent({ client_id: "ab", subject: "c" });
    assert.notEqual(contentOf({}), contentOf({ client_id: "a", subject: "bc" }));
    assert.notEqual(contentOf({ client_id: null }), contentOf({ client_id: "c", subject: null }));
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
    for (const field of MEMBER_NAMES) {
      const rows = chained(5);
      rows[2] = altered(rows[2], field, "forged");
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
    const forged = altered(altered(rows[2], "decision", "allow"), "subject", "mallory");
    rows[2] = { ...forged, content_sha256: contentSha256(forged.values) };
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
    rows[8] = altered(rows[8], "subject", "mallory");
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
    const own = ["content_sha256", "chain_hmac", "key_id"] as const;
    const isOwn = (name: string): name is (typeof own)[number] => (own as readonly string[]).includes(name);
    fc.assert(
      fc.property(fc.nat(9), fc.constantFrom(...MEMBER_NAMES, ...own), fc.string(), (index, name, value) => {
        const rows = chained(10);
        const row = rows[index] as LedgerRow;
        fc.pre(value !== (isOwn(name) ? row[name] : row.values[AT[name]]));
        rows[index] = isOwn(name) ? { ...row, [name]: value } : altered(row, name, value);
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
