import { hash } from "node:crypto";
import { isUuid, uuidv7Time_ms } from "../kernel/ids.ts";
import { jsonText } from "../kernel/json-text.ts";
import { type AuditDocument, documentOf } from "./audit-document.ts";
import type { PolicyFacts } from "./policy-input.ts";
import { type InputCall, type InputParts, inputText, partsOf } from "./policy-input-text.ts";

/**
 * The parts that are documents, in the order in which a record names them after the policy set; `null` where the input has
 * none.
 */
const DOCUMENTS = ["principal", "resource", "subject_claims", "actor_claims", "delegation_edge"] as const;

/** Which policy judged: what its version's id implies. */
export type JudgingSet = {
  readonly policy_set_id: string;
  readonly policy_set_version_id: string;
  readonly manifest_sha: string;
};

/** By the set's own object: a zone that is read again has another. */
const set_texts = new WeakMap<JudgingSet, string>();
const setText = (set: JudgingSet): string => {
  const known = set_texts.get(set);
  if (known !== undefined) return known;
  const { policy_set_id, policy_set_version_id, manifest_sha } = set;
  const text = JSON.stringify({ type: "PolicySet", policy_set_id, policy_set_version_id, manifest_sha });
  set_texts.set(set, text);
  return text;
};

/** What the event's own members say of its input, and what is then not said again. */
export type InputEvent = {
  readonly id: string | undefined;
  readonly event_type: string;
  readonly session_id: string | null;
  readonly agent_session_id: string | null;
};

/**
 * A policy's input as an event has it: its SHA-256, the documents by name, and what changes from call to call. What is left
 * out is what the event says by itself: its session, its agent session, the use that its type means, and, where the event's id
 * is a mandate's, the time in it.
 */
export type InputRecord = {
  /** Of the whole input's text, base64url. */
  readonly sha256: string;
  /** The first is the policy set. */
  readonly documents: readonly (string | null)[];
  readonly use?: "ambient" | "per_call";
  readonly method?: string;
  readonly path?: string;
  readonly session_id?: string | null;
  readonly agent_session_id?: string | null;
  readonly trace_id?: string;
  readonly challenge_resolved?: true;
  readonly scopes: readonly string[];
  readonly now_ms?: number;
};

const sha256 = (text: string): string => hash("sha256", text, "base64url");

const useOf = (event_type: string): "ambient" | "per_call" => (event_type === "token.issue" ? "ambient" : "per_call");
/** Only a UUID is sure to come back from the event. */
const saidBy = (event_value: string | null): string | null =>
  event_value !== null && isUuid(event_value) ? event_value : null;
const unless = (said: string | null, value: string | undefined): string | null | undefined =>
  (value ?? null) === said ? undefined : (value ?? null);

const member = (name: keyof InputRecord, value: string | null | undefined): string =>
  value === undefined ? "" : `,"${name}":${JSON.stringify(value)}`;

/** The facts of an input, and its text → what its event keeps of it, as JSON text, and the documents that this names. */
export const inputRecordOf = (
  event: InputEvent,
  set: JudgingSet,
  facts: PolicyFacts,
  input_json: string,
): { readonly record_json: string; readonly documents: readonly AuditDocument[] } => {
  const parts = partsOf(facts);
  const set_document = documentOf(setText(set));
  const documents = [set_document];
  let names = `"${set_document.name}"`;
  let skipped = "";
  for (const part of DOCUMENTS) {
    const text = parts[part];
    if (text === undefined) {
      skipped += ",null";
      continue;
    }
    const document = documentOf(text);
    documents.push(document);
    names += `${skipped},"${document.name}"`;
    skipped = "";
  }
  const time_is_said = event.id !== undefined && uuidv7Time_ms(event.id) === facts.now_ms;
  const record_json =
    `{"sha256":"${sha256(input_json)}","documents":[${names}]` +
    member("use", facts.use === useOf(event.event_type) ? undefined : facts.use) +
    member("method", facts.method) +
    member("path", facts.path) +
    member("session_id", unless(saidBy(event.session_id), facts.session_id)) +
    member("agent_session_id", unless(saidBy(event.agent_session_id), facts.agent_session_id)) +
    member("trace_id", facts.trace_id) +
    `${facts.challenge_resolved === true ? ',"challenge_resolved":true' : ""},"scopes":${jsonText(facts.requested_scopes)}` +
    `${time_is_said ? "" : `,"now_ms":${facts.now_ms}`}}`;
  return { record_json, documents };
};

/**
 * The text that policy saw, out of an event's record and the documents that it names. undefined where a document is missing or
 * the text is not the one whose SHA-256 the record has. `record`: parsed, of an event whose chain was verified.
 */
export const rebuiltInput = (
  event: InputEvent,
  record: InputRecord,
  documentNamed: (name: string) => string | undefined,
): string | undefined => {
  const parts: { [P in (typeof DOCUMENTS)[number]]?: string } = {};
  for (const [at, name] of record.documents.slice(1).entries()) {
    const part = DOCUMENTS[at];
    const text = name === null ? undefined : documentNamed(name);
    if (part === undefined || (name !== null && text === undefined)) return undefined;
    if (text !== undefined) parts[part] = text;
  }
  const { principal, resource, ...others } = parts;
  const now_ms = record.now_ms ?? uuidv7Time_ms(event.id ?? "");
  if (principal === undefined || resource === undefined || now_ms === undefined) return undefined;
  const said = (own: string | null | undefined, by_event: string | null): string | undefined =>
    (own === undefined ? saidBy(by_event) : own) ?? undefined;
  const call: InputCall = {
    use: record.use ?? useOf(event.event_type),
    method: record.method,
    path: record.path,
    session_id: said(record.session_id, event.session_id),
    agent_session_id: said(record.agent_session_id, event.agent_session_id),
    delegation_edge: parts.delegation_edge === undefined ? undefined : edgeIn(parts.delegation_edge),
    trace_id: record.trace_id,
    challenge_resolved: record.challenge_resolved,
    requested_scopes: record.scopes,
    now_ms,
  };
  const whole: InputParts = { principal, resource, ...others };
  const text = inputText(whole, call);
  return sha256(text) === record.sha256 ? text : undefined;
};

const edgeIn = (text: string): { readonly id: string } => JSON.parse(text) as { readonly id: string };
