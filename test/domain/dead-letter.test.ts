import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { deadLetter } from "../../src/domain/dead-letter.ts";

describe("a dead letter", () => {
  it("holds the entry whole, with where it stood and why", () => {
    assert.deepEqual(deadLetter({ id: "1-1", fields: { events: "[]" } }, "malformed"), {
      events: "[]",
      _dead_id: "1-1",
      _dead_reason: "malformed",
    });
  });

  it("of an entry that is larger than any of ours holds only its hash and size, so that it can be buried at all", () => {
    const many = Object.fromEntries(Array.from({ length: 9_000 }, (_, at) => [`f${at}`, "x"]));
    const long = { events: "x".repeat(2 * 1024 * 1024) };
    for (const fields of [many, long]) {
      const dead = deadLetter({ id: "1-1", fields }, "bad_signature");
      assert.deepEqual(Object.keys(dead).sort(), ["_dead_id", "_dead_reason", "bytes", "fields", "sha256"]);
    }
    assert.notEqual(
      deadLetter({ id: "1", fields: many }, "x")["sha256"],
      deadLetter({ id: "1", fields: long }, "x")["sha256"],
    );
  });
});
