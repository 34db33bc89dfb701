import type postgres from "postgres";

/**
 * The arrays that our tables and statements use, by their type's oid: with them a JavaScript array is a parameter
 * (`${list}::text[]`, or straight into a column) and a column of arrays comes back as one. postgres.js would ask every
 * connection's server for these instead (`fetch_types`), and knows none until it has. As parameters only texts and numbers
 * work: for the others postgres.js infers the type of the first element, not of the array.
 */
const BOOLEAN_ARRAY = 1000;
const INTEGER_ARRAY = 1007;
const TEXT_ARRAY = 1009;
const BIGINT_ARRAY = 1016;
const BYTEA = 17;
const DATE = 1082;
const TIMESTAMP = 1114;
const TIMESTAMPTZ = 1184;
const JSON_TYPE = 114;
const JSONB = 3802;

const quoted = (item: unknown): string =>
  item === null || item === undefined ? "NULL" : `"${String(item).replace(/[\\"]/g, "\\$&")}"`;

/** PostgreSQL's text form of a one-dimensional array. Anything else is passed on as it is: it may be that form already. */
const writeArray = (items: unknown): unknown => (Array.isArray(items) ? `{${items.map(quoted).join(",")}}` : items);

/** Reads PostgreSQL's text form of a one-dimensional array. */
const readArray = (text: string): (string | null)[] => {
  const items: (string | null)[] = [];
  const ITEM = /"((?:[^"\\]|\\.)*)"|([^",{}]+)/g;
  for (const [, inQuotes, bare] of text.matchAll(ITEM)) {
    if (inQuotes !== undefined) items.push(inQuotes.replace(/\\(.)/gs, "$1"));
    else items.push(bare === "NULL" ? null : (bare ?? null));
  }
  return items;
};

const arrayOf = (oid: number, read: (item: string) => unknown): postgres.PostgresType => ({
  to: oid,
  from: [oid],
  serialize: writeArray,
  parse: (text: string) => readArray(text).map((item) => (item === null ? null : read(item))),
});

/**
 * What is no date goes to the server as it is, which refuses it. The driver's own way throws while the statement is being
 * written, and a text of a caller's may reach it.
 */
const writeDate = (value: unknown): string => {
  const date = typeof value === "number" ? new Date(value) : value;
  return date instanceof Date && !Number.isNaN(date.getTime()) ? date.toISOString() : String(date);
};

/** For the driver's `types`. */
export const driverTypes: Readonly<Record<string, postgres.PostgresType>> = {
  text_array: arrayOf(TEXT_ARRAY, (item) => item),
  integer_array: arrayOf(INTEGER_ARRAY, Number),
  bigint_array: arrayOf(BIGINT_ARRAY, (item) => item),
  date: {
    to: TIMESTAMPTZ,
    from: [DATE, TIMESTAMP, TIMESTAMPTZ],
    serialize: writeDate,
    parse: (text: string) => new Date(text),
  },
  bytea: {
    to: BYTEA,
    from: [BYTEA],
    serialize: (value: unknown) =>
      `\\x${Buffer.from(value instanceof Uint8Array ? value : String(value)).toString("hex")}`,
    parse: (text: string) => Buffer.from(text.slice(2), "hex"),
  },
  boolean_array: arrayOf(BOOLEAN_ARRAY, (item) => item === "t"),
  /** A string is JSON text already (postgres.js would make a JSON string of it); everything else is made JSON text. */
  json_text: {
    to: JSON_TYPE,
    from: [JSON_TYPE, JSONB],
    serialize: (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value)),
    parse: (text: string) => JSON.parse(text) as unknown,
  },
};
