import { createHash } from "node:crypto";
import { STREAMS } from "../contracts/streams.ts";
import {
  AT,
  type AuditValues,
  faultIn,
  isReserved,
  JSON_MEMBERS,
  MEMBER_NAMES,
  misfitsIn,
  unreserved,
} from "../domain/audit-event.ts";
import type { Keyring } from "../domain/keyring.ts";
import { BYTES_PER_CHAR } from "../kernel/canonical.ts";
import { type Fields, signEntry } from "../broadcast/envelope.ts";

/** One stream entry holds so many events and bytes at most: one signature, and an entry that every reader can take. */
const MAX_EVENTS = 256;
const MAX_ENTRY_BYTES = 512 * 1024;
/** One event's share of it. What is longer loses what is not part of the decision itself. */
export const MAX_EVENT_BYTES = 128 * 1024;

/**
 * The text of an event: its values with U+001F between them, U+001E between two events, nothing at all for null. No value
 * holds either (they are reserved), so nothing is escaped, one `join` writes it and one `split` reads it. The stream's
 * entry, the journal's record and the database's parameter are this same text.
 */
export const BETWEEN_VALUES = "\u001f";
export const BETWEEN_EVENTS = "\u001e";

/** Values that hold nothing reserved → their text. */
export const textOf = (values: AuditValues): string => values.join(BETWEEN_VALUES);

const valuesIn = (text: string): AuditValues => {
  const values: (string | null)[] = text.split(BETWEEN_VALUES);
  for (let at = 0; at < values.length; at += 1) if (values[at] === "") values[at] = null;
  return values;
};

/** An event of an entry, as it travels: its text, and its values. */
export type SentEvent = { readonly text: string; readonly values: AuditValues };

/** The events of an entry whose signature was verified; undefined where anything in it is no event of this form. */
export const sentEvents = (fields: Fields): readonly SentEvent[] | undefined => {
  const whole = fields["events"] ?? "";
  if (whole.includes("\0") || !whole.isWellFormed()) return undefined;
  const events = whole.split(BETWEEN_EVENTS).map((text) => ({ text, values: valuesIn(text) }));
  return events.every(({ values }) => faultIn(values) === undefined) ? events : undefined;
};

/** Events' texts as signed entries of `caracal.audit.events`, in order, as few as their size allows. */
export const entriesOf = (ring: Keyring, texts: readonly string[]): Fields[] => {
  const entries: Fields[] = [];
  let chars = 0;
  for (const text of texts) chars += text.length + 1;
  // Measured only where it could matter: a pass over all of it costs as much as its signature.
  const sizeOf =
    chars * BYTES_PER_CHAR <= MAX_ENTRY_BYTES ? (): number => 0 : (text: string): number => Buffer.byteLength(text);
  let held: string[] = [];
  let bytes = 0;
  const close = (): void => {
    if (held.length > 0) entries.push(signEntry(ring, STREAMS.audit, { events: held.join(BETWEEN_EVENTS) }));
    held = [];
    bytes = 0;
  };
  for (const text of texts) {
    const size = sizeOf(text);
    if (held.length === MAX_EVENTS || (held.length > 0 && bytes + size > MAX_ENTRY_BYTES)) close();
    held.push(text);
    bytes += size + 1;
  }
  close();
  return entries;
};

/** Bytes of one plain value: more than any id of ours has, and few enough for the ledger's indexes (PostgreSQL: 2704). */
const MAX_VALUE_BYTES = 2048;
/** What is shown of a longer one, in UTF-16 units: 3 bytes each at most. */
const VALUE_PREFIX = 500;
/** Of an event that is too long: JSON text of one of its lists, or of one member of its metadata. */
const MAX_PART_CHARS = 1024;
/** Where a value stands that its column can't keep: an id that is no UUID. */
const OTHER_FORM = "other_form";
/** What stands nowhere else stays whole: what was granted, which fits into a token, and ids of another form. */
const GRANTED: ReadonlySet<string> = new Set(["scope", "target", OTHER_FORM]);
const MAX_GRANTED_CHARS = 8 * 1024;
/** The metadata that is left then. */
const MAX_CUT_METADATA_CHARS = 16 * 1024;

const IS_JSON: readonly boolean[] = MEMBER_NAMES.map((name) => JSON_MEMBERS.has(name));

const isLong = (text: string): boolean =>
  text.length * BYTES_PER_CHAR > MAX_VALUE_BYTES && Buffer.byteLength(text) > MAX_VALUE_BYTES;

