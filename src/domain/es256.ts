import { type KeyObject, sign as signDer, verify as verifyDer } from "node:crypto";

// ES256 as JWS has it (RFC 7518, 3.4): r and s as 32 bytes each, one behind the other. OpenSSL itself speaks DER
// (RFC 3279, 2.2.3). Node converts between the two when it is asked to by `dsaEncoding`, which needs the key within an
// object: with that, Node 24 spends 52 µs on a signature and 134 on a verification, in place of 24 and 87.

/** r, and s, in a signature. */
const PART_BYTES = 32;
const SIGNATURE_BYTES = 2 * PART_BYTES;

const MAX_DER_BYTES = 2 + 2 * (2 + 1 + PART_BYTES);
const SEQUENCE = 0x30;
const INTEGER = 0x02;

/** Copies the DER INTEGER at `at` of `der` to the end of the 32 bytes at `to`, and returns the place behind it. */
const readInteger = (der: Buffer, at: number, out: Buffer, to: number): number => {
  const end = at + 2 + (der[at + 1] as number);
  // 33 bytes begin with a zero, which only says that the number is not negative.
  const from = Math.max(at + 2, end - PART_BYTES);
  der.copy(out, to + PART_BYTES - (end - from), from, end);
  return end;
};

/** OpenSSL's signature for P-256 as r ‖ s. Its 72 bytes at most have lengths of one byte; what is longer is another curve's. */
const fromDer = (der: Buffer): Buffer => {
  if (der.byteLength > MAX_DER_BYTES || der[1] !== der.byteLength - 2) throw new Error("the key is none for ES256");
  const out = Buffer.alloc(SIGNATURE_BYTES);
  readInteger(der, readInteger(der, 2, out, 0), out, PART_BYTES);
  return out;
};

/** Writes the number in the 32 bytes at `from` as a DER INTEGER, in the shortest form, and returns the place behind it. */
const writeInteger = (signature: Uint8Array, from: number, out: Buffer, at: number): number => {
  const end = from + PART_BYTES;
  let first = from;
  while (first < end - 1 && signature[first] === 0) first += 1;
  const pad = (signature[first] as number) >= 0x80 ? 1 : 0; // or it would be a negative number
  out[at] = INTEGER;
  out[at + 1] = pad + end - first;
  out[at + 2] = 0;
  out.set(signature.subarray(first, end), at + 2 + pad);
  return at + 2 + pad + end - first;
};

/** r ‖ s in DER. */
const toDer = (signature: Uint8Array): Buffer => {
  const out = Buffer.allocUnsafe(MAX_DER_BYTES);
  const end = writeInteger(signature, PART_BYTES, out, writeInteger(signature, 0, out, 2));
  out[0] = SEQUENCE;
  out[1] = end - 2;
  return out.subarray(0, end);
};

/** The same key. Throws where it is none of P-256: asked once when a key comes in, so that no other gets to those below. */
export const requireP256 = (key: KeyObject): KeyObject => {
  if (key.asymmetricKeyDetails?.namedCurve !== "prime256v1") throw new Error("the key is none for ES256");
  return key;
};

/** The signature over `bytes`, 64 bytes. `key`: a private P-256 key. */
export const signEs256 = (key: KeyObject, bytes: Uint8Array): Buffer => fromDer(signDer("sha256", bytes, key));

/** Whether `signature` is r ‖ s of `bytes` under this public P-256 key; false for one of another length. */
export const verifyEs256 = (key: KeyObject, bytes: Uint8Array, signature: Uint8Array): boolean =>
  signature.byteLength === SIGNATURE_BYTES && verifyDer("sha256", bytes, key, toDer(signature));
