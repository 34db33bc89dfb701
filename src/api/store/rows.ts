import { encodeCursor, type Page } from "../../contracts/api-fields.ts";

/** timestamptz as postgres.js gives it → RFC 3339 in UTC with milliseconds. */
export const iso = (time: Date): string => time.toISOString();

export const isoOrNull = (time: Date | null): string | null => (time === null ? null : time.toISOString());

/** A list of texts as the parameter that `texts` reads. */
export const asJson = (list: readonly string[]): string => JSON.stringify(list);

/** `rows`: up to one more than `limit`, which tells that there is a next page. */
export const pageOfRows = <R, T>(
  rows: readonly R[],
  limit: number,
  itemOf: (row: R) => T,
  keyOf: (item: T) => string,
): Page<T> => {
  const items = rows.slice(0, limit).map(itemOf);
  const last = items.at(-1);
  return rows.length > limit && last !== undefined ? { items, next_cursor: encodeCursor(keyOf(last)) } : { items };
};
