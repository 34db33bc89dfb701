import { createHash, hash, timingSafeEqual } from "node:crypto";
import { createScratch, type Field, mostBytesOf, writePrefixed } from "../kernel/canonical.ts";

/** HMAC's pads of a key (RFC 2104): what stands before the message, and before its hash, which is written behind. */
type Pads = { readonly inner: Buffer; readonly outer: Buffer };

/** A symmetric key and its public name: the first 8 hex digits of SHA-256 over a label and the key. */
export type NamedKey = { readonly id: string; readonly bytes: Buffer; readonly pads: Pads };

/** The key that signs and seals now, and those that only verify and open. */
export type Keyring = { readonly current: NamedKey; readonly all: readonly NamedKey[] };

const nameOf = (bytes: Uint8Array): string =>
  createHash("sha256").update("caracal key id\0").update(bytes).digest("hex").slice(0, 8);

/** SHA-256's block and digest. */
const BLOCK_BYTES = 64;
const DIGEST_BYTES = 32;

const padsOf = (key: Uint8Array): Pads => {
  const short = key.byteLength > BLOCK_BYTES ? createHash("sha256").update(key).digest() : key;
  const inner = Buffer.alloc(BLOCK_BYTES, 0x36);
  const outer = Buffer.alloc(BLOCK_BYTES + DIGEST_BYTES, 0x5c);
  short.forEach((byte, at) => {
    inner[at] = 0x36 ^ byte;
    outer[at] = 0x5c ^ byte;
  });
  return { inner, outer };
};

/** `previous`: keys that only open and verify, while a change of key is under way (`NAME_PREVIOUS`). */
export const keyring = (current: Uint8Array, previous: readonly Uint8Array[] = []): Keyring => {
  const named = [current, ...previous].map((bytes) => ({
    id: nameOf(bytes),
    bytes: Buffer.from(bytes),
    pads: padsOf(bytes),
  }));
  return { current: named[0] as NamedKey, all: named };
};

/** The key of that name, where we have it. */
export const keyNamed = (ring: Keyring, id: string): NamedKey | undefined => ring.all.find((key) => key.id === id);

const scratch = createScratch();

/**
 * HMAC-SHA256 in lower-case hex of what `write` puts into `out` from `at` on; it returns the end, `most_bytes` behind `at`
 * at most. It is done for every event: two one-shot hashes behind pads that are made once cost a third of a keyed object
 * for each, and the message is written where it is hashed.
 */
export const hmacOf = (key: NamedKey, most_bytes: number, write: (out: Buffer, at: number) => number): string => {
  const { inner, outer } = key.pads;
  const out = scratch(BLOCK_BYTES + most_bytes);
  out.set(inner);
  const end = write(out, BLOCK_BYTES);
  outer.write(hash("sha256", out.subarray(0, end), "hex"), BLOCK_BYTES, "hex");
  return hash("sha256", outer, "hex");
};

/** HMAC-SHA256 in lower-case hex of the fields, each with its length (`writePrefixed`). */
export const hmacOfFields = (key: NamedKey, fields: readonly Field[]): string =>
  hmacOf(key, mostBytesOf(fields), (out, at) => writePrefixed(out, at, fields));

/**
 * Compares secrets and MACs that a caller sends; tokens that are looked up by SHA-256 are not compared here. Constant time
 * for inputs of one length. Another length is told apart at once, and lengths here are no secret.
 */
export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean =>
  a.byteLength === b.byteLength && timingSafeEqual(a, b);
