import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import { hmac, hmacOf, keyring } from "../../src/domain/keyring.ts";

describe("an HMAC", () => {
  const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

  it("is HMAC-SHA256 in either form, for keys of any length", () => {
    fc.assert(
      fc.property(bytes(200), bytes(3_000), (key, message) => {
        const { current } = keyring(key);
        const expected = createHmac("sha256", key).update(message).digest("hex");
        assert.equal(hmac(current, message).toString("hex"), expected);
        assert.equal(
          hmacOf(current, message.length, (out, at) => at + message.copy(out, at)),
          expected,
        );
      }),
    );
  });

  it("covers what was written, and nothing that an earlier message left behind it", () => {
    const { current } = keyring(Buffer.alloc(32, 7));
    for (const length of [100_000, 10, 5_000_000, 3, 0]) {
      const message = Buffer.alloc(length, length % 251);
      const expected = createHmac("sha256", Buffer.alloc(32, 7)).update(message).digest("hex");
      // Given more room than it takes.
      assert.equal(
        hmacOf(current, 2 * length, (out, at) => at + message.copy(out, at)),
        expected,
      );
    }
  });
});
