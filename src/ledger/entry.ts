import { createHash } from "node:crypto";
import { STREAMS } from "../contracts/streams.ts";
import { CHAINED_FIELDS, type ChainedField, keepableText, valuesOf } from "../domain/audit-chain.ts";
import { type AuditEvent, DECISIONS, type Decision } from "../domain/audit-event.ts";
import type { Keyring } from "../domain/keyring.ts";
import { BYTES_PER_CHAR } from "../kernel/canonical.ts";
import { type Fields, signEntry } from "../broadcast/envelope.ts";

/** One stream entry holds so many events and bytes at most: one signature, and an entry that every reader can take. */
const MAX_EVENTS = 256;
const MAX_ENTRY_BYTES = 512 * 1024;
/** One event's share of it. What is longer loses what is not part of the decision itself. */
export const MAX_EVENT_BYTES = 128 * 1024;

/**
 * The form of an event: the values of `CHAINED_FIELDS`, in their order, with U+0000 between them and between two events.
 * No text that the ledger can keep holds that, so that nothing in it is escaped (half of an event is JSON text already,
 * whose quotes JSON would escape a second time) and one native `split` reads it. null is nothing; a text that is empty or
 * begins with U+0001 has one U+0001 more before it. So no two events have one form, whatever callers put into their values.
 */
const BETWEEN = "\0";
const PRESENT = "\u0001";
const FIELD_COUNT = CHAINED_FIELDS.length;
const SEQ_FORM = /^[1-9][0-9]{0,15}$/;

const present = (text: string): string => (text.length === 0 || text.charCodeAt(0) === 1 ? PRESENT + text : text);
const optional = (text: string | null): string => (text === null ? "" : present(text));

/** The form of an event that is keepable in every field. One expression: the rope that it makes is written out once. */
const formOf = (e: AuditEvent): string =>
  `${present(e.id)}\0${present(e.zone_id)}\0${present(e.event_type)}\0${optional(e.request_id)}\0${e.decision}\0` +
  `${optional(e.client_id)}\0${optional(e.subject)}\0${optional(e.session_id)}\0${optional(e.agent_session_id)}\0` +
  `${optional(e.delegation_edge_id)}\0${optional(e.resource_id)}\0${present(e.producer)}\0${e.producer_seq}\0` +
  `${optional(e.policy_set_id)}\0${optional(e.policy_set_version_id)}\0${optional(e.manifest_sha)}\0` +
  `${optional(e.evaluation_status)}\0${optional(e.determining_policies_json)}\0${optional(e.diagnostics_json)}\0` +
  `${optional(e.metadata_json)}\0${present(e.occurred_at)}`;

/** What is no event's form. */
class Malformed extends Error {}

const isDecision = (text: string): text is Decision => (DECISIONS as readonly string[]).includes(text);

/** The value at `at`; null where there is none. */
const valueAt = (values: readonly string[], at: number): string | null => {
  const value = values[at] as string;
  if (value.length === 0) return null;
  if (value.charCodeAt(0) !== 1) return value;
  // One form for each text: what needs no mark has none.
  if (value.length > 1 && value.charCodeAt(1) !== 1) throw new Malformed();
  return value.slice(1);
};

const textAt = (values: readonly string[], at: number): string => {
  const value = valueAt(values, at);
  if (value === null) throw new Malformed();
  return value;
};

const decisionAt = (values: readonly string[], at: number): Decision => {
  const value = values[at] as string;
  if (!isDecision(value)) throw new Malformed();
  return value;
};

const numberAt = (values: readonly string[], at: number): number => {
  const value = values[at] as string;
  const number = Number(value);
  if (!SEQ_FORM.test(value) || !Number.isSafeInteger(number)) throw new Malformed();
  return number;
};

const eventAt = (values: readonly string[], at: number): AuditEvent => ({
  id: textAt(values, at),
  zone_id: textAt(values, at + 1),
  event_type: textAt(values, at + 2),
  request_id: valueAt(values, at + 3),
  decision: decisionAt(values, at + 4),
  client_id: valueAt(values, at + 5),
  subject: valueAt(values, at + 6),
  session_id: valueAt(values, at + 7),
  agent_session_id: valueAt(values, at + 8),
  delegation_edge_id: valueAt(values, at + 9),
  resource_id: valueAt(values, at + 10),
  producer: textAt(values, at + 11),
  producer_seq: numberAt(values, at + 12),
  policy_set_id: valueAt(values, at + 13),
  policy_set_version_id: valueAt(values, at + 14),
  manifest_sha: valueAt(values, at + 15),
  evaluation_status: valueAt(values, at + 16),
  determining_policies_json: valueAt(values, at + 17),
  diagnostics_json: valueAt(values, at + 18),
  metadata_json: valueAt(values, at + 19),
  occurred_at: textAt(values, at + 20),
});

