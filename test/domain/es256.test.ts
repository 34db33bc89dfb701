import assert from "node:assert/strict";
import { createPublicKey, generateKeyPairSync, type KeyObject, randomBytes, sign, verify } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { requireP256, signEs256, verifyEs256 } from "../../src/domain/es256.ts";

const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const { publicKey: foreign } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const P1363 = { dsaEncoding: "ieee-p1363" } as const;

/** Enough that r and s of every shape come: with their first bit set (1 in 2), and shorter than 32 bytes (1 in 256). */
const SIGNATURES = 2_000;

test("what is signed is 64 bytes that node:crypto takes as r ‖ s", () => {
  let high = 0;
  let short = 0;
  for (let i = 0; i < SIGNATURES; i += 1) {
    const bytes = randomBytes(i % 200);
    const signature = signEs256(privateKey, bytes);
    assert.equal(signature.byteLength, 64);
    assert.ok(verify("sha256", bytes, { key: publicKey, ...P1363 }, signature), signature.toString("hex"));
    if ((signature[0] ?? 0) >= 0x80) high += 1;
    if (signature[0] === 0 || signature[32] === 0) short += 1;
  }
  assert.ok(high > 0 && short > 0, "the loop met no number that needs padding or none that is short");
});

test("what node:crypto signed as r ‖ s is verified, whatever the length of r and s", () => {
  for (let i = 0; i < SIGNATURES; i += 1) {
    const bytes = randomBytes(i % 200);
    const signature = sign("sha256", bytes, { key: privateKey, ...P1363 });
    assert.ok(verifyEs256(publicKey, bytes, signature), signature.toString("hex"));
  }
});

test("r and s of few bytes are verified: one signature in some thousand millions has such", () => {
  // A key under which 5 and 1 are r and s of these bytes: Q = (sR - zG) / r, R the point whose x is 5.
  const jwk = {
    kty: "EC",
    crv: "P-256",
    x: "vsPqmli2zCdIc82ufmCfkXhxm7sC2fsTZN3NhhGR2eo",
    y: "5PL2Yc3u9X9EbSEIB9jmsdnpTslJCAleZlNOzPe3d08",
  };
  const key = createPublicKey({ key: jwk, format: "jwk" });
  const signature = Buffer.alloc(64);
  signature[31] = 5;
  signature[63] = 1;
  const bytes = Buffer.from("what was signed");
  assert.ok(verify("sha256", bytes, { key, ...P1363 }, signature));
  assert.ok(verifyEs256(key, bytes, signature));
});

test("a signature stays what it was when the next one is made", () => {
  const first = signEs256(privateKey, Buffer.from("first"));
  const second = signEs256(privateKey, Buffer.from("second"));
  assert.ok(verifyEs256(publicKey, Buffer.from("first"), first));
  assert.ok(verifyEs256(publicKey, Buffer.from("second"), second));
});

test("a key of another kind is refused when it comes in, and signs nothing if it got past that", () => {
  const others: readonly KeyObject[] = [
    generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey,
    generateKeyPairSync("ec", { namedCurve: "P-521" }).privateKey,
    generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey,
  ];
  for (const key of others) {
    assert.throws(() => requireP256(key), /none for ES256/);
    assert.throws(() => signEs256(key, Buffer.from("what was signed")));
  }
  assert.throws(() => requireP256(generateKeyPairSync("ed25519").publicKey), /none for ES256/);
  assert.equal(requireP256(privateKey), privateKey);
  assert.equal(requireP256(publicKey), publicKey);
});

test("any other signature is refused as node:crypto refuses it, and none throws", () => {
  const bytes = Buffer.from("what was signed");
  const signature = signEs256(privateKey, bytes);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (other) => {
      assert.equal(verifyEs256(publicKey, bytes, other), false);
    }),
  );
  fc.assert(
    fc.property(fc.nat(63), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const changed = Buffer.from(signature);
      changed[at] = (changed[at] ?? 0) ^ flip;
      assert.equal(verifyEs256(publicKey, bytes, changed), false);
    }),
  );
  assert.equal(verifyEs256(publicKey, Buffer.from("something else"), signature), false);
  assert.equal(verifyEs256(foreign, bytes, signature), false);
});

test("r or s that is zero, or as large as the curve's order, is refused", () => {
  const bytes = Buffer.from("what was signed");
  const signature = signEs256(privateKey, bytes);
  const order = Buffer.from("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", "hex");
  for (const part of [Buffer.alloc(32), order, Buffer.alloc(32, 0xff)]) {
    assert.equal(verifyEs256(publicKey, bytes, Buffer.concat([part, signature.subarray(32)])), false);
    assert.equal(verifyEs256(publicKey, bytes, Buffer.concat([signature.subarray(0, 32), part])), false);
    assert.equal(verifyEs256(publicKey, bytes, Buffer.concat([part, part])), false);
  }
});

test("a signature in DER, or with bytes before or behind it, is none of a token", () => {
  const bytes = Buffer.from("what was signed");
  const signature = signEs256(privateKey, bytes);
  for (const other of [
    sign("sha256", bytes, privateKey),
    Buffer.concat([signature, Buffer.from([0])]),
    Buffer.concat([Buffer.from([0]), signature]),
    signature.subarray(0, 63),
    Buffer.alloc(0),
  ]) {
    assert.equal(verifyEs256(publicKey, bytes, other), false);
  }
});