/** A long text as its beginning and its hash: another text stays another text. */
const shortened = (text: string): string => {
  if (!isLong(text)) return text;
  const sha256 = createHash("sha256").update(text).digest("hex");
  return `${unreserved(text.slice(0, VALUE_PREFIX))}… (${text.length} characters, SHA-256 ${sha256})`;
};

const truncated = (text: string): { readonly truncated_chars: number } => ({ truncated_chars: text.length });

const cut = (text: string | null): string | null =>
  text === null || text.length <= MAX_PART_CHARS ? text : JSON.stringify(truncated(text));

/** Reason and step stay, whatever a caller blew up beside them. */
const cutMembers = (text: string | null): string | null => {
  const members = Object.entries(objectIn(text)).map(([name, value]) => {
    const member = JSON.stringify(value);
    const most = GRANTED.has(name) ? MAX_GRANTED_CHARS : MAX_PART_CHARS;
    return [name.slice(0, MAX_PART_CHARS), member.length <= most ? value : truncated(member)] as const;
  });
  const left = JSON.stringify(Object.fromEntries(members));
  return members.length > 0 && left.length <= MAX_CUT_METADATA_CHARS ? left : cut(text);
};

/** The members of a JSON object's text; none where it is another value, no JSON, or null. */
export const objectIn = (text: string | null): Record<string, unknown> => {
  try {
    const value: unknown = JSON.parse(text ?? "{}");
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : {};
  } catch {
    return {};
  }
};

/** Whether every value can be kept as it is: nothing reserved, each of its form, and no plain value that an index refuses. */
const isKeepable = (values: AuditValues, text: string): boolean => {
  if (misfitsIn(values).length > 0) return false;
  // A reserved character is a separator too many, or is found in one pass over the whole text.
  if (text.includes("\0") || text.includes(BETWEEN_EVENTS) || !text.isWellFormed()) return false;
  let separators = 0;
  let plain_chars = 0;
  for (let at = text.indexOf(BETWEEN_VALUES); at >= 0; at = text.indexOf(BETWEEN_VALUES, at + 1)) separators += 1;
  if (separators !== values.length - 1) return false;
  for (let at = 0; at < values.length; at += 1) if (IS_JSON[at] !== true) plain_chars += values[at]?.length ?? 0;
  return (
    plain_chars * BYTES_PER_CHAR <= MAX_VALUE_BYTES ||
    !values.some((one, at) => !IS_JSON[at] && one !== null && isLong(one))
  );
};

/** An id that its column can't keep is said in the metadata instead: who was refused must not depend on how it is spelt. */
const withoutMisfits = (values: AuditValues): AuditValues => {
  const misfits = misfitsIn(values);
  if (misfits.length === 0) return values;
  const metadata = values[AT.metadata_json] ?? null;
  const said = objectIn(metadata);
  // Metadata that is no object keeps its text, as a member.
  const whole = metadata === null || Object.keys(said).length > 0 ? said : { metadata: metadata };
  const others = misfits.map((at) => [MEMBER_NAMES[at], shortened(values[at] as string)] as const);
  const kept: (string | null)[] = [...values];
  for (const at of misfits) kept[at] = null;
  kept[AT.metadata_json] = JSON.stringify({ ...whole, [OTHER_FORM]: Object.fromEntries(others) });
  return kept;
};

const keepable = (values: AuditValues): AuditValues =>
  withoutMisfits(values).map((value, at) => {
    if (value === null) return null;
    const text = isReserved(value) ? unreserved(value) : value;
    return IS_JSON[at] === true ? text : shortened(text);
  });

const isShort = (text: string): boolean =>
  text.length * BYTES_PER_CHAR <= MAX_EVENT_BYTES || Buffer.byteLength(text) <= MAX_EVENT_BYTES;

/**
 * The event's text, fit for an entry and for the ledger, whatever callers put into it: nothing reserved, no value that an
 * index refuses, no more than `MAX_EVENT_BYTES`; what is too long loses what is not part of the decision itself.
 * For the producer, before its signature: an event that the ledger refuses would be a denial that a caller kept out of it.
 */
export const fittedText = (values: AuditValues): string => {
  const text = textOf(values);
  const fit = isKeepable(values, text);
  if (fit && isShort(text)) return text;
  const whole = fit ? values : keepable(values);
  const whole_text = fit ? text : textOf(whole);
  if (isShort(whole_text)) return whole_text;
  const less = [...whole];
  less[AT.metadata_json] = cutMembers(whole[AT.metadata_json] ?? null);
  less[AT.diagnostics_json] = cut(whole[AT.diagnostics_json] ?? null);
  less[AT.determining_policies_json] = cut(whole[AT.determining_policies_json] ?? null);
  return textOf(less);
};
