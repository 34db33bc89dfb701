import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { constant, isConstant, jsonText } from "../../src/kernel/json-text.ts";

describe("the text of a value", () => {
  it("is JSON.stringify's, the first time and every other, whether it can be remembered or not", () => {
    fc.assert(
      fc.property(fc.oneof(fc.array(fc.jsonValue()), fc.dictionary(fc.string(), fc.jsonValue())), (value) => {
        const expected = JSON.stringify(value);
        assert.deepEqual([jsonText(value), jsonText(value)], [expected, expected]);
        const frozen = constant(structuredClone(value));
        assert.deepEqual([jsonText(frozen), jsonText(frozen)], [expected, expected]);
      }),
    );
  });

  it("is not remembered of what can still change, at whatever depth", () => {
    const inner = { scopes: ["read"] };
    const outer = Object.freeze({ inner });
    assert.equal(isConstant(outer), false);
    assert.equal(jsonText(outer), '{"inner":{"scopes":["read"]}}');
    inner.scopes.push("write");
    assert.equal(jsonText(outer), '{"inner":{"scopes":["read","write"]}}');
    Object.freeze(inner);
    inner.scopes.push("admin");
    assert.equal(jsonText(outer), '{"inner":{"scopes":["read","write","admin"]}}');
  });

  it("is of a value that can't change any more once it is constant", () => {
    const value = constant({ a: [{ b: 1 }] });
    assert.ok(isConstant(value));
    assert.throws(() => value.a.push({ b: 2 }), TypeError);
    assert.throws(() => Object.assign(value.a[0] ?? {}, { b: 2 }), TypeError);
  });
});
