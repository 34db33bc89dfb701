import { isUuid } from "../kernel/ids.ts";
import type { AuditDocument } from "./audit-document.ts";
import { Unavailable } from "../ports/streams.ts";

export const DECISIONS = ["allow", "deny", "none"] as const;
export type Decision = (typeof DECISIONS)[number];

/**
 * The members of a ledger event, declared once: in this order they are hashed, signed, sent, journaled and stored. Types,
 * codec, columns and the API's contract follow from this table. Another order or another member is another form.
 *
 * `word`: text as it is; `json`: canonical JSON text, made once by the producer; `uuid` and `sha256` (hex): in the one
 * spelling that the database gives back, so that it may keep their bytes; `number`: a safe integer from 1; `moment`:
 * RFC 3339 in UTC with milliseconds. `null` may stand where a member is not required.
 */
const MEMBERS = [
  /** The version of this very table. It is hashed with the rest, so that no later form can be taken for this one. */
  { name: "form", kind: "version", required: true },
  { name: "id", kind: "uuid", required: true },
  { name: "zone_id", kind: "word", required: true },
  { name: "event_type", kind: "word", required: true },
  { name: "request_id", kind: "word", required: false },
  { name: "decision", kind: "decision", required: true },
  { name: "client_id", kind: "uuid", required: false },
  { name: "subject", kind: "word", required: false },
  { name: "session_id", kind: "uuid", required: false },
  { name: "agent_session_id", kind: "uuid", required: false },
  { name: "delegation_edge_id", kind: "uuid", required: false },
  { name: "resource_id", kind: "uuid", required: false },
  /** `{role}:{instance}`: who numbered it. */
  { name: "producer", kind: "word", required: true },
  /** 1, 2, 3, … per producer: a hole is a finding. */
  { name: "producer_seq", kind: "number", required: true },
  { name: "policy_set_id", kind: "uuid", required: false },
  { name: "policy_set_version_id", kind: "uuid", required: false },
  { name: "manifest_sha", kind: "sha256", required: false },
  { name: "evaluation_status", kind: "word", required: false },
  { name: "determining_policies_json", kind: "json", required: false },
  { name: "diagnostics_json", kind: "json", required: false },
  { name: "metadata_json", kind: "json", required: false },
  { name: "occurred_at", kind: "moment", required: true },
] as const;

/** The form that this build writes. */
export const FORM = 1;

type Member = (typeof MEMBERS)[number];
export type MemberName = Member["name"];
type ValueOf<M extends Member> =
  | (M["kind"] extends "number" | "version" ? number : M["kind"] extends "decision" ? Decision : string)
  | (M["required"] extends true ? never : null);

/** An event as a row has it, by name. */
export type AuditRow = { readonly [M in Member as M["name"]]: ValueOf<M> };
/** One row of the ledger before it is chained, by name. `form` is left to the table. */
export type AuditEvent = Omit<AuditRow, "form">;

/**
 * The same as its values, in the order of the table, each as the text that is hashed and kept; null where there is none.
 * No text in it is empty or holds a reserved character (`reserved`), so that one join writes it and one split reads it.
 */
export type AuditValues = readonly (string | null)[];

export const MEMBER_NAMES: readonly MemberName[] = MEMBERS.map(({ name }) => name);
/** Those that hold JSON text; every other text is an id or a word. */
export const JSON_MEMBERS: ReadonlySet<MemberName> = new Set(
  MEMBERS.filter(({ kind }) => kind === "json").map(({ name }) => name),
);
const COLUMN_TYPES = {
  version: "smallint",
  word: "text",
  json: "text",
  decision: "text",
  moment: "text",
  uuid: "uuid",
  sha256: "bytea",
  number: "bigint",
} as const satisfies Readonly<Record<Member["kind"], string>>;
/**
 * How the database keeps each. `put`: the SQL of a text parameter's value; `text`: that of the column's text, to the byte the
 * one that was put.
 */
export const COLUMNS = MEMBERS.map(({ name, kind }) => {
  const type = COLUMN_TYPES[kind];
  return type === "bytea"
    ? { name, type, put: (sql: string) => `decode(${sql}, 'hex')`, text: `encode(${name}, 'hex')` }
    : { name, type, put: (sql: string) => `${sql}::${type}`, text: `${name}::text` };
});
export const MEMBER_TABLE: readonly Member[] = MEMBERS;

/** Where each member stands among the values. */
export const AT = Object.fromEntries(MEMBER_NAMES.map((name, at) => [name, at])) as Readonly<
  Record<MemberName, number>
>;

/** What no value holds: the separators of the codec, U+0000, which PostgreSQL can't keep, and half a surrogate pair, which has no UTF-8. */
// eslint-disable-next-line no-control-regex -- exactly these are looked for
const EACH_RESERVED = /[\u0000\u001e\u001f\p{Surrogate}]/gu;
// eslint-disable-next-line no-control-regex -- exactly these are looked for
const SOME_RESERVED = /[\u0000\u001e\u001f]/;

