import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import { keyring } from "../../src/domain/keyring.ts";
import { type SealedAt, seal, unseal } from "../../src/domain/sealing.ts";

const AT: SealedAt = { table: "zone_keys", zone_id: "z1", row: "k1", column: "sealed_private" };
const plain = Buffer.from("a private key");

describe("a sealed value", () => {
  it("opens where it was sealed, and is another ciphertext each time", () => {
    const ring = keyring(randomBytes(32));
    const sealed = seal(ring, AT, plain);
    assert.deepEqual(unseal(ring, AT, sealed), plain);
    assert.notEqual(sealed, seal(ring, AT, plain));
    assert.ok(!sealed.includes(plain.toString("base64url")));
  });

  for (const place of ["table", "zone_id", "row", "column"] as const) {
    it(`does not open in another ${place}`, () => {
      const ring = keyring(randomBytes(32));
      assert.throws(() => unseal(ring, { ...AT, [place]: "other" }, seal(ring, AT, plain)));
    });
  }

  it("opens under a former key, names the key that is missing, and never opens under another of the same name's form", () => {
    const former = randomBytes(32);
    const sealed = seal(keyring(former), AT, plain);
    assert.deepEqual(unseal(keyring(randomBytes(32), [former]), AT, sealed), plain);
    assert.throws(() => unseal(keyring(randomBytes(32)), AT, sealed), /ZONE_KEK_PREVIOUS/);
  });

  it("does not open when a bit of it, or its key's id, is changed", () => {
    const ring = keyring(randomBytes(32));
    const [version, key_id, body] = seal(ring, AT, plain).split(".") as [string, string, string];
    const bytes = Buffer.from(body, "base64url");
    for (let at = 0; at < bytes.byteLength; at += 1) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 1;
      assert.throws(() => unseal(ring, AT, `${version}.${key_id}.${changed.toString("base64url")}`), `byte ${at}`);
    }
    assert.throws(() => unseal(ring, AT, `${version}.00000000.${body}`));
    assert.throws(() => unseal(ring, AT, `${version}.${key_id}.${body.slice(0, 10)}`));
    assert.throws(() => unseal(ring, AT, "plain text"));
  });
});
