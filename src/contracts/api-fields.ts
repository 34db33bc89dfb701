import * as v from "valibot";
import { isUuid } from "../kernel/ids.ts";
import { isScope, MAX_SCOPES } from "../domain/scopes.ts";

/** The largest body of a control-plane request, in bytes. */
export const MAX_API_BODY_BYTES = 1024 * 1024;
export const PAGE_LIMIT_MAX = 200;
export const PAGE_LIMIT_DEFAULT = 50;

/** A lone surrogate (it has no UTF-8) or a NUL (PostgreSQL's text has none): both would come back as a server error. */
const UNSTORABLE = /[\p{Cs}\0]/u;
/**
 * Control and formatting characters (bidirectional ones and tags among them), ends of lines, letters that show nothing: a name
 * is read by people, in terminals too, and must not look like another.
 */
export const UNREADABLE =
  /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Noncharacter_Code_Point}\u115f\u1160\u3164\uffa0]|\u{34f}|\u{17b4}|\u{17b5}/u;

/** Text that can be stored and hashed as it is, at most `max` UTF-16 units. */
export const text = (max: number) =>
  v.pipe(
    v.string(),
    v.minLength(1, "must not be empty"),
    v.maxLength(max, `must have at most ${max} characters`),
    v.check((value) => !UNSTORABLE.test(value), "must be well-formed Unicode without NUL characters"),
  );

/** What people call a thing. */
export const NameSchema = v.pipe(
  v.string(),
  v.minLength(1, "must not be empty"),
  v.maxLength(200, "must have at most 200 characters"),
  v.check((value) => !UNREADABLE.test(value), "must not contain control or formatting characters"),
  v.check((value) => value.trim() === value, "must not begin or end with white space"),
);

/** An id as we make them. One of another form names nothing that exists. */
export const IdSchema = v.pipe(v.string(), v.check(isUuid, "must be a UUID in lower case"));

/** RFC 3339 in UTC with milliseconds, as answers carry it. */
export const TimeSchema = v.string();

/** A point in time that a caller names: RFC 3339 with an offset → milliseconds since the epoch. */
export const MomentSchema = v.pipe(
  v.string(),
  v.regex(
    /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)$/,
    "must be a time as in RFC 3339, such as 2026-01-31T09:30:00Z",
  ),
  v.transform((value) => Date.parse(value)),
  v.check((value) => Number.isFinite(value), "must be a time that exists"),
  v.check((value) => value >= 0 && value < Date.UTC(9999, 11, 31), "must be between the years 1970 and 9999"),
);

const LIST_ENTRIES = new WeakMap<object, v.GenericSchema>();
/** What the entries of a `list` are, by the array of its first step, which takes any: for who describes it. */
export const entriesOfList = (array: object): v.GenericSchema | undefined => LIST_ENTRIES.get(array);

/** The length is asked before the items, so that a long list of bad ones costs nothing. */
export const list = <const I extends v.GenericSchema>(item: I, max: number, min = 0) => {
  const any = v.array(v.unknown());
  LIST_ENTRIES.set(any, item);
  return v.pipe(
    any,
    v.minLength(min, `must have at least ${min} ${min === 1 ? "entry" : "entries"}`),
    v.maxLength(max, `must have at most ${max} entries`),
    v.array(item),
  );
};

/** Scopes as RFC 6749, 3.3 allows them, each once. */
export const ScopesSchema = v.pipe(
  list(
    v.pipe(
      v.string(),
      v.check(isScope, "must be a scope: 1 to 256 visible ASCII characters without space, quote or backslash"),
    ),
    MAX_SCOPES,
  ),
  v.check((scopes) => new Set(scopes).size === scopes.length, "must name each scope once"),
);

/** An answer's list. */
export const TextsSchema = v.array(v.string());

const CURSOR = /^[A-Za-z0-9_-]{1,128}$/;

/** Opaque to callers: what `encodeCursor` made of the last row's key. */
export const encodeCursor = (key: string): string => Buffer.from(key).toString("base64url");

/** The parameters of a page whose rows are ordered by a key of the form `isKey` accepts. */
export const pageFields = (isKey: (key: string) => boolean) => ({
  limit: v.optional(
    v.pipe(
      v.string(),
      v.regex(/^[0-9]{1,4}$/, "must be a whole number"),
      v.transform(Number),
      v.minValue(1, "must be at least 1"),
      v.maxValue(PAGE_LIMIT_MAX, `must be at most ${PAGE_LIMIT_MAX}`),
    ),
    String(PAGE_LIMIT_DEFAULT),
  ),
  cursor: v.optional(
    v.pipe(
      v.string(),
      v.regex(CURSOR, "must be the next_cursor of an earlier page"),
      v.transform((value) => Buffer.from(value, "base64url").toString()),
      v.check(isKey, "must be the next_cursor of an earlier page"),
    ),
  ),
});

/** Most lists are ordered by id, which is the order of creation. */
export const PageQuerySchema = v.strictObject(pageFields(isUuid));
export type PageQuery = v.InferOutput<typeof PageQuerySchema>;

/** `next_cursor` is there where more rows follow. */
export const pageOf = <const I extends v.GenericSchema>(item: I) =>
  v.object({ items: v.array(item), next_cursor: v.optional(v.string()) });

/** A page as a store gives it. */
export type Page<T> = { items: T[]; next_cursor?: string };

/** A body of changes: every field may be left out, but not all of them. */
export const changesOf = <const E extends v.ObjectEntries>(entries: E) =>
  v.pipe(
    v.partial(v.strictObject(entries)),
    v.check((changes) => Object.values(changes).some((value) => value !== undefined), "must change at least one field"),
  );

export const NoQuerySchema = v.strictObject({});
export const NoParamsSchema = v.strictObject({});
export const ZoneParamsSchema = v.strictObject({ zone_id: IdSchema });
export const ZoneItemParamsSchema = v.strictObject({ zone_id: IdSchema, id: IdSchema });
