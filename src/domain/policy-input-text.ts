import { isConstant, jsonText } from "../kernel/json-text.ts";
import type { CredentialType, PolicyFacts, Weekday } from "./policy-input.ts";

const WEEKDAYS: readonly Weekday[] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** The principal's part of the text, and the facts that it was written from. */
type PrincipalText = {
  readonly zone_id: string;
  readonly credential_type: CredentialType;
  readonly agent_session_id: string | null;
  readonly text: string;
};
/** One text per application that is frozen. A zone that is read again has other objects, and so other texts. */
const principals = new WeakMap<object, PrincipalText>();

const principalText = (facts: PolicyFacts): string => {
  const { application, zone_id, credential_type } = facts;
  const agent_session_id = facts.agent_session_id ?? null;
  const known = principals.get(application);
  if (
    known !== undefined &&
    known.zone_id === zone_id &&
    known.credential_type === credential_type &&
    known.agent_session_id === agent_session_id
  ) {
    return known.text;
  }
  const { id, traits } = application;
  const text = JSON.stringify({ type: "Application", id, zone_id, credential_type, traits, agent_session_id });
  if (isConstant(application)) principals.set(application, { zone_id, credential_type, agent_session_id, text });
  return text;
};

/** One text per resource that is frozen, as above. */
const resources = new WeakMap<object, string>();

const resourceText = (resource: PolicyFacts["resource"]): string => {
  const known = resources.get(resource);
  if (known !== undefined) return known;
  const { id, identifier, scopes } = resource;
  const text = JSON.stringify({ type: "Resource", id, identifier, scopes });
  if (isConstant(resource)) resources.set(resource, text);
  return text;
};

/** The time's part of the text, kept for the millisecond that it was written for: many calls share one. */
let time_ms = Number.NaN;
let time_text = "";
const timeText = (now_ms: number): string => {
  if (now_ms === time_ms) return time_text;
  const now = new Date(now_ms);
  const weekday = WEEKDAYS[now.getUTCDay()];
  const unix_s = Math.floor(now_ms / 1000);
  time_text = `"now":"${now.toISOString()}","time":{"unix_s":${unix_s},"weekday":"${weekday}","hour":${now.getUTCHours()},"minute":${now.getUTCMinutes()}}`;
  time_ms = now_ms;
  return time_text;
};

const textOrNull = (text: string | undefined): string => (text === undefined ? "null" : JSON.stringify(text));
const textOf = (value: object | undefined): string | undefined => (value === undefined ? undefined : jsonText(value));

/** The parts of an input that are the same for many calls, each as JSON text; absent where the input has null. */
export type InputParts = {
  readonly principal: string;
  readonly resource: string;
  readonly subject_claims?: string | undefined;
  readonly actor_claims?: string | undefined;
  readonly delegation_edge?: string | undefined;
};

/** What of an input's facts is a call's own. */
export type InputCall = Pick<
  PolicyFacts,
  | "use"
  | "requested_scopes"
  | "now_ms"
  | "method"
  | "path"
  | "session_id"
  | "agent_session_id"
  | "trace_id"
  | "challenge_resolved"
> & { readonly delegation_edge?: { readonly id: string } | undefined };

/** Each text is written once for an application, a resource, a token, as long as that can't change. */
export const partsOf = (facts: PolicyFacts): InputParts => ({
  principal: principalText(facts),
  resource: resourceText(facts.resource),
  subject_claims: textOf(facts.subject_claims),
  actor_claims: textOf(facts.actor_claims),
  delegation_edge: textOf(facts.delegation_edge),
});

/** The input's text out of its parts. The ledger keeps them apart, and comes to the same text again. */
export const inputText = (parts: InputParts, call: InputCall): string => {
  const { method, path } = call;
  const session_id = textOrNull(call.session_id);
  const seen = `${method === undefined ? "" : `,"method":${JSON.stringify(method)}`}${path === undefined ? "" : `,"path":${JSON.stringify(path)}`}`;
  return (
    `{"principal":${parts.principal},"resource":${parts.resource},` +
    `"action":{"id":"TokenExchange","use":"${call.use}"${seen}},` +
    `"session":${call.session_id === undefined ? "null" : `{"id":${session_id}}`},` +
    `"delegation_edge":${parts.delegation_edge ?? "null"},` +
    `"context":{"actor_claims":${parts.actor_claims ?? "null"},"subject_claims":${parts.subject_claims ?? "null"},` +
    `"trace_id":${textOrNull(call.trace_id)},"session_id":${session_id},` +
    `"agent_session_id":${textOrNull(call.agent_session_id)},"delegation_edge_id":${textOrNull(call.delegation_edge?.id)},` +
    `"challenge_resolved":${call.challenge_resolved ?? false},"requested_scopes":${jsonText(call.requested_scopes)},` +
    `${timeText(call.now_ms)}}}`
  );
};

/**
 * Facts → the document that a policy sees (`PolicyInput`), as JSON text. Pure: time is a fact. What is absent is null.
 * Most of it is the same for every call of an application, a resource or a token, so those parts are written once for each.
 * A test compares the text, byte by byte, with `JSON.stringify` of the document.
 */
export const policyInputText = (facts: PolicyFacts): string => inputText(partsOf(facts), facts);
