import { isConstant } from "../kernel/json-text.ts";

/** The only package that a policy may declare, and the rule in it that is its answer. */
export const POLICY_PACKAGE = "caracal.authz";
export const POLICY_ENTRYPOINT = "caracal/authz/result";
/** The longest Rego source of one policy, in bytes. */
export const MAX_POLICY_SOURCE_BYTES = 64 * 1024;

/**
 * What one evaluation came to. `units`: what its steps, the reading of its input and a new instance cost. `error` is for the
 * log and never leaves. Evaluations that came to the same may share one `result`, which is frozen then.
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

/** A policy's own words: JSON values, each once, bounded by `MAX_STATEMENTS` and `MAX_STATEMENT_BYTES` together. */
export type Statements = readonly unknown[];

/** What a module's result says, once it is read. */
export type Answer = {
  readonly allow: boolean;
  readonly determining_policies: Statements;
  readonly diagnostics: Statements;
};

const readList = (value: unknown): Statements | undefined =>
  value === undefined ? [] : Array.isArray(value) ? (value as unknown[]) : undefined;

/**
 * `result` of a module → its answer. It is undefined where the result is not `complete`: no result, another status, or a list
 * that is no list. Only exactly `complete` and exactly `allow` is an allow.
 */
export const readAnswer = (result: unknown): Answer | undefined => {
  if (typeof result !== "object" || result === null || Array.isArray(result)) return undefined;
  const said = result as Readonly<Record<string, unknown>>;
  const determining_policies = readList(said["determining_policies"]);
  const diagnostics = readList(said["diagnostics"]);
  if (said["evaluation_status"] !== "complete" || determining_policies === undefined || diagnostics === undefined)
    return undefined;
  return { allow: said["decision"] === "allow", determining_policies, diagnostics };
};

/** Results that were read as an answer, and are frozen, so that they stay one. */
const answers_of = new WeakSet<object>();

/** Whether a module's result is an answer, whatever it says. */
export const isAnswer = (result: unknown): boolean => {
  if (typeof result !== "object" || result === null) return false;
  if (answers_of.has(result)) return true;
  const is = readAnswer(result) !== undefined;
  if (is && isConstant(result)) answers_of.add(result);
  return is;
};
