import { crc32 } from "node:zlib";

/**
 * Before each record: a mark, the length of its bytes (uint32), its number (uint64), the CRC of these, and that of the bytes
 * (uint32 each), all big-endian. The number is in both checks, so that a block of an older file that the disk left there is
 * not read as a record. The mark is no UTF-8: no text that a caller chose is taken for the beginning of a record.
 */
const MARK = Buffer.from([0xff, 0xc0, 0xfe, 0xc1]);
const CHECKED_BYTES = MARK.byteLength + 4 + 8;
export const HEADER_BYTES = CHECKED_BYTES + 4 + 4;

/** In the place of a record's beginning, where its number has none that can be read. */
export const LOST = -1;

/** A record as it stands in the file. */
export const encodeRecord = (seq: number, payload: Uint8Array): Buffer => {
  const out = Buffer.allocUnsafe(HEADER_BYTES + payload.byteLength);
  out.set(MARK);
  out.writeUInt32BE(payload.byteLength, 4);
  out.writeBigUInt64BE(BigInt(seq), 8);
  const check = crc32(out.subarray(0, CHECKED_BYTES));
  out.writeUInt32BE(check, CHECKED_BYTES);
  out.writeUInt32BE(crc32(payload, check), CHECKED_BYTES + 4);
  out.set(payload, HEADER_BYTES);
  return out;
};

type Header = { readonly seq: number; readonly end: number; readonly check: number };

/** The header at `at`; undefined where none is whole there. */
const headerAt = (bytes: Buffer, at: number): Header | undefined => {
  if (at + HEADER_BYTES > bytes.byteLength) return undefined;
  const check = crc32(bytes.subarray(at, at + CHECKED_BYTES));
  if (bytes.readUInt32BE(at + CHECKED_BYTES) !== check) return undefined;
  return { seq: Number(bytes.readBigUInt64BE(at + 8)), end: at + HEADER_BYTES + bytes.readUInt32BE(at + 4), check };
};

/** Of each number from the first on: where its record begins (`LOST` where it is damaged) and ends. */
export type Places = { readonly starts: number[]; readonly ends: number[] };

/**
 * The records of `bytes`. What is damaged costs itself alone: reading goes on at the next whole header whose number fits the
 * bytes skipped so far. `end`: after the last record that was written whole; what follows was torn, or never written.
 */
export const scanRecords = (bytes: Buffer, first_seq: number): Places & { readonly end: number } => {
  const starts: number[] = [];
  const ends: number[] = [];
  let end = 0;
  const put = (start: number, behind: number): void => {
    starts.push(start);
    ends.push(behind);
  };
  for (let at = bytes.indexOf(MARK); at !== -1;) {
    const header = headerAt(bytes, at);
    const expected = first_seq + starts.length;
    const most = expected + Math.floor((at - end) / HEADER_BYTES);
    if (header === undefined || header.seq < expected || header.seq > most || header.end > bytes.byteLength) {
      at = bytes.indexOf(MARK, at + MARK.byteLength);
      continue;
    }
    while (first_seq + starts.length < header.seq) put(LOST, at);
    const payload = bytes.subarray(at + HEADER_BYTES, header.end);
    const whole = bytes.readUInt32BE(at + CHECKED_BYTES + 4) === crc32(payload, header.check);
    put(whole ? at : LOST, header.end);
    end = header.end;
    at = bytes.indexOf(MARK, end);
  }
  // A header that is there and is not whole: a torn one would end with the file.
  const tail = bytes.byteLength - end;
  if (tail >= HEADER_BYTES && bytes.indexOf(MARK, end) === end && headerAt(bytes, end) === undefined) {
    end = bytes.byteLength;
    put(LOST, end);
  }
  return { starts, ends, end };
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
