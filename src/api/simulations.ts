import type { ActivationWarning, policyEndpoints, Simulated, Simulation } from "../contracts/api-policies.ts";
import type { SetMember } from "../domain/policy-evaluation.ts";
import type { PolicyFacts } from "../domain/policy-input.ts";
import { policyInputText } from "../domain/policy-input-text.ts";
import { refusal } from "../domain/policy-verdict.ts";
import { uuidv7 } from "../kernel/ids.ts";
import { Problem } from "../kernel/problem.ts";
import { missing, unusable } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { recordedInputs } from "./recorded-inputs.ts";
import type { Rehearsed, Stage } from "./rehearsal.ts";
import { findActivation } from "./store/policy-sets.ts";
import { lastJudged, membersOf } from "./store/simulations.ts";
import { findThing } from "./store/things.ts";

/** One question to both sides, and the ledger's event that it comes from. */
type Question = { readonly input: object } & Pick<Simulated, "event_id" | "occurred_at" | "recorded">;

const verdictOf = ({ verdict, units }: Rehearsed): Simulated["by_active"] => ({
  decision: verdict.decision,
  evaluation_status: verdict.evaluation_status,
  determining_policies: [...verdict.determining_policies],
  diagnostics: [...verdict.diagnostics],
  units,
});

const changeOf = (now: Rehearsed, after: Rehearsed): Simulated["change"] =>
  now.verdict.decision === after.verdict.decision
    ? "none"
    : now.verdict.decision === "allow"
      ? "allow_to_deny"
      : "deny_to_allow";

/** `undefined` members: nothing is active, which denies. */
const ask = async (
  stage: Stage,
  members: readonly SetMember[] | undefined,
  input: object,
): Promise<Rehearsed | undefined> =>
  members === undefined ? { verdict: refusal("no_active_policy_set"), units: 0 } : stage.evaluate(members, input);

const HOUR_S = 3_600;
const MONDAY_NOON_MS = Date.UTC(2026, 0, 5, 12);

const inputOf = (facts: PolicyFacts): object => JSON.parse(policyInputText(facts)) as object;

/** Callers, resources and calls that nobody has heard of: a policy that allows each of them looks at nothing. */
const inventedInputs = (zone_id: string): readonly object[] =>
  [
    { use: "per_call", method: "GET", hours: 0, traits: [] },
    { use: "per_call", method: "DELETE", hours: 15, traits: [uuidv7()] },
    { use: "per_call", method: "POST", hours: 120, traits: [] },
    { use: "ambient", method: undefined, hours: 135, traits: [] },
  ].map(({ use, method, hours, traits }) =>
    inputOf({
      zone_id,
      application: { id: uuidv7(), traits },
      credential_type: "client_secret",
      resource: { id: uuidv7(), identifier: `resource://${uuidv7()}`, scopes: [`s-${uuidv7()}`] },
      use: use === "ambient" ? "ambient" : "per_call",
      requested_scopes: [`s-${uuidv7()}`],
      now_ms: MONDAY_NOON_MS + hours * HOUR_S * 1_000,
      method,
      path: method === undefined ? undefined : `/${uuidv7()}`,
    }),
  );

/**
 * What whoever activates this version should know. A zone that has spent its simulations is told that nobody looked: rolling
 * back must not wait for that.
 */
export const activationWarnings = async (
  { db, rehearsal }: Pick<Parts, "db" | "rehearsal">,
  zone_id: string,
  version_id: string,
): Promise<ActivationWarning[]> => {
  try {
    return await rehearsal.take(zone_id, undefined, async (stage) => {
      const members = await stage.load(await membersOf(db.sql, zone_id, version_id));
      for (const input of inventedInputs(zone_id)) {
        const rehearsed = await stage.evaluate(members, input);
        if (rehearsed?.verdict.decision !== "allow") return [];
      }
      const message =
        "This version allows calls of applications, resources and scopes that do not exist: it looks at none.";
      return [{ code: "allows_everything", message }];
    });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    const message = `Whether this version allows everything was not looked at: ${error.description}`;
    return [{ code: "not_evaluated", message }];
  }
};

type SimulationOperation = Extract<keyof typeof policyEndpoints, "simulatePolicySet">;

export const simulationVerbs = ({ db, rehearsal }: Parts): Pick<ControlPlane, SimulationOperation> => ({
  simulatePolicySet: async ({ params: { zone_id, id }, body: { version_id, input, last = 0 }, signal }) => {
    if ((await findThing(db.sql, "policy_set", zone_id, id)) === undefined) throw missing("policy set");
    return rehearsal.take(zone_id, signal, async (stage): Promise<Simulation> => {
      const stored = await membersOf(db.sql, zone_id, version_id, id);
      if (stored.length === 0) throw unusable("version_id", "names no version of this policy set");
      const active = (await findActivation(db.sql, zone_id))?.version_id;
      const then_members = await stage.load(stored);
      const now_members =
        active === undefined
          ? undefined
          : active === version_id
            ? then_members
            : await stage.load(await membersOf(db.sql, zone_id, active));
      const events = input === undefined ? await lastJudged(db.sql, zone_id, last) : [];
      const asked = await recordedInputs(db.sql, zone_id, events);
      const questions: readonly Question[] =
        input === undefined
          ? asked.flatMap(({ event: { id: event_id, occurred_at }, inputs }) =>
              inputs.map(({ input: one, decision }) => ({ input: one, event_id, occurred_at, recorded: decision })),
            )
          : [{ input }];
      const results: Simulated[] = [];
      let examined = 0;
      for (const { input: one, ...from } of questions) {
        const now = await ask(stage, now_members, one);
        const after = await ask(stage, then_members, one);
        if (now === undefined || after === undefined) break;
        examined += 1;
        const changed = changeOf(now, after);
        if (changed !== "none" || input !== undefined)
          results.push({ ...from, change: changed, by_active: verdictOf(now), by_version: verdictOf(after) });
      }
      const count = (kind: Simulated["change"]): number => results.filter(({ change }) => change === kind).length;
      return {
        examined,
        without_input: asked.filter(({ inputs }) => inputs.length === 0).length,
        complete: examined === questions.length,
        allow_to_deny: count("allow_to_deny"),
        deny_to_allow: count("deny_to_allow"),
        results,
      };
    });
  },
});
