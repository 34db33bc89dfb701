import { createHash } from "node:crypto";
import * as v from "valibot";
import { STREAMS } from "../contracts/streams.ts";
import { CHAINED_FIELDS, type ChainedField, keepableText } from "../domain/audit-chain.ts";
import { type AuditEvent, AuditEventSchema } from "../domain/audit-event.ts";
import type { Keyring } from "../domain/keyring.ts";
import { type Fields, signEntry } from "./envelope.ts";

/** One stream entry holds so many events and bytes at most: one signature, and an entry that every reader can take. */
const MAX_EVENTS = 256;
const MAX_ENTRY_BYTES = 512 * 1024;
/** One event's share of it. What is longer loses what is not part of the decision itself. */
export const MAX_EVENT_BYTES = 64 * 1024;

const EventsSchema = v.array(AuditEventSchema);

/** UTF-8 takes at most so many bytes for each UTF-16 unit. */
const BYTES_PER_CHAR = 3;

/** JSON texts as the text of an array, joined in one go: a template around a joined text is copied once more. */
const arrayOf = (texts: readonly string[]): string => {
  const pieces = ["["];
  for (const text of texts) pieces.push(text, ",");
  pieces[pieces.length - 1] = "]";
  return pieces.join("");
};

/** Texts of events as signed entries of `caracal.audit.events`, in order, as few as their size allows. */
export const entriesOf = (ring: Keyring, events: readonly string[]): Fields[] => {
  const entries: Fields[] = [];
  const chars = events.reduce((sum, text) => sum + text.length + 1, 0);
  // Measured only where it could matter: a pass over all of it costs as much as its signature.
  const sizeOf =
    chars * BYTES_PER_CHAR <= MAX_ENTRY_BYTES ? (): number => 0 : (text: string): number => Buffer.byteLength(text);
  let texts: string[] = [];
  let bytes = 0;
  const close = (): void => {
    if (texts.length > 0) entries.push(signEntry(ring, STREAMS.audit, { events: arrayOf(texts) }));
    texts = [];
    bytes = 0;
  };
  for (const text of events) {
    const size = sizeOf(text);
    if (texts.length === MAX_EVENTS || (texts.length > 0 && bytes + size > MAX_ENTRY_BYTES)) close();
    texts.push(text);
    bytes += size + 1;
  }
  close();
  return entries;
};

/** Events as signed entries. */
export const auditEntries = (ring: Keyring, events: readonly AuditEvent[]): Fields[] =>
  entriesOf(
    ring,
    events.map((event) => JSON.stringify(event)),
  );

/** The events of an entry whose signature was verified; undefined where it holds something else. */
export const auditEvents = (fields: Fields): readonly AuditEvent[] | undefined => {
  try {
    const parsed = v.safeParse(EventsSchema, JSON.parse(fields["events"] ?? ""));
    return parsed.success ? parsed.output : undefined;
  } catch {
    return undefined;
  }
};

/** Bytes of one plain field: more than any id of ours has, and few enough for the ledger's indexes (PostgreSQL: 2704). */
const MAX_FIELD_BYTES = 2048;
/** What is shown of a longer one, in UTF-16 units: 3 bytes each at most. */
const FIELD_PREFIX = 500;
/** Of an event that is too long: JSON text of one of its lists, or of one member of its metadata. */
const MAX_PART_CHARS = 1024;
/** The metadata that is left then. */
const MAX_CUT_METADATA_CHARS = 16 * 1024;

/** Fields that hold JSON text; every other text is an id or a word. */
const JSON_FIELDS: ReadonlySet<ChainedField> = new Set([
  "determining_policies_json",
  "diagnostics_json",
  "metadata_json",
]);
const PLAIN_FIELDS: readonly ChainedField[] = CHAINED_FIELDS.filter((field) => !JSON_FIELDS.has(field));

const isLong = (text: string | number | null): boolean =>
  typeof text === "string" &&
  text.length * BYTES_PER_CHAR > MAX_FIELD_BYTES &&
  Buffer.byteLength(text) > MAX_FIELD_BYTES;

/** A long text as its beginning and its hash: another text stays another text. */
const shortened = (text: string): string => {
  if (!isLong(text)) return text;
  const sha256 = createHash("sha256").update(text).digest("hex");
  return `${keepableText(text.slice(0, FIELD_PREFIX))}… (${text.length} characters, SHA-256 ${sha256})`;
};

/** Whether `JSON.stringify` escaped anything that a ledger can't hold. Finds too much (JSON within JSON), never too little. */
const MAY_BE_UNKEEPABLE = /\\u(?:0000|d[89a-f])/;

/** Each text field as the ledger can hold it, one by one: for what is not sure to be so already. */
const keepable = (event: AuditEvent): AuditEvent => {
  const fit: Record<string, string | number | null> = { ...event };
  for (const field of CHAINED_FIELDS) {
    const value = event[field];
    if (typeof value !== "string") continue;
    const text = keepableText(value);
    fit[field] = JSON_FIELDS.has(field) ? text : shortened(text);
  }
  return fit as AuditEvent;
};

const truncated = (text: string): { readonly truncated_chars: number } => ({ truncated_chars: text.length });

const cut = (text: string | null): string | null =>
  text === null || text.length <= MAX_PART_CHARS ? text : JSON.stringify(truncated(text));

/** Reason and step stay, whatever a caller blew up beside them. */
const cutMembers = (text: string | null): string | null => {
  const members = Object.entries(objectIn(text)).map(([name, value]) => {
    const member = JSON.stringify(value);
    return [name.slice(0, MAX_PART_CHARS), member.length <= MAX_PART_CHARS ? value : truncated(member)] as const;
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

/** An event and its JSON text: made once, for the entry, the journal and the measuring. */
export type Fitted = { readonly event: AuditEvent; readonly text: string };

const fittedAs = (event: AuditEvent): Fitted => ({ event, text: JSON.stringify(event) });

/**
 * The event, fit for an entry and for the ledger, whatever callers put into it: no text that can't be kept, no field that
 * an index refuses, no more than `MAX_EVENT_BYTES`; what is too long loses what is not part of the decision itself. For
 * the producer, before its signature: an event that the ledger refuses would be a denial that a caller kept out of it.
 */
export const fitted = (event: AuditEvent): Fitted => {
  let fit = fittedAs(event);
  // `\\u` is in few events: looking for it alone is four times as fast as the expression.
  const unkeepable = fit.text.includes("\\u") && MAY_BE_UNKEEPABLE.test(fit.text);
  if (unkeepable || PLAIN_FIELDS.some((field) => isLong(event[field]))) fit = fittedAs(keepable(event));
  const { event: whole, text } = fit;
  if (text.length * BYTES_PER_CHAR <= MAX_EVENT_BYTES || Buffer.byteLength(text) <= MAX_EVENT_BYTES) return fit;
  return fittedAs({
    ...whole,
    metadata_json: cutMembers(whole.metadata_json),
    diagnostics_json: cut(whole.diagnostics_json),
    determining_policies_json: cut(whole.determining_policies_json),
  });
};
