import type { Finding } from "../domain/audit-chain.ts";

/** What a batch's numbers of one producer say, beside those that came before. Ranges are inclusive. */
export type Count = {
  /** The highest number that has come. */
  readonly last_seq: number;
  /** Numbers that were skipped: they may still come, in another batch or from the producer's journal. */
  readonly holes: readonly { readonly first: number; readonly last: number }[];
  /** Skipped by more than is watched number by number: a finding at once. */
  readonly chasms: readonly { readonly first: number; readonly last: number }[];
  /** Numbers below the highest: they fill holes, if there are any. */
  readonly late: readonly number[];
};

/**
 * Numbers skipped at once that are watched one by one. More than ingestors that run side by side can have in hand, and
 * few enough that a producer which says 1 and then 9 000 000 000 000 fills no table.
 */
const MAX_WATCHED = 50_000;

const ascending = (a: number, b: number): number => a - b;

/** Counts `numbers` (in any order) of a producer that had come to `last_seq`; 0: a new one, and the first number is 1. */
export const countNumbers = (last_seq: number, numbers: readonly number[]): Count => {
  const holes: { first: number; last: number }[] = [];
  const chasms: { first: number; last: number }[] = [];
  const late: number[] = [];
  let last = last_seq;
  for (const number of numbers.toSorted(ascending)) {
    if (number <= last) {
      late.push(number);
      continue;
    }
    if (number > last + 1) {
      const range = { first: last + 1, last: number - 1 };
      (number - last - 1 > MAX_WATCHED ? chasms : holes).push(range);
    }
    last = number;
  }
  return { last_seq: last, holes, chasms, late };
};

/** Sorted numbers as ranges of neighbours. */
export const toRanges = (numbers: readonly number[]): readonly { readonly first: number; readonly last: number }[] => {
  const ranges: { first: number; last: number }[] = [];
  for (const number of numbers) {
    const open = ranges.at(-1);
    if (open !== undefined && number === open.last + 1) open.last = number;
    else ranges.push({ first: number, last: number });
  }
  return ranges;
};

/** The finding of numbers `first` to `last` that did not come. */
export const gapOf = (producer: string, first: number, last: number): Finding => {
  const what = first === last ? `number ${first}` : `numbers ${first} to ${last}`;
  return { kind: "audit_gap", zone_id: null, chain_seq: null, detail: `producer ${producer}: ${what} did not come` };
};
