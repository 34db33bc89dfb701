import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { parseJson } from "../../src/http/body.ts";

const bytesOf = (text: string): Buffer => Buffer.from(text);

describe("a body as JSON", () => {
  it("is what the text says, whatever stands in its texts", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4, stringUnit: "binary" }), (value) => {
        const text = JSON.stringify(value);
        fc.pre(!/[\ud800-\udfff]/.test(text)); // what is no Unicode is no UTF-8 either
        assert.deepEqual(parseJson(bytesOf(text)), JSON.parse(text));
      }),
    );
  });

  it("a text of brackets, commas, quotes and backslashes is one value", () => {
    const value = '[{,"\\]}'.repeat(20_000);
    assert.equal(parseJson(bytesOf(JSON.stringify(value))), value);
  });

  it("holds 10 000 values and 64 levels, and no more", () => {
    const list = (count: number): string => `[${Array.from({ length: count }, () => 1).join(",")}]`;
    assert.equal((parseJson(bytesOf(list(9_999))) as unknown[]).length, 9_999);
    const deep = (levels: number): string => "[".repeat(levels) + "]".repeat(levels);
    assert.ok(Array.isArray(parseJson(bytesOf(deep(64)))));
    for (const text of [
      list(10_001),
      deep(65),
      `{"a":${deep(64)}}`,
      "[".repeat(1_000_000),
      `[${"{},".repeat(5_001)}1]`,
    ])
      assert.throws(() => parseJson(bytesOf(text)), { status: 400, code: "invalid_body" });
  });
});
