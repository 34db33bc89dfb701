import { closeSync, openSync, readSync } from "node:fs";

/** The most that any command takes: a file of a zone, or a text of a request. */
const MAX_TEXT_BYTES = 16 * 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;
const STANDARD_INPUT = 0;

/**
 * A file's text, or standard input's for `-`. Throws what the system says, and `EFBIG` past `MAX_TEXT_BYTES`: a zone's
 * file names files, and may be another's work, and a device has no end.
 */
export const readText = (file: string): string => {
  const handle = file === "-" ? STANDARD_INPUT : openSync(file, "r");
  try {
    const chunks: Buffer[] = [];
    for (let size = 0; size <= MAX_TEXT_BYTES;) {
      const chunk = Buffer.alloc(CHUNK_BYTES);
      const read = readSync(handle, chunk);
      if (read === 0) return Buffer.concat(chunks, size).toString("utf8");
      chunks.push(chunk.subarray(0, read));
      size += read;
    }
    throw Object.assign(new Error("the file is too large"), { code: "EFBIG" });
  } finally {
    if (handle !== STANDARD_INPUT) closeSync(handle);
  }
};
