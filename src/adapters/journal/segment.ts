import { crc32 } from "node:zlib";

/** `length, crc` as uint32 big-endian before each record; the CRC is over the record's number and its bytes. */
export const HEADER_BYTES = 8;

const numberBytes = (seq: number): Buffer => {
  const out = Buffer.allocUnsafe(8);
  out.writeBigUInt64BE(BigInt(seq));
  return out;
};

/** The number is in the check, so that a block of an older file that the disk left behind is not read as a record. */
const check = (seq: number, payload: Uint8Array): number => crc32(payload, crc32(numberBytes(seq)));

/** A record as it stands in the file. */
export const encodeRecord = (seq: number, payload: Uint8Array): Buffer => {
  const out = Buffer.allocUnsafe(HEADER_BYTES + payload.byteLength);
  out.writeUInt32BE(payload.byteLength, 0);
  out.writeUInt32BE(check(seq, payload), 4);
  out.set(payload, HEADER_BYTES);
  return out;
};

/** Where the whole records of `bytes` begin, and where the last of them ends; what follows was torn or never written. */
export const scanRecords = (bytes: Buffer, first_seq: number): { readonly offsets: number[]; readonly end: number } => {
  const offsets: number[] = [];
  let at = 0;
  while (at + HEADER_BYTES <= bytes.byteLength) {
    const end = at + HEADER_BYTES + bytes.readUInt32BE(at);
    if (end > bytes.byteLength) break;
    if (bytes.readUInt32BE(at + 4) !== check(first_seq + offsets.length, bytes.subarray(at + HEADER_BYTES, end))) break;
    offsets.push(at);
    at = end;
  }
  return { offsets, end: at };
};

/** The file's name holds the number of its first record. */
export const segmentName = (name: string, first_seq: number): string =>
  `${name}.${String(first_seq).padStart(16, "0")}.log`;

/** The number in a segment's name; undefined where the file is another's. */
export const firstSeqOf = (name: string, file: string): number | undefined => {
  if (!file.startsWith(`${name}.`) || !file.endsWith(".log")) return undefined;
  const digits = file.slice(name.length + 1, -4);
  return /^\d{16}$/.test(digits) ? Number(digits) : undefined;
};
