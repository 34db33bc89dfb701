import { createHash } from "node:crypto";
import { lengthPrefixed } from "../kernel/canonical.ts";

/** What an entry of ours can hold at most; a batch of ledger events, the largest, has half a MiB in one field. */
const MAX_FIELDS = 128;
const MAX_BYTES = 1024 * 1024;

/**
 * What is kept of an entry that can't be processed: all of it, with where it stood and why. One that is larger than any of
 * ours is a forgery by whoever may write to the stream, and keeping it would be a way to stop the reader or to fill the
 * server: of that only its hash and size are kept.
 */
export const deadLetter = (
  entry: { readonly id: string; readonly fields: Readonly<Record<string, string>> },
  reason: string,
): Record<string, string> => {
  const dead = { _dead_id: entry.id, _dead_reason: reason };
  const pairs = Object.entries(entry.fields);
  const bytes = pairs.reduce((sum, [name, value]) => sum + Buffer.byteLength(name) + Buffer.byteLength(value), 0);
  if (pairs.length <= MAX_FIELDS && bytes <= MAX_BYTES) return { ...entry.fields, ...dead };
  const sha256 = createHash("sha256").update(lengthPrefixed(pairs.flat())).digest("hex");
  return { ...dead, sha256, bytes: String(bytes), fields: String(pairs.length) };
};
