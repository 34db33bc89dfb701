import { createHash } from "node:crypto";

/** RFC 6750, 2.1: what a Bearer token may consist of. */
const B64TOKEN = /^[A-Za-z0-9._~+/-]+=*$/;
/** 32 bytes in base64 without padding; hex needs more. */
const MIN_CHARACTERS = 43;
/** 32 random bytes show about 215 bits in base64 and 240 in hex by this measure; words, runs and patterns show far less. */
const MIN_APPARENT_BITS = 170;

/** Shannon's entropy of the characters, times their number: an upper bound, blind to order, of what can be in there. */
const apparentBits = (text: string): number => {
  const counts = new Map<string, number>();
  for (const character of text) counts.set(character, (counts.get(character) ?? 0) + 1);
  let bits = 0;
  for (const count of counts.values()) bits -= count * Math.log2(count / text.length);
  return bits;
};

/** A text that is a piece repeated to its end. */
const repeats = (text: string): boolean => `${text}${text}`.indexOf(text, 1) < text.length;

/**
 * What is wrong with a token that the operator brings, as words that follow the field's name; undefined where it can be
 * 32 random bytes. Tokens are kept as plain SHA-256, so their entropy is all that stands against guessing.
 */
export const weaknessOf = (token: string): string | undefined => {
  if (!B64TOKEN.test(token))
    return "must consist of A-Z, a-z, 0-9 and ._~+/- only (with = at its end); use openssl rand -base64 32";
  if (token.length < MIN_CHARACTERS)
    return `must have at least ${MIN_CHARACTERS} characters, as 32 random bytes in base64 have; use openssl rand -base64 32`;
  if (repeats(token) || apparentBits(token) < MIN_APPARENT_BITS)
    return "does not look like 32 random bytes; use openssl rand -base64 32";
  return undefined;
};

/** How a token rests, and how it is looked up: lower-case hex. */
export const tokenHash = (token: string): string => createHash("sha256").update(token).digest("hex");
