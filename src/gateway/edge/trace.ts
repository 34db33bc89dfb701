import { randomFillSync } from "node:crypto";

/** W3C Trace Context, version 00; all-zero ids are invalid there. */
const TRACEPARENT = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;
const ID_BYTES = 24;
const POOL_IDS = 128;
const pool = Buffer.alloc(ID_BYTES * POOL_IDS);
let left = 0;

export const isTraceparent = (text: string): boolean => TRACEPARENT.test(text);

/** A new trace, not sampled. Its ids are public, but must not repeat: they come from a pool of random bytes. */
export const newTraceparent = (): string => {
  if (left === 0) {
    randomFillSync(pool);
    left = POOL_IDS;
  }
  left -= 1;
  const ids = pool.toString("hex", left * ID_BYTES, (left + 1) * ID_BYTES);
  return `00-${ids.slice(0, 32)}-${ids.slice(32)}-00`;
};
