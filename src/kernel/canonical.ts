/** What can be hashed: text as UTF-8, bytes as they are, absence as its own value. */
export type Field = string | Uint8Array | null;

const NULL_LENGTH = 0xffffffff;

/** UTF-8 takes at most so many bytes for each UTF-16 unit. */
export const BYTES_PER_CHAR = 3;
/** A text up to this length gets the most room that it can need. A longer one is measured first. */
const MEASURED_CHARS = 1_024;

const roomFor = (field: Field): number => {
  if (field === null) return 4;
  if (typeof field !== "string") return 4 + field.byteLength;
  return 4 + (field.length <= MEASURED_CHARS ? BYTES_PER_CHAR * field.length : Buffer.byteLength(field));
};

/** The most that `writePrefixed` can take for these fields, without looking at the texts. */
export const mostBytesOf = (fields: readonly Field[]): number => {
  let bytes = 0;
  for (const field of fields) {
    bytes += 4;
    if (field !== null) bytes += typeof field === "string" ? BYTES_PER_CHAR * field.length : field.byteLength;
  }
  return bytes;
};

/** Writes a field's length and the field into `out` at `at`. Returns the offset after it. `out` must have room for it. */
export const writeField = (out: Buffer, at: number, field: Field): number => {
  if (field === null) return out.writeUInt32BE(NULL_LENGTH, at);
  if (typeof field === "string") {
    const length = out.write(field, at + 4);
    out.writeUInt32BE(length, at);
    return at + 4 + length;
  }
  const after = out.writeUInt32BE(field.byteLength, at);
  out.set(field, after);
  return after + field.byteLength;
};

/**
 * Writes the fields one after the other, each with its length as uint32 big-endian, null as 0xFFFFFFFF without bytes.
 * Unambiguous: no field's content can be read as another's boundary, as `a=b\n` lines or separators allow.
 */
export const writePrefixed = (out: Buffer, at: number, fields: readonly Field[]): number => {
  let place = at;
  for (const field of fields) place = writeField(out, place, field);
  return place;
};

/** The same in bytes of its own. */
export const lengthPrefixed = (fields: readonly Field[]): Buffer => {
  let room = 0;
  for (const field of fields) room += roomFor(field);
  const out = Buffer.allocUnsafe(room);
  return out.subarray(0, writePrefixed(out, 0, fields));
};

/** Memory up to this size is kept for the next use. */
const MAX_KEPT_BYTES = 2 * 1024 * 1024;

/**
 * Memory to write something into that is hashed at once, because an allocation for each costs more than the hash. The next
 * one who asks gets the same memory. So nothing of it may outlive the function that asked.
 */
export const createScratch = (): ((bytes: number) => Buffer) => {
  let kept = Buffer.allocUnsafeSlow(16 * 1024);
  return (bytes) => {
    if (bytes <= kept.byteLength) return kept;
    const made = Buffer.allocUnsafeSlow(bytes + (bytes >> 1));
    if (made.byteLength <= MAX_KEPT_BYTES) kept = made;
    return made;
  };
};
