import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { createKeptShares } from "../../src/kernel/kept-shares.ts";

describe("shares of a cache", () => {
  it("gives out what was put in, once", () => {
    const shares = createKeptShares<string, number>(2);
    shares.put("a", "x", 1);
    assert.deepEqual([shares.take("b", "x"), shares.take("a", "x"), shares.take("a", "x")], [undefined, 1, undefined]);
  });

  it("takes what is too much from the owner that has most, what it used least recently", () => {
    const shares = createKeptShares<string, number>(3);
    shares.put("few", "x", 0);
    for (const key of ["1", "2"]) shares.put("many", key, Number(key));
    assert.equal(shares.take("many", "1"), 1);
    shares.put("many", "1", 1);
    shares.put("many", "3", 3);
    assert.deepEqual(
      [shares.take("few", "x"), shares.take("many", "2"), shares.take("many", "1"), shares.take("many", "3")],
      [0, undefined, 1, 3],
    );
  });

  it("keeps what is looked at, as used", () => {
    const shares = createKeptShares<string, number>(2);
    shares.put("a", "x", 1);
    shares.put("a", "y", 2);
    assert.deepEqual([shares.get("a", "x"), shares.get("a", "x"), shares.get("b", "x")], [1, 1, undefined]);
    shares.put("a", "z", 3);
    assert.deepEqual([shares.get("a", "x"), shares.get("a", "y"), shares.get("a", "z")], [1, undefined, 3]);
  });

  it("never holds more than its number, nor loses what an owner with its even share has, whatever comes", () => {
    const puts = fc.array(fc.tuple(fc.constantFrom("b", "c"), fc.nat(30)), { maxLength: 200 });
    fc.assert(
      fc.property(puts, (all) => {
        const shares = createKeptShares<number, string>(6);
        shares.put("a", 1, "one");
        shares.put("a", 2, "two");
        for (const [owner, key] of all) shares.put(owner, key, owner);
        assert.deepEqual([shares.take("a", 1), shares.take("a", 2)], ["one", "two"]);
        let left = 0;
        for (const owner of ["b", "c"]) for (let key = 0; key <= 30; key += 1) left += shares.take(owner, key) ? 1 : 0;
        assert.ok(left <= 4);
      }),
    );
  });
});