/** The events of a text; undefined where anything in it is no event's form. */
const eventsIn = (text: string): readonly AuditEvent[] | undefined => {
  const values = text.split(BETWEEN);
  if (values.length % FIELD_COUNT !== 0) return undefined;
  const events: AuditEvent[] = [];
  try {
    for (let at = 0; at < values.length; at += FIELD_COUNT) events.push(eventAt(values, at));
  } catch (error) {
    if (error instanceof Malformed) return undefined;
    throw error;
  }
  return events;
};

/** The events of an entry whose signature was verified; undefined where it holds something else. */
export const auditEvents = (fields: Fields): readonly AuditEvent[] | undefined => eventsIn(fields["events"] ?? "");

/** Events' forms as signed entries of `caracal.audit.events`, in order, as few as their size allows. */
export const entriesOf = (ring: Keyring, forms: readonly string[]): Fields[] => {
  const entries: Fields[] = [];
  let chars = 0;
  for (const form of forms) chars += form.length + 1;
  // Measured only where it could matter: a pass over all of it costs as much as its signature.
  const sizeOf =
    chars * BYTES_PER_CHAR <= MAX_ENTRY_BYTES ? (): number => 0 : (form: string): number => Buffer.byteLength(form);
  let held: string[] = [];
  let bytes = 0;
  const close = (): void => {
    if (held.length > 0) entries.push(signEntry(ring, STREAMS.audit, { events: held.join(BETWEEN) }));
    held = [];
    bytes = 0;
  };
  for (const form of forms) {
    const size = sizeOf(form);
    if (held.length === MAX_EVENTS || (held.length > 0 && bytes + size > MAX_ENTRY_BYTES)) close();
    held.push(form);
    bytes += size + 1;
  }
  close();
  return entries;
};

/** Bytes of one plain field: more than any id of ours has, and few enough for the ledger's indexes (PostgreSQL: 2704). */
const MAX_FIELD_BYTES = 2048;
/** What is shown of a longer one, in UTF-16 units: 3 bytes each at most. */
const FIELD_PREFIX = 500;
/** Of an event that is too long: JSON text of one of its lists, or of one member of its metadata. */
const MAX_PART_CHARS = 1024;
/** What was granted stays whole: it fits into a token, and stands nowhere else. */
const GRANTED: ReadonlySet<string> = new Set(["scope", "target"]);
const MAX_GRANTED_CHARS = 4 * 1024;
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

/** Whether a plain field is too long for an index. Where all of them together are not, none is looked at. */
const hasLongField = (event: AuditEvent, form: string): boolean => {
  const { determining_policies_json, diagnostics_json, metadata_json } = event;
  const json_chars =
    (determining_policies_json?.length ?? 0) + (diagnostics_json?.length ?? 0) + (metadata_json?.length ?? 0);
  if ((form.length - json_chars) * BYTES_PER_CHAR <= MAX_FIELD_BYTES) return false;
  return PLAIN_FIELDS.some((field) => isLong(event[field]));
};

/** Whether a field holds U+0000. */
const hasBetween = (event: AuditEvent): boolean => {
  for (const value of valuesOf(event)) if (value?.includes(BETWEEN) === true) return true;
  return false;
};

const isShort = (form: string): boolean =>
  form.length * BYTES_PER_CHAR <= MAX_EVENT_BYTES || Buffer.byteLength(form) <= MAX_EVENT_BYTES;

/**
 * The event's form, fit for an entry and for the ledger, whatever callers put into it: no text that can't be kept, no field
 * that an index refuses, no more than `MAX_EVENT_BYTES`; what is too long loses what is not part of the decision itself.
 * For the producer, before its signature: an event that the ledger refuses would be a denial that a caller kept out of it.
 */
export const fittedForm = (event: AuditEvent): string => {
  const form = formOf(event);
  const fit = form.isWellFormed() && !hasBetween(event) && !hasLongField(event, form);
  if (fit && isShort(form)) return form;
  const whole = fit ? event : keepable(event);
  const whole_form = formOf(whole);
  if (isShort(whole_form)) return whole_form;
  return formOf({
    ...whole,
    metadata_json: cutMembers(whole.metadata_json),
    diagnostics_json: cut(whole.diagnostics_json),
    determining_policies_json: cut(whole.determining_policies_json),
  });
};

/** Events as signed entries, each as it is. Throws where one holds U+0000: nothing that came from a stream does. */
export const auditEntries = (ring: Keyring, events: readonly AuditEvent[]): Fields[] => {
  if (events.some(hasBetween)) throw new RangeError("an event with U+0000 in a field has no form");
  return entriesOf(ring, events.map(formOf));
};
