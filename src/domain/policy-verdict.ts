import { constant, isConstant } from "../kernel/json-text.ts";
import { type Answer, type Evaluation, readAnswer, type Statements } from "./policy-module.ts";
import { type StepUpKind, stepUpAskedBy } from "./step-up.ts";

/**
 * The members of a policy set are evaluated apart, because modules of one package, each with a `default result`, do not
 * compile together. Their results are combined here.
 */

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

/**
 * The verdict of a set. `evaluation_status` is the ledger's: `complete` where every member answered, else why not.
 * `determining_policies` and `diagnostics` come from those members that made the verdict.
 */
export type PolicyVerdict = {
  readonly evaluation_status: "complete" | Exclude<PolicyReason, "policy_denied">;
  readonly determining_policies: Statements;
  /** For the caller: what the policy's author says, or the reason where no author was heard. */
  readonly diagnostics: Statements;
} & (
  | { readonly decision: "allow" }
  /** `step_up`: what would lift the deny; absent where nothing would. */
  | { readonly decision: "deny"; readonly reason: PolicyReason; readonly step_up?: StepUpKind }
);

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
  const said = { evaluation_status, determining_policies, diagnostics } as const;
  if (decision === "allow") return { decision, ...said };
  const step_up = stepUpAskedBy(answers.map((answer) => answer.diagnostics));
  return { decision, reason: "policy_denied", ...said, ...(step_up === undefined ? {} : { step_up }) };
};

/** Verdicts of sets of one member, by that member's frozen result. */
const verdicts = new WeakMap<object, PolicyVerdict>();

/** As `combineAll`; the verdict is made once for each frozen result. */
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
 * The members' results → the set's verdict, by the first rule that holds. A member that did not answer denies for all,
 * because what it would have denied is not known.
 * 1. A member is quarantined, or is out of budget, or has no answer that is `complete`: deny, with that reason in this order.
 * 2. A member denies explicitly (it names a determining policy or a diagnostic): deny.
 * 3. A member allows: allow.
 * 4. Nobody said anything: deny.
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
  if (answers.length === 0) return refusal("policy_set_incomplete"); // a set has 1 to 256 entries, so this one was not loaded whole
  const denials = answers.filter((answer) => !answer.allow && isExplicit(answer));
  if (denials.length > 0) return verdictOf(denials, "deny");
  const allows = answers.filter((answer) => answer.allow);
  return verdictOf(allows, allows.length > 0 ? "allow" : "deny");
};
