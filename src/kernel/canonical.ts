/** What can be hashed: text as UTF-8, bytes as they are, absence as its own value. */
export type Field = string | Uint8Array | null;

const NULL_LENGTH = 0xffffffff;

/** Texts up to this length are given room for the most that they can take, instead of being measured first. */
const MEASURED_CHARS = 1_024;

const roomFor = (field: Field): number => {
  if (field === null) return 4;
  if (typeof field !== "string") return 4 + field.byteLength;
  return 4 + (field.length <= MEASURED_CHARS ? 3 * field.length : Buffer.byteLength(field));
};

/**
 * The fields one behind the other, each with its length as uint32 big-endian, null as 0xFFFFFFFF without bytes.
 * Unambiguous: no field's content can be read as another's boundary, as `a=b\n` lines or separators allow.
 */
export const lengthPrefixed = (fields: readonly Field[]): Buffer => {
  let room = 0;
  for (const field of fields) room += roomFor(field);
  const out = Buffer.allocUnsafe(room);
  let at = 0;
  for (const field of fields) {
    if (field === null) {
      at = out.writeUInt32BE(NULL_LENGTH, at);
    } else if (typeof field === "string") {
      const length = out.write(field, at + 4);
      out.writeUInt32BE(length, at);
      at += 4 + length;
    } else {
      at = out.writeUInt32BE(field.byteLength, at);
      out.set(field, at);
      at += field.byteLength;
    }
  }
  return out.subarray(0, at);
};