export const isReserved = (text: string): boolean => SOME_RESERVED.test(text) || !text.isWellFormed();

/**
 * The text with each reserved character spelt as JSON spells it (`\u001f`), so that JSON text stays JSON of the same value.
 * For producers, before an event is hashed or signed: what a caller put into a field must not decide whether it can be kept.
 */
export const unreserved = (text: string): string =>
  isReserved(text)
    ? text.replace(EACH_RESERVED, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
    : text;

/** An event by name → its values; what is missing or an empty text is null. */
export const valuesOf = (event: Readonly<Partial<Record<MemberName, string | number | null>>>): (string | null)[] => {
  const values: (string | null)[] = [String(FORM)];
  for (let at = 1; at < MEMBER_NAMES.length; at += 1) {
    const value = event[MEMBER_NAMES[at] as MemberName];
    values.push(value === null || value === undefined || value === "" ? null : String(value));
  }
  return values;
};

const SHA256_FORM = /^[0-9a-f]{64}$/;
const NUMBER_FORM = /^[1-9][0-9]{0,15}$/;
const MOMENT_FORM = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

/** Whether a text is of a member's form. Words and JSON are what their producer, whose signature was verified, made them. */
const FITS: Readonly<Record<Member["kind"], (text: string) => boolean>> = {
  word: () => true,
  json: () => true,
  uuid: isUuid,
  sha256: (text) => SHA256_FORM.test(text),
  decision: (text) => (DECISIONS as readonly string[]).includes(text),
  version: (text) => text === String(FORM),
  number: (text) => NUMBER_FORM.test(text) && Number.isSafeInteger(Number(text)),
  moment: (text) => MOMENT_FORM.test(text),
};

/** Which members may be left out where their value is not of their form: the others make the event. */
const SPARED: readonly number[] = MEMBERS.flatMap(({ kind, required }, at) =>
  !required && FITS[kind] !== FITS.word && FITS[kind] !== FITS.json ? [at] : [],
);

/** The places of values that their columns can't keep, of members that are not required. */
export const misfitsIn = (values: AuditValues): readonly number[] => {
  let found: number[] | undefined;
  for (const at of SPARED) {
    const value = values[at];
    if (value !== null && value !== undefined && !FITS[(MEMBERS[at] as Member).kind](value)) (found ??= []).push(at);
  }
  return found ?? NONE;
};
const NONE: readonly number[] = [];

/** Why these are no event's values; undefined where they are. */
export const faultIn = (values: AuditValues): string | undefined => {
  if (values.length !== MEMBERS.length) return `${values.length} values`;
  for (let at = 0; at < MEMBERS.length; at += 1) {
    const { name, kind, required } = MEMBERS[at] as Member;
    const value = values[at] as string | null;
    if (value === null ? required : !FITS[kind](value)) return name;
  }
  return undefined;
};

/** The event types that roles write. `_denied` is in the decision, not in the type. */
const EVENT_TYPES = [
  "token.issue",
  "token.exchange",
  "token.introspect",
  "token.revoke",
  "gateway.call",
  "gateway.outcome",
  "unauthenticated.summary",
  "stream.anomaly",
  "document",
] as const;

/**
 * What a role fills in; the writer adds the id where there is none, the producer, its number and the time. `reason`, of a
 * denial: one of our own words, by which repeated ones are summed up. It stands in `metadata_json`, too.
 */
export type AuditDraft = Partial<Omit<AuditEvent, "producer" | "producer_seq" | "occurred_at">> &
  Pick<AuditEvent, "zone_id" | "decision"> & {
    readonly event_type: (typeof EVENT_TYPES)[number];
    /** What its metadata names. Those that the ledger of the zone does not have yet are written before it. */
    readonly documents?: readonly AuditDocument[];
    readonly reason?: string;
  };

/** The zone of what concerns no zone: anomalies of the deployment, sums of unauthenticated calls. */
export const SYSTEM_ZONE = "system";

/** What a caller is told, at the STS and at the Gateway, whose zone has filled its share of the ledger. */
export const LEDGER_SHARE_TEXT =
  "The ledger is near full, and this zone has filled more than its share of it. Try again later.";

/** The audit stream is near full, and this zone has filled more than its share of it: its calls are refused before others'. */
export class LedgerShare extends Unavailable {
  constructor() {
    super("the ledger's share of this zone");
  }
}

/**
 * The way into the ledger. `append` resolves once the event is durable outside this process's memory, and rejects with
 * `Unavailable` where it can't be: the caller then refuses what it was about to allow (the event is journaled as a deny
 * under the same id and number, so that no hole appears), with `LedgerShare` where that is the zone's own doing. `record` never fails the caller: a denial or an outcome that can't be
 * written goes to the journal and follows later; it may wait for the next append, at most 50 ms. A denial with a `reason`
 * that repeats one of the last second has no event of its own: it is counted in one of the next second.
 */
export type AuditWriter = {
  append(draft: AuditDraft): Promise<string>;
  record(draft: AuditDraft): string;
  /** Everything that was recorded is written or journaled. */
  flush(): Promise<void>;
};
