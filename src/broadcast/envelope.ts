import { hmacOfFields, type Keyring, keyNamed, type NamedKey, sameBytes } from "../domain/keyring.ts";

/** What an entry holds: flat text. */
export type Fields = Readonly<Record<string, string>>;

const SIGNATURE = "_sig";
const KEY_ID = "_kid";
/** HMAC-SHA256 as lower-case hex; another spelling of the same bytes is refused, so that an entry has one form. */
const SIGNATURE_FORM = /^[0-9a-f]{64}$/;

/**
 * HMAC over the stream, then each name and value, by name, all length-prefixed; hex. The stream is in it so that an entry
 * can't be moved to another; the lengths so that no value can be read as the next name; the names are compared by code
 * unit, which is the same everywhere.
 */
const signatureOf = (key: NamedKey, stream: string, fields: Fields): string => {
  const parts: string[] = [stream];
  for (const name of Object.keys(fields).sort()) {
    if (name !== SIGNATURE) parts.push(name, fields[name] as string);
  }
  return hmacOfFields(key, parts);
};

/** The fields with `_kid` and `_sig` (hex HMAC-SHA256 under `STREAMS_HMAC_KEY` over stream, names and values). */
export const signEntry = (ring: Keyring, stream: string, fields: Fields): Fields => {
  const named = { ...fields, [KEY_ID]: ring.current.id };
  return { ...named, [SIGNATURE]: signatureOf(ring.current, stream, named) };
};

/** Whether a key of the ring signed exactly these fields for exactly this stream. Constant time in the signature. */
export const verifyEntry = (ring: Keyring, stream: string, fields: Fields): boolean => {
  const signature = fields[SIGNATURE];
  const key = keyNamed(ring, fields[KEY_ID] ?? "");
  if (signature === undefined || key === undefined || !SIGNATURE_FORM.test(signature)) return false;
  return sameBytes(Buffer.from(signatureOf(key, stream, fields), "hex"), Buffer.from(signature, "hex"));
};
