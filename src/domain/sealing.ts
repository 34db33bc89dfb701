import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { lengthPrefixed } from "../kernel/canonical.ts";
import { type Keyring, keyNamed } from "./keyring.ts";

/** Where a sealed value rests. Bound into the seal, so that a row's ciphertext opens in no other row, column or zone. */
export type SealedAt = {
  readonly table: string;
  readonly zone_id: string;
  readonly row: string;
  readonly column: string;
};

const CIPHER = "chacha20-poly1305";
const VERSION = "v1";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

const associated = (at: SealedAt, key_id: string): Buffer =>
  lengthPrefixed([VERSION, key_id, at.table, at.zone_id, at.row, at.column]);

/** `v1.<key id>.<base64url of nonce ‖ ciphertext ‖ tag>`: ChaCha20-Poly1305 (RFC 8439) under the ring's current key. */
export const seal = (ring: Keyring, at: SealedAt, plain: Uint8Array): string => {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv(CIPHER, ring.current.bytes, nonce, { authTagLength: TAG_BYTES });
  cipher.setAAD(associated(at, ring.current.id), { plaintextLength: plain.byteLength });
  const body = Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  return `${VERSION}.${ring.current.id}.${body.toString("base64url")}`;
};

/** What `seal` closed. Throws where the key is not in the ring, or the bytes or the place are not those that were sealed. */
export const unseal = (ring: Keyring, at: SealedAt, sealed: string): Buffer => {
  const [version, key_id, encoded, ...rest] = sealed.split(".");
  if (version !== VERSION || key_id === undefined || encoded === undefined || rest.length > 0) {
    throw new Error(`${at.table}.${at.column} is not a sealed value`);
  }
  const key = keyNamed(ring, key_id);
  if (key === undefined)
    throw new Error(
      `${at.table}.${at.column} was sealed under key ${key_id}, which is not in ZONE_KEK or ZONE_KEK_PREVIOUS`,
    );
  const body = Buffer.from(encoded, "base64url");
  if (body.byteLength < NONCE_BYTES + TAG_BYTES) throw new Error(`${at.table}.${at.column} is cut short`);
  const decipher = createDecipheriv(CIPHER, key.bytes, body.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES });
  const end = body.byteLength - TAG_BYTES;
  decipher.setAuthTag(body.subarray(end));
  decipher.setAAD(associated(at, key_id), { plaintextLength: end - NONCE_BYTES });
  return Buffer.concat([decipher.update(body.subarray(NONCE_BYTES, end)), decipher.final()]);
};
