import { constant, isConstant, jsonText } from "../kernel/json-text.ts";

/**
 * What a policy is asked and what its answer means. The members of a policy set are evaluated apart (modules of one
 * package, each with a `default result`, do not compile together) and combined here.
 */

/** The one package that a policy may declare, and the rule that is its answer. */
export const POLICY_PACKAGE = "caracal.authz";
export const POLICY_ENTRYPOINT = "caracal/authz/result";
/** The longest Rego source of one policy, in bytes. */
export const MAX_POLICY_SOURCE_BYTES = 64 * 1024;
/**
 * The longest path that a policy is asked about, and the longest input, in bytes of UTF-8. The caller chooses the path:
 * without a limit it could make any policy run out of steps, and have the version quarantined for its whole zone.
 */
export const MAX_POLICY_PATH_BYTES = 4096;
export const MAX_POLICY_INPUT_BYTES = 64 * 1024;

/** How the principal proved who it is. `ambient_token`: it presented its token at the Gateway, which asks for it. */
export type CredentialType = "client_secret" | "private_key_jwt" | "workload" | "ambient_token";
export type Weekday = "Sunday" | "Monday" | "Tuesday" | "Wednesday" | "Thursday" | "Friday" | "Saturday";

/** The edge through which authority was received. */
export type PolicyDelegationEdge = {
  readonly id: string;
  readonly source_session_id: string;
  readonly target_session_id: string;
  readonly issuer_application_id: string;
  readonly receiver_application_id: string;
  readonly resource_id: string | null;
  readonly scopes: readonly string[];
  readonly edge_version: number;
  /** The ids of the edges from the root to this one. */
  readonly path: readonly string[];
  readonly graph_epoch: number;
  readonly constraints_json: unknown;
};

/** The document that a policy sees as `input`. No token and no secret is in it: it is kept in the ledger. */
export type PolicyInput = {
  readonly principal: {
    readonly type: "Application";
    readonly id: string;
    readonly zone_id: string;
    readonly credential_type: CredentialType;
    readonly traits: readonly string[];
    readonly agent_session_id: string | null;
  };
  readonly resource: {
    readonly type: "Resource";
    readonly id: string;
    readonly identifier: string;
    /** All that the resource has; what is asked for is `context.requested_scopes`. */
    readonly scopes: readonly string[];
  };
  /** `method` and `path` as the Gateway saw them; absent where no call is behind the exchange. */
  readonly action: {
    readonly id: "TokenExchange";
    readonly use: "ambient" | "per_call";
    readonly method?: string;
    readonly path?: string;
  };
  readonly session: { readonly id: string } | null;
  readonly delegation_edge: PolicyDelegationEdge | null;
  readonly context: {
    readonly actor_claims: object | null;
    readonly subject_claims: object | null;
    readonly trace_id: string | null;
    readonly session_id: string | null;
    readonly agent_session_id: string | null;
    readonly delegation_edge_id: string | null;
    readonly challenge_resolved: boolean;
    readonly requested_scopes: readonly string[];
    /** RFC 3339 in UTC. */
    readonly now: string;
    /** UTC; `weekday` is the English name, as Rego's own `time.weekday` says it. */
    readonly time: {
      readonly unix_s: number;
      readonly weekday: Weekday;
      readonly hour: number;
      readonly minute: number;
    };
  };
};

/** The facts that an input is built from. What is absent is null in the input. */
export type PolicyFacts = {
  readonly zone_id: string;
  readonly application: { readonly id: string; readonly traits: readonly string[] };
  readonly credential_type: CredentialType;
  readonly resource: { readonly id: string; readonly identifier: string; readonly scopes: readonly string[] };
  readonly use: "ambient" | "per_call";
  readonly requested_scopes: readonly string[];
  /** Milliseconds since the epoch. */
  readonly now_ms: number;
  readonly method?: string | undefined;
  readonly path?: string | undefined;
  readonly session_id?: string | undefined;
  readonly agent_session_id?: string | undefined;
  readonly delegation_edge?: PolicyDelegationEdge | undefined;
  /** Verified claims, never the token. */
  readonly subject_claims?: object | undefined;
  readonly actor_claims?: object | undefined;
  readonly trace_id?: string | undefined;
  readonly challenge_resolved?: boolean | undefined;
};

const WEEKDAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"] as const;

