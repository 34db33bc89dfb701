import type { Entry } from "../../ports/streams.ts";

/** `[id, [name, value, …]]`; no fields where the entry was deleted while it was pending. */
export type RawEntry = [id: string, fields: string[] | null];

/** A flat reply `name, value, …` as a map. */
export const pairs = (flat: readonly unknown[]): Map<string, unknown> => {
  const out = new Map<string, unknown>();
  for (let i = 0; i + 1 < flat.length; i += 2) out.set(String(flat[i]), flat[i + 1]);
  return out;
};

/** `fromEntries` makes every name a property of its own, `__proto__` too: nothing that was signed gets lost. */
export const entriesOf = (raw: readonly RawEntry[]): Entry[] =>
  raw.flatMap(([id, flat]) =>
    flat === null ? [] : [{ id, fields: Object.fromEntries(pairs(flat)) as Record<string, string> }],
  );

/** Names and values, behind the words that are there. */
export const flatten = (fields: Readonly<Record<string, string>>, words: string[] = []): string[] => {
  for (const name of Object.keys(fields)) words.push(name, fields[name] as string);
  return words;
};

const parts = (id: string): [ms: number, n: number] => {
  const [ms = "0", n = "0"] = id.split("-");
  return [Number(ms), Number(n)];
};

/** Below, at or above zero, as for `sort`. */
export const compareIds = (a: string, b: string): number => {
  const [a_ms, a_n] = parts(a);
  const [b_ms, b_n] = parts(b);
  return a_ms - b_ms || a_n - b_n;
};

export const successorOf = (id: string): string => {
  const [ms, n] = parts(id);
  return `${ms}-${n + 1}`;
};

/** The first id of that millisecond. */
export const idOf = (ms: number): string => `${Math.max(0, Math.floor(ms))}-0`;

export const millisecondsOf = (id: string): number => parts(id)[0];
