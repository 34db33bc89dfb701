import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { type Field, lengthPrefixed } from "../../src/kernel/canonical.ts";

const read = (bytes: Buffer): (string | null)[] => {
  const out: (string | null)[] = [];
  for (let at = 0; at < bytes.byteLength;) {
    const length = bytes.readUInt32BE(at);
    at += 4;
    out.push(length === 0xffffffff ? null : bytes.toString("utf8", at, at + length));
    at += length === 0xffffffff ? 0 : length;
  }
  return out;
};

describe("lengthPrefixed", () => {
  it("can be read back to exactly the fields that went in, so no two lists share their bytes", () => {
    fc.assert(
      fc.property(fc.array(fc.option(fc.string({ unit: "grapheme" }))), (fields) => {
        assert.deepEqual(read(lengthPrefixed(fields)), fields);
      }),
    );
  });

  it("tells null from the empty text and a boundary from content", () => {
    const distinct: Field[][] = [[], [null], [""], ["", ""], ["ab"], ["a", "b"], [Buffer.from("a"), null]];
    assert.equal(new Set(distinct.map((fields) => lengthPrefixed(fields).toString("hex"))).size, distinct.length);
  });
});
