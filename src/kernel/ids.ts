import { randomBytes, randomFillSync } from "node:crypto";

const POOL_IDS = 256;
const pool = Buffer.alloc(POOL_IDS * 10);
let left = 0;
let last_ms = 0;

const DIGITS = Buffer.from("0123456789abcdef", "latin1");
const DASH = 0x2d;
/** The text is built here, so that one string comes out of it and not a chain of fifteen. */
const text = Buffer.alloc(36, DASH);
/** Where the 13th to 32nd digit stand: after the time, and around the dashes. */
const RANDOM_DIGITS = [15, 16, 17, 19, 20, 21, 22, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35] as const;
let text_ms = -1;

const writeTime = (ms: number): void => {
  text.write(ms.toString(16).padStart(12, "0").slice(0, 8), 0, "latin1");
  text.write(ms.toString(16).padStart(12, "0").slice(8), 9, "latin1");
  text_ms = ms;
};

/**
 * A UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds since the epoch, then 74 random bits. Never earlier than the one
 * before it in this process, so that a clock that steps back does not reorder ids.
 */
export const uuidv7 = (now_ms: number = Date.now()): string => {
  if (left === 0) {
    randomFillSync(pool); // one call for many ids: a call for each costs ten times as much
    left = POOL_IDS;
  }
  left -= 1;
  if (now_ms > last_ms) last_ms = now_ms;
  if (text_ms !== last_ms) writeTime(last_ms);
  text[14] = 0x37; // version 7
  const at = left * 10;
  for (let i = 0; i < RANDOM_DIGITS.length; i += 1) {
    const byte = pool[at + (i >> 1)] as number;
    const digit = (i & 1) === 0 ? byte >> 4 : byte & 15;
    text[RANDOM_DIGITS[i] as number] = DIGITS[i === 3 ? (digit & 3) | 8 : digit] as number; // variant 10
  }
  return text.toString("latin1");
};

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const UUIDV7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** Whether `text` is a UUID in its canonical, lower-case form. */
export const isUuid = (text: string): boolean => UUID.test(text);

/** The milliseconds since the epoch that a UUIDv7 holds; undefined where `text` is none. */
export const uuidv7Time_ms = (text: string): number | undefined =>
  UUIDV7.test(text) ? Number.parseInt(text.slice(0, 8) + text.slice(9, 13), 16) : undefined;

/** `bytes` random bytes as base64url: 32 for every secret that we make. */
export const randomSecret = (bytes = 32): string => randomBytes(bytes).toString("base64url");
