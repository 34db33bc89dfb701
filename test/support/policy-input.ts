import type { PolicyFacts, PolicyInput } from "../../src/domain/policy-input.ts";

const WEEKDAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"] as const;

/** Facts → the document that a policy sees: the plain form, with which `policyInputText` is compared. */
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
        weekday: WEEKDAYS[now.getUTCDay()] ?? "Sunday",
        hour: now.getUTCHours(),
        minute: now.getUTCMinutes(),
      },
    },
  };
};
