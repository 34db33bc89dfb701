import { closeSync, openSync, readSync, statSync } from "node:fs";
import type { Clock } from "../../kernel/clock.ts";

/** A file of the system's as it is now: `parse` of its text, or of none where there is no such file. */
export type SystemFile<T> = () => T;

/** How often it is asked whether the file has changed. */
const LOOK_MS = 1_000;
/** What is behind this is not read. */
const MAX_BYTES = 1024 * 1024;

const readBounded = (path: string): string => {
  const file = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(MAX_BYTES);
    let size = 0;
    for (let read = -1; read !== 0 && size < MAX_BYTES; size += read) {
      read = readSync(file, bytes, size, MAX_BYTES - size, null);
    }
    const text = bytes.toString("utf8", 0, size);
    return size < MAX_BYTES ? text : text.slice(0, text.lastIndexOf("\n") + 1);
  } finally {
    closeSync(file);
  }
};

/** Reads in place: a local file is there at once, and libuv's threads may all be busy with what is not. */
export const systemFile = <T>(path: string, parse: (text: string) => T, clock: Clock): SystemFile<T> => {
  let value = parse("");
  let looked_ms = -Infinity;
  let mark = "";
  return () => {
    const now_ms = clock.monotonic_ms();
    if (now_ms - looked_ms < LOOK_MS) return value;
    looked_ms = now_ms;
    try {
      const { ino, size, mtimeMs, ctimeMs } = statSync(path);
      const found = `${ino} ${size} ${mtimeMs} ${ctimeMs}`;
      if (found === mark) return value;
      value = parse(readBounded(path));
      mark = found;
    } catch {
      value = parse(""); // none, or unreadable: it names nobody
      mark = "";
    }
    return value;
  };
};