/** Facts → the document that a policy sees. Pure: time is a fact. */
export const buildPolicyInput = (facts: PolicyFacts): PolicyInput => {
  const now = new Date(facts.now_ms);
  return {
    principal: {
      type: "Application",
      id: facts.application.id,
      zone_id: facts.zone_id,
      credential_type: facts.credential_type,
      traits: facts.application.traits,
      agent_session_id: facts.agent_session_id ?? null,
    },
    resource: {
      type: "Resource",
      id: facts.resource.id,
      identifier: facts.resource.identifier,
      scopes: facts.resource.scopes,
    },
    action: {
      id: "TokenExchange",
      use: facts.use,
      ...(facts.method === undefined ? {} : { method: facts.method }),
      ...(facts.path === undefined ? {} : { path: facts.path }),
    },
    session: facts.session_id === undefined ? null : { id: facts.session_id },
    delegation_edge: facts.delegation_edge ?? null,
    context: {
      actor_claims: facts.actor_claims ?? null,
      subject_claims: facts.subject_claims ?? null,
      trace_id: facts.trace_id ?? null,
      session_id: facts.session_id ?? null,
      agent_session_id: facts.agent_session_id ?? null,
      delegation_edge_id: facts.delegation_edge?.id ?? null,
      challenge_resolved: facts.challenge_resolved ?? false,
      requested_scopes: facts.requested_scopes,
      now: now.toISOString(),
      time: {
        unix_s: Math.floor(facts.now_ms / 1000),
        weekday: WEEKDAYS[now.getUTCDay()] as Weekday,
        hour: now.getUTCHours(),
        minute: now.getUTCMinutes(),
      },
    },
  };
};

/** What of an input's text belongs to an application as it proved itself. */
type PrincipalText = {
  readonly zone_id: string;
  readonly credential_type: CredentialType;
  readonly agent_session_id: string | null;
  readonly text: string;
};
/** By the application's own object, and only while it can't change: a zone that is read again has others. */
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

/** By the resource's own object, as above. */
const resources = new WeakMap<object, string>();

const resourceText = (resource: PolicyFacts["resource"]): string => {
  const known = resources.get(resource);
  if (known !== undefined) return known;
  const { id, identifier, scopes } = resource;
  const text = JSON.stringify({ type: "Resource", id, identifier, scopes });
  if (isConstant(resource)) resources.set(resource, text);
  return text;
};

