import {
  combine,
  type Evaluator,
  MAX_POLICY_INPUT_BYTES,
  MAX_POLICY_PATH_BYTES,
  type MemberResult,
  type PolicyInput,
  type PolicyVerdict,
  refusal,
} from "./policy.ts";
import type { Quarantine } from "./policy-quarantine.ts";

/** A member of a set as it was loaded; no evaluator where its module could not be had. */
export type SetMember = { readonly version_id: string; readonly evaluator: Evaluator | undefined };

/** The verdict, the steps of all members together, and the input as JSON text, for the ledger. */
export type SetEvaluation = PolicyVerdict & {
  readonly units: number;
  readonly input_json: string;
  /** What went wrong inside, for the log: the version and the engine's words. */
  readonly faults: readonly { readonly version_id: string; readonly error: string }[];
};

export type SetLimits = {
  /** Steps of all members together, so that a set of many just affordable members does not hold the event loop. */
  readonly units_max: number;
};

/** What a set may spend when one member may spend `budget_units` (`POLICY_BUDGET`): at the default, some 5 ms. */
export const setLimits = (budget_units: number): SetLimits => ({ units_max: 10 * budget_units });

const encoder = new TextEncoder();

/**
 * Evaluates every member on `input` and combines the answers. Synchronous, and stops at the first member that decides for
 * all: one that is missing, quarantined or out of budget. An overrun counts against its version; one of the whole set
 * counts against the member that spent most.
 */
export const evaluateSet = (
  members: readonly SetMember[],
  input: PolicyInput,
  quarantine: Quarantine,
  limits: SetLimits,
): SetEvaluation => {
  const input_json = JSON.stringify(input);
  const nothing = { units: 0, input_json, faults: [] };
  const missing = members.filter((member) => member.evaluator === undefined);
  if (missing.length > 0) {
    const faults = missing.map(({ version_id }) => ({ version_id, error: "the module is not loaded" }));
    return { ...refusal("policy_set_incomplete"), ...nothing, faults };
  }
  if (members.some((member) => quarantine.holds(member.version_id)))
    return { ...refusal("policy_quarantined"), ...nothing };
  const bytes = encoder.encode(input_json);
  if (bytes.byteLength > MAX_POLICY_INPUT_BYTES || Buffer.byteLength(input.action.path ?? "") > MAX_POLICY_PATH_BYTES) {
    return { ...refusal("policy_input_too_large"), ...nothing };
  }

  const results: MemberResult[] = [];
  const faults: { version_id: string; error: string }[] = [];
  let units = 0;
  for (const { version_id, evaluator } of members) {
    if (evaluator === undefined) break; // seen above
    const evaluation = evaluator.evaluate(bytes.buffer);
    results.push({ ...evaluation, version_id }); // a spread that comes first is a clone; one behind a name is ten times as slow
    units += evaluation.units;
    if (evaluation.status === "failed") faults.push({ version_id, error: evaluation.error });
    if (evaluation.status === "budget_exceeded") {
      quarantine.overran(version_id);
      break;
    }
    if (units > limits.units_max) {
      const dearest = results.reduce((most, member) => (member.units > most.units ? member : most));
      quarantine.overran(dearest.version_id);
      return { ...refusal("policy_budget_exceeded"), units, input_json, faults };
    }
  }
  return { ...combine(results), units, input_json, faults };
};
