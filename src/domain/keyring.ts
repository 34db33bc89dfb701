import { createHash, createHmac, timingSafeEqual } from "node:crypto";

/** A symmetric key and its public name: the first 8 hex digits of SHA-256 over a label and the key. */
export type NamedKey = { readonly id: string; readonly bytes: Buffer };

/** The key that signs and seals now, and those that only verify and open. */
export type Keyring = { readonly current: NamedKey; readonly all: readonly NamedKey[] };

const nameOf = (bytes: Uint8Array): string =>
  createHash("sha256").update("caracal key id\0").update(bytes).digest("hex").slice(0, 8);

/** `previous`: keys that only open and verify, while a change of key is under way (`NAME_PREVIOUS`). */
export const keyring = (current: Uint8Array, previous: readonly Uint8Array[] = []): Keyring => {
  const named = [current, ...previous].map((bytes) => ({ id: nameOf(bytes), bytes: Buffer.from(bytes) }));
  return { current: named[0] as NamedKey, all: named };
};

/** The key of that name, where we have it. */
export const keyNamed = (ring: Keyring, id: string): NamedKey | undefined => ring.all.find((key) => key.id === id);

/** HMAC-SHA256. */
export const hmac = (key: NamedKey, bytes: Uint8Array): Buffer =>
  createHmac("sha256", key.bytes).update(bytes).digest();

/** Constant time for inputs of one length; another length is told apart at once, and lengths here are no secret. */
export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean =>
  a.byteLength === b.byteLength && timingSafeEqual(a, b);