/** The members of the input that tell the time; many calls are of one millisecond. */
let time_ms = Number.NaN;
let time_text = "";
const timeText = (now_ms: number): string => {
  if (now_ms === time_ms) return time_text;
  const now = new Date(now_ms);
  const weekday = WEEKDAYS[now.getUTCDay()] as Weekday;
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
 * `JSON.stringify(buildPolicyInput(facts))`, to the letter, out of parts: most of an input is the same for every call of an
 * application, of a resource or of a token, and is written once for each of them (a test holds the two together).
 */
export const policyInputText = (facts: PolicyFacts): string => inputText(partsOf(facts), facts);

/**
 * What one evaluation came to. `units`: what it spent, on its steps, on reading the input, on a new instance. `error` is for the log: it never leaves. `result` may be
 * shared by evaluations that came to the same: it is frozen then.
 */
export type Evaluation =
  | { readonly status: "result"; readonly result: unknown; readonly units: number }
  | { readonly status: "budget_exceeded"; readonly units: number }
  | { readonly status: "failed"; readonly error: string; readonly units: number };

/**
 * One loaded module. Synchronous and bounded in steps and memory: it never holds the event loop longer than its budget.
 * `input_json`: the input as JSON text, made once for all members of a set. Never throws.
 */
export type Evaluator = { evaluate(input_json: string): Evaluation };

/** What became of one member of a set. `not_loaded`: its module could not be had. */
export type MemberResult = { readonly version_id: string } & (
  | Evaluation
  | { readonly status: "not_loaded"; readonly units: 0 }
  | { readonly status: "quarantined"; readonly units: 0 }
);

/** Why policy refused; public vocabulary. `policy_denied`: by an explicit deny, or because nothing allowed it. */
export type PolicyReason =
  | "no_active_policy_set"
  | "policy_set_incomplete"
  | "policy_budget_exceeded"
  | "policy_quarantined"
  | "policy_input_too_large"
  | "policy_denied";

/** A policy's own words: JSON values, each once, bounded by `MAX_STATEMENTS` and `MAX_STATEMENT_BYTES` together. */
export type Statements = readonly unknown[];

/**
 * The verdict of a set. `evaluation_status` is the ledger's: `complete` where every member answered, else why not.
 * `determining_policies` and `diagnostics` come from those members that made the verdict.
 */
export type PolicyVerdict = {
  readonly evaluation_status: "complete" | Exclude<PolicyReason, "policy_denied">;
  readonly determining_policies: Statements;
  /** For the caller: what the policy's author says, or the reason where no author was heard. */
  readonly diagnostics: Statements;
} & ({ readonly decision: "allow" } | { readonly decision: "deny"; readonly reason: PolicyReason });

export const MAX_STATEMENTS = 64;
/** JSON text of all statements of one list. */
export const MAX_STATEMENT_BYTES = 8 * 1024;
const MAX_STATEMENT_DEPTH = 8;

/** A deny that no policy spoke: the reason is the diagnostic. */
export const refusal = (reason: Exclude<PolicyReason, "policy_denied">): PolicyVerdict => ({
  decision: "deny",
  reason,
  evaluation_status: reason,
  determining_policies: [],
  diagnostics: [reason],
});

/** A member's answer, read. */
type Answer = {
  readonly allow: boolean;
  readonly determining_policies: Statements;
  readonly diagnostics: Statements;
};

const readList = (value: unknown): Statements | undefined =>
  value === undefined ? [] : Array.isArray(value) ? (value as unknown[]) : undefined;

/**
 * `result` of a module → its answer; undefined where it is not `complete`: no result at all, another status, a list that
 * is none. Only exactly `complete` and exactly `allow` is an allow.
 */
const readAnswer = (result: unknown): Answer | undefined => {
  if (typeof result !== "object" || result === null || Array.isArray(result)) return undefined;
  const said = result as Readonly<Record<string, unknown>>;
  const determining_policies = readList(said["determining_policies"]);
  const diagnostics = readList(said["diagnostics"]);
  if (said["evaluation_status"] !== "complete" || determining_policies === undefined || diagnostics === undefined)
    return undefined;
  return { allow: said["decision"] === "allow", determining_policies, diagnostics };
};

/** By result, where it can't change any more. */
const answers_of = new WeakSet<object>();

/** Whether a module's result is an answer, whatever it says. */
export const isAnswer = (result: unknown): boolean => {
  if (typeof result !== "object" || result === null) return false;
  if (answers_of.has(result)) return true;
  const is = readAnswer(result) !== undefined;
  if (is && isConstant(result)) answers_of.add(result);
  return is;
};

const isExplicit = (answer: Answer): boolean => answer.determining_policies.length > 0 || answer.diagnostics.length > 0;

const isDeeperThan = (depth: number, value: unknown): boolean =>
  typeof value === "object" &&
  value !== null &&
  (depth === 0 || Object.values(value).some((item) => isDeeperThan(depth - 1, item)));

/** Each statement once, in order, as many as fit; where some were left out the last says so. */
const unite = (lists: readonly Statements[]): Statements => {
  if (lists.every((list) => list.length === 0)) return [];
  const seen = new Set<string>();
  const kept: unknown[] = [];
  let bytes = 0;
  for (const statement of lists.flat()) {
    if (isDeeperThan(MAX_STATEMENT_DEPTH, statement)) return [...kept, "truncated"]; // JSON.stringify would exhaust the stack
    const text = JSON.stringify(statement);
    if (seen.has(text)) continue;
    bytes += Buffer.byteLength(text) + 1;
    if (kept.length === MAX_STATEMENTS - 1 || bytes > MAX_STATEMENT_BYTES - 16) return [...kept, "truncated"];
    seen.add(text);
    kept.push(statement);
  }
  return kept;
};

const verdictOf = (answers: readonly Answer[], decision: "allow" | "deny"): PolicyVerdict => {
  const evaluation_status = "complete";
  const determining_policies = unite(answers.map((answer) => answer.determining_policies));
  const diagnostics = unite(answers.map((answer) => answer.diagnostics));
  return decision === "allow"
    ? { decision, evaluation_status, determining_policies, diagnostics }
    : { decision, reason: "policy_denied", evaluation_status, determining_policies, diagnostics };
};

/** Verdicts of sets of one member, by what that member said, where this can't change any more. */
const verdicts = new WeakMap<object, PolicyVerdict>();

/** As `combine`, read once where the only member of a set gives the very result that it gave before. */
const combineOne = (member: MemberResult): PolicyVerdict => {
  const result = member.status === "result" ? member.result : undefined;
  if (typeof result !== "object" || result === null) return combineAll([member]);
  const known = verdicts.get(result);
  if (known !== undefined) return known;
  const verdict = combineAll([member]);
  if (isConstant(result)) verdicts.set(result, constant(verdict));
  return verdict;
};

/**
 * The members' results → the set's verdict. A member that did not answer denies for all (what it would have denied is not
 * known): quarantined, then out of budget, then missing, failed or not `complete`. Else an explicit deny (one that names a
 * determining policy or a diagnostic) wins over everything, then an allow; silence is a deny.
 */
export const combine = (members: readonly MemberResult[]): PolicyVerdict => {
  const [only] = members;
  return only !== undefined && members.length === 1 ? combineOne(only) : combineAll(members);
};

const combineAll = (members: readonly MemberResult[]): PolicyVerdict => {
  if (members.some((member) => member.status === "quarantined")) return refusal("policy_quarantined");
  if (members.some((member) => member.status === "budget_exceeded")) return refusal("policy_budget_exceeded");
  const answers: Answer[] = [];
  for (const member of members) {
    const answer = member.status === "result" ? readAnswer(member.result) : undefined;
    if (answer === undefined) return refusal("policy_set_incomplete");
    answers.push(answer);
  }
  if (answers.length === 0) return refusal("policy_set_incomplete"); // a set has 1 to 256 entries: an empty one was not loaded whole
  const denials = answers.filter((answer) => !answer.allow && isExplicit(answer));
  if (denials.length > 0) return verdictOf(denials, "deny");
  const allows = answers.filter((answer) => answer.allow);
  return verdictOf(allows, allows.length > 0 ? "allow" : "deny");
};
