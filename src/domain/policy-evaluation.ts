import { MAX_POLICY_INPUT_BYTES, MAX_POLICY_PATH_BYTES, type PolicyFacts } from "./policy-input.ts";
import { policyInputText } from "./policy-input-text.ts";
import { type Evaluation, type Evaluator, isAnswer } from "./policy-module.ts";
import { combine, type MemberResult, type PolicyVerdict, refusal } from "./policy-verdict.ts";
import type { Quarantine } from "./policy-quarantine.ts";

/** A member of a set as it was loaded; no evaluator where its module could not be had. */
export type SetMember = { readonly version_id: string; readonly evaluator: Evaluator | undefined };

/** The verdict, the units of all members together, and the input as JSON text, for the ledger. */
export type SetEvaluation = {
  /** May be shared by evaluations that came to the same. */
  readonly verdict: PolicyVerdict;
  readonly units: number;
  readonly input_json: string;
  /** What went wrong inside, for the log: the version and the engine's words. */
  readonly faults: readonly { readonly version_id: string; readonly error: string }[];
};

/**
 * What one request may still spend on all members and resources, on reading the input for each, and on new instances. A member
 * that has begun may take it below zero. Nothing begins after that.
 */
export type RequestBudget = { units_left: number };

/** A request's budget, where one member may spend `budget_units` (`POLICY_BUDGET`): at the default, some 4 ms. */
export const requestBudget = (budget_units: number): RequestBudget => ({ units_left: 10 * budget_units });

/** UTF-8 takes at most 3 bytes for a UTF-16 unit. A text that is short enough by that is not measured. */
const BYTES_PER_CHAR = 3;
const isLonger = (text: string, bytes: number): boolean =>
  text.length * BYTES_PER_CHAR > bytes && Buffer.byteLength(text) > bytes;

type Faults = SetEvaluation["faults"];

/** What a set is asked. `principal`: the application's id, to which a failure counts. `path`: of the call. */
export type Question = {
  readonly input_json: string;
  readonly principal: string;
  readonly path: string | undefined;
};

/** Evaluates the members on the input of these facts: see `evaluateInput`. */
export const evaluateSet = (
  members: readonly SetMember[],
  facts: PolicyFacts,
  quarantine: Quarantine,
  budget: RequestBudget,
): SetEvaluation =>
  evaluateInput(
    members,
    { input_json: policyInputText(facts), principal: facts.application.id, path: facts.path },
    quarantine,
    budget,
  );

/**
 * Evaluates every member on the input and combines the answers. Synchronous, and stops at the first member
 * that decides for all: one that is missing, quarantined or out of budget. Each failure counts against its version, by the
 * principal that met it. A request whose budget is spent counts against none: no member need be at fault, and what the zone
 * spends a second is bounded by itself.
 */
export const evaluateInput = (
  members: readonly SetMember[],
  { input_json, principal, path }: Question,
  quarantine: Quarantine,
  budget: RequestBudget,
): SetEvaluation => {
  const refused = (reason: Parameters<typeof refusal>[0], units = 0, faults: Faults = []): SetEvaluation => ({
    verdict: refusal(reason),
    units,
    input_json,
    faults,
  });
  if (members.some((member) => member.evaluator === undefined)) {
    const missing = members.filter((member) => member.evaluator === undefined);
    return refused(
      "policy_set_incomplete",
      0,
      missing.map(({ version_id }) => ({ version_id, error: "the module is not loaded" })),
    );
  }
  if (members.some((member) => quarantine.holds(member.version_id, principal))) return refused("policy_quarantined");
  if (isLonger(input_json, MAX_POLICY_INPUT_BYTES) || isLonger(path ?? "", MAX_POLICY_PATH_BYTES)) {
    return refused("policy_input_too_large");
  }

  const results: MemberResult[] = [];
  const faults: { version_id: string; error: string }[] = [];
  let units = 0;
  for (const { version_id, evaluator } of members) {
    if (evaluator === undefined) break; // seen above
    const evaluation = evaluator.evaluate(input_json);
    results.push(memberResult(evaluation, version_id));
    units += evaluation.units;
    budget.units_left -= evaluation.units;
    const fault = faultOf(evaluation);
    if (fault !== undefined) {
      quarantine.failed(version_id, principal);
      faults.push({ version_id, error: fault });
    }
    if (evaluation.status === "budget_exceeded") break;
    if (budget.units_left < 0) return refused("policy_budget_exceeded", units, faults);
  }
  return { verdict: combine(results), units, input_json, faults };
};

/** Why an evaluation is no answer, for the log; undefined where it is one. */
const faultOf = (evaluation: Evaluation): string | undefined => {
  if (evaluation.status === "failed") return evaluation.error;
  if (evaluation.status === "budget_exceeded") return "out of steps or memory";
  return isAnswer(evaluation.result) ? undefined : "the result is not complete";
};

const memberResult = (evaluation: Evaluation, version_id: string): MemberResult =>
  evaluation.status === "result"
    ? { status: "result", result: evaluation.result, units: evaluation.units, version_id }
    : { ...evaluation, version_id };
