import { setImmediate } from "node:timers/promises";
import { type PolicyReason, type PolicyVerdict, refusal } from "../../domain/policy-verdict.ts";
import type { PolicyAccount, PolicyAccounts } from "../../domain/policy-account.ts";
import { evaluateSet, type RequestBudget, requestBudget } from "../../domain/policy-evaluation.ts";
import { intersect } from "../../domain/scopes.ts";
import { check, type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { Log } from "../../kernel/log.ts";
import type { Facts, Judged, Start } from "../facts.ts";
import type { Resource, ZonePolicy, ZoneSnapshot } from "../known/snapshot.ts";

export type PolicyPorts = {
  readonly accounts: PolicyAccounts;
  /** `POLICY_BUDGET`. */
  readonly budget_units: number;
  readonly log: Log;
  /** Units of one evaluation of a set. */
  readonly onEvaluation: (units: number) => void;
};

type Asks = Start &
  Pick<Facts, "application" | "credential_type" | "agent_session" | "delegation"> & { readonly zone: ZoneSnapshot };
type Question = {
  readonly use: "ambient" | "per_call";
  readonly resource: Resource;
  readonly scopes: readonly string[];
  readonly session_id?: string;
  readonly subject_claims?: object;
  readonly challenge_resolved?: boolean;
  readonly actor_claims?: object | undefined;
};

/** Why the set as a whole answers nothing; undefined where it can be asked. */
const refusalOf = (policy: ZonePolicy): PolicyVerdict | undefined => {
  if (policy.state === "none") return refusal("no_active_policy_set");
  return policy.members.every((member) => member.evaluator !== undefined)
    ? undefined
    : refusal("policy_set_incomplete");
};

type Answered = Pick<Facts, "set_refusal" | "judged">;
type Exhausted = Denial<"policy_units_exhausted">;

/** Refuses a zone that has spent its units of this second, and no other one. */
const exhausted = (account: PolicyAccount): Exhausted | undefined => {
  const wait_ms = account.wait_ms();
  if (wait_ms === 0) return undefined;
  return deny("policy_units_exhausted", undefined, { retry_after_s: Math.ceil(wait_ms / 1_000) });
};

const judge = (
  ports: PolicyPorts,
  f: Asks,
  account: PolicyAccount,
  budget: RequestBudget,
  question: Question,
): Judged => {
  const members = f.zone.policy.state === "active" ? f.zone.policy.members : [];
  const facts = {
    zone_id: f.zone.zone_id,
    application: f.application,
    credential_type: f.credential_type,
    resource: question.resource,
    use: question.use,
    requested_scopes: question.scopes,
    now_ms: f.now_ms,
    method: f.request.method,
    path: f.request.path,
    session_id: question.session_id,
    agent_session_id: f.agent_session?.id,
    delegation_edge: f.delegation?.seen,
    subject_claims: question.subject_claims,
    actor_claims: question.actor_claims,
    trace_id: f.trace_id,
    challenge_resolved: question.challenge_resolved,
  };
  const evaluation = evaluateSet(members, facts, account, budget);
  account.spend(evaluation.units);
  ports.onEvaluation(evaluation.units);
  for (const fault of evaluation.faults)
    ports.log.warn({ zone_id: f.zone.zone_id, ...fault }, "a policy could not be evaluated");
  return { resource: question.resource, scopes: question.scopes, asked: facts, evaluation };
};

/** The zone's policy on the one resource of an exchange: one evaluation. */
export const exchangePolicy = (ports: PolicyPorts) =>
  load("policy", (f: Asks & Pick<Facts, "resource" | "scopes" | "subject" | "session" | "approval" | "actor">) => {
    const set_refusal = refusalOf(f.zone.policy);
    if (set_refusal !== undefined) return { set_refusal, judged: [] };
    const account = ports.accounts.of(f.zone.zone_id);
    const refused = exhausted(account);
    if (refused !== undefined) return refused;
    const question = {
      use: "per_call",
      resource: f.resource,
      scopes: f.scopes,
      session_id: f.session.id,
      subject_claims: f.subject,
      challenge_resolved: f.approval !== undefined,
      actor_claims: f.actor,
    } as const;
    return { set_refusal, judged: [judge(ports, f, account, requestBudget(ports.budget_units), question)] };
  });

/**
 * The zone's policy on each resource that an ambient token names. One that names none is not judged (there is no resource
 * to ask about, and each exchange of it will be), but needs a set that could judge. Others get their turn between two
 * resources. A request that has spent its budget is refused whole: what is granted must not hang on what happened to be warm.
 */
export const issuePolicy = (ports: PolicyPorts) =>
  load("policy", async (f: Asks & Pick<Facts, "resources" | "scopes">): Promise<Answered | Exhausted> => {
    const set_refusal = refusalOf(f.zone.policy);
    if (set_refusal !== undefined || f.resources.length === 0) return { set_refusal, judged: [] };
    const account = ports.accounts.of(f.zone.zone_id);
    const budget = requestBudget(ports.budget_units);
    const judged: Judged[] = [];
    for (const one of f.resources) {
      if (judged.length > 0) await setImmediate();
      const refused = exhausted(account);
      if (refused !== undefined) return refused;
      const scopes = intersect(f.scopes, one.scopes);
      judged.push(judge(ports, f, account, budget, { use: "ambient", resource: one, scopes }));
      if (budget.units_left < 0) return { set_refusal: refusal("policy_budget_exceeded"), judged };
    }
    return { set_refusal, judged };
  });

const MAX_DIAGNOSTICS = 64;

const denialOf = (verdicts: readonly PolicyVerdict[]): Denial<PolicyReason> => {
  const reasons = new Set(verdicts.flatMap((verdict) => (verdict.decision === "deny" ? [verdict.reason] : [])));
  const [only, ...others] = reasons;
  const texts = new Map(verdicts.flatMap((verdict) => verdict.diagnostics).map((one) => [JSON.stringify(one), one]));
  return deny(only !== undefined && others.length === 0 ? only : "policy_denied", undefined, {
    diagnostics: [...texts.values()].slice(0, MAX_DIAGNOSTICS),
  });
};

/**
 * Only an allow is an allow. A deny that a step-up would lift is told apart; on a call that has an approval already it is a deny like
 * any other, since a second one would change nothing.
 */
export const policyAllows = check("policy_allows", (f: Pick<Facts, "judged" | "set_refusal" | "approval">) => {
  if (f.set_refusal !== undefined) return denialOf([f.set_refusal]);
  const allowed = f.judged.length === 1 && f.judged.every((one) => one.evaluation.verdict.decision === "allow");
  if (allowed) return undefined;
  const verdicts = f.judged.map((one) => one.evaluation.verdict);
  const asks = verdicts.length === 1 && verdicts.every((one) => one.decision === "deny" && one.step_up !== undefined);
  return asks && f.approval === undefined ? deny("step_up_required") : denialOf(verdicts);
});

/** An ambient token is issued for the allowed part of what it names; where nothing of it is allowed, not at all. */
export const policyAllowsSome = load("policy_allows", (f: Pick<Facts, "judged" | "set_refusal" | "resources">) => {
  if (f.set_refusal !== undefined) return denialOf([f.set_refusal]);
  const granted = f.judged.filter((one) => one.evaluation.verdict.decision === "allow");
  if (f.resources.length > 0 && granted.length === 0) return denialOf(f.judged.map((one) => one.evaluation.verdict));
  return { granted };
});
