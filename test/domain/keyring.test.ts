import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import { lengthPrefixed } from "../../src/kernel/canonical.ts";
import { hmacOf, hmacOfFields, keyring } from "../../src/domain/keyring.ts";

describe("an HMAC", () => {
  const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

  it("is HMAC-SHA256 in either form, for keys of any length", () => {
    fc.assert(
      fc.property(bytes(200), bytes(3_000), (key, message) => {
        const { current } = keyring(key);
        const expected = createHmac("sha256", key).update(message).digest("hex");
        const fields = ["a", null, message];
        const of_fields = createHmac("sha256", key).update(lengthPrefixed(fields)).digest("hex");
        assert.equal(hmacOfFields(current, fields), of_fields);
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
