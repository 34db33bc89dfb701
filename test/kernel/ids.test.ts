import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { isUuid, randomSecret, uuidv7, uuidv7Time_ms } from "../../src/kernel/ids.ts";

describe("uuidv7", () => {
  it("has version 7 and the RFC's variant, and is never the same twice", () => {
    const made = new Set(Array.from({ length: 5_000 }, () => uuidv7()));
    assert.equal(made.size, 5_000);
    for (const id of made) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    assert.ok([...made].every(isUuid));
  });

  it("holds its time, and does not go back when the clock does", () => {
    const ahead_ms = Date.now() + 60_000;
    assert.equal(uuidv7Time_ms(uuidv7(ahead_ms)), ahead_ms);
    assert.equal(uuidv7Time_ms(uuidv7(ahead_ms - 30_000)), ahead_ms);
  });

  it("has no time where it is no UUIDv7", () => {
    assert.equal(uuidv7Time_ms("0193a0c0-0000-4000-8000-000000000000"), undefined);
    assert.equal(uuidv7Time_ms("not an id"), undefined);
  });

  it("makes secrets of 32 random bytes", () => {
    assert.equal(Buffer.from(randomSecret(), "base64url").byteLength, 32);
    assert.notEqual(randomSecret(), randomSecret());
  });
});
