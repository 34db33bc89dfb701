import { LEDGER_SHARE_TEXT } from "../domain/audit-event.ts";
import type { ReasonOf } from "../kernel/pipeline.ts";
import type { exchange } from "./exchange.ts";
import type { introspect } from "./introspect.ts";
import type { issue } from "./issue.ts";
import type { revoke } from "./revoke.ts";

export type TokenReason =
  | ReasonOf<ReturnType<typeof exchange>>
  | ReasonOf<ReturnType<typeof issue>>
  | ReasonOf<ReturnType<typeof introspect>>
  | ReasonOf<ReturnType<typeof revoke>>;

/** An answer in the shape of RFC 6749, 5.2. `description` may be replaced by a denial's own. */
export type OAuthProblem = { readonly status: number; readonly error: string; readonly description: string };

const problem = (status: number, error: string, description: string): OAuthProblem => ({ status, error, description });

const AWAY = "A part that this request needs is unavailable. Try again.";
const TOKEN = "The subject_token is not an ambient token of this zone that is valid now.";
const SESSION = "The session of the subject_token is over. Get a new ambient token.";
const NOT_EVALUATED = "The zone's policy could not be evaluated; nothing is issued until it can.";

/** Each reason for which a pipeline refuses → its answer. A reason without one does not compile. */
export const problems = {
  zone_unavailable: problem(503, "temporarily_unavailable", AWAY),
  client_unauthenticated: problem(401, "invalid_client", "Client authentication failed."),
  client_throttled: problem(429, "temporarily_unavailable", "Too many failed authentications. Try again later."),
  client_check_busy: problem(503, "temporarily_unavailable", "Too many secrets are being checked. Try again."),
  client_keys_unavailable: problem(
    503,
    "temporarily_unavailable",
    "The keys by which this client authenticates can't be had from where it registered them. Try again.",
  ),
  client_assertion_replayed: problem(
    401,
    "invalid_client",
    "This client_assertion was used before, or can't be told from one that was. Make a new one for each request.",
  ),
  application_unknown: problem(
    403,
    "access_denied",
    "The application that the subject_token was issued to does not exist any more.",
  ),
  gateway_call_replayed: problem(
    401,
    "invalid_client",
    "This signed call was made before, or can't be told from one that was.",
  ),
  rate_limited: problem(
    429,
    "temporarily_unavailable",
    "This application has used up its calls for now. Try again later.",
  ),
  rate_limit_unavailable: problem(503, "temporarily_unavailable", AWAY),
  field_not_supported: problem(400, "invalid_request", "A field is not supported by this server."),
  field_not_allowed: problem(400, "invalid_request", "A field may not be sent here."),
  call_missing: problem(
    400,
    "invalid_request",
    "call_method and call_path are missing: name the call that the mandate is for. Only an application with unbound_mandates may leave them out.",
  ),
  call_incomplete: problem(400, "invalid_request", "call_method and call_path are sent together; one is missing."),
  call_malformed: problem(400, "invalid_request", "call_method or call_path is malformed."),
  resource_count_exchange: problem(400, "invalid_target", "Send exactly one resource: a mandate is for one."),
  resource_count_issue: problem(400, "invalid_target", "Send 16 resources at most."),
  ttl_seconds_invalid: problem(400, "invalid_request", "ttl_seconds is out of range."),
  subject_token_missing: problem(400, "invalid_request", "subject_token is missing."),
  subject_token_type_missing: problem(400, "invalid_request", "subject_token_type is missing."),
  subject_token_malformed: problem(400, "invalid_request", "The subject_token is not a token of this server."),
  subject_token_signature: problem(400, "invalid_request", TOKEN),
  subject_token_claims: problem(400, "invalid_request", TOKEN),
  subject_token_issuer: problem(400, "invalid_request", TOKEN),
  subject_token_zone: problem(400, "invalid_request", TOKEN),
  subject_token_not_yet_valid: problem(400, "invalid_request", TOKEN),
  subject_token_expired: problem(400, "invalid_request", "The subject_token has expired. Get a new ambient token."),
  subject_token_not_ambient: problem(
    400,
    "invalid_request",
    "The subject_token is a mandate; only ambient tokens are exchanged.",
  ),
  subject_token_bound: problem(
    400,
    "invalid_request",
    "The subject_token carries a grant, which this server does not support.",
  ),
  subject_token_client: problem(403, "access_denied", "The subject_token was issued to another application."),
  token_missing: problem(400, "invalid_request", "token is missing: send the token that is meant."),
  token_not_visible: problem(403, "access_denied", "The token is neither this application's nor for a resource of it."),
  token_of_another: problem(403, "access_denied", "The token was issued to another application."),
  session_not_revoked: problem(503, "temporarily_unavailable", AWAY),
  session_unknown: problem(403, "access_denied", SESSION),
  session_unavailable: problem(503, "temporarily_unavailable", AWAY),
  session_revoked: problem(403, "access_denied", SESSION),
  session_expired: problem(403, "access_denied", SESSION),
  session_mismatch: problem(403, "access_denied", "The subject_token does not belong to its session."),
  session_id_mismatch: problem(403, "access_denied", "session_id is not the session of the subject_token."),
  actor_token_type_missing: problem(400, "invalid_request", "actor_token_type is missing."),
  actor_token_invalid: problem(
    400,
    "invalid_request",
    "The actor_token is not an ambient token of this zone that is valid now.",
  ),
  actor_token_bound: problem(
    400,
    "invalid_request",
    "The actor_token carries an actor or a grant of its own: send the token of who acts itself.",
  ),
  actor_token_client: problem(403, "access_denied", "The actor_token was issued to another application."),
  actor_is_subject: problem(
    400,
    "invalid_request",
    "The actor_token is of the same principal as the subject_token: nobody acts for itself.",
  ),
  actor_session_over: problem(403, "access_denied", "The session of the actor_token is over. Get a new ambient token."),
  actor_authority_differs: problem(
    403,
    "access_denied",
    "The actor_token carries another agent session or delegation than this request: they must be the same.",
  ),
  agent_session_changed: problem(
    403,
    "access_denied",
    "agent_session_id is not the agent session of the subject_token, which can be neither left nor changed.",
  ),
  delegation_edge_changed: problem(
    403,
    "access_denied",
    "delegation_edge_id is not the delegation of the subject_token, which can be neither left nor changed.",
  ),
  agent_session_unknown: problem(403, "access_denied", "There is no such agent session in this zone."),
  agent_session_unavailable: problem(503, "temporarily_unavailable", AWAY),
  agent_session_client: problem(403, "access_denied", "The agent session belongs to another application."),
  agent_session_session: problem(
    403,
    "access_denied",
    "The agent session was spawned under another session; only tokens of that one may name it.",
  ),
  agent_session_revoked: problem(403, "access_denied", "The agent session is suspended or terminated."),
  agent_session_expired: problem(403, "access_denied", "The agent session has expired."),
  delegation_edge_unknown: problem(403, "access_denied", "There is no such delegation in this zone."),
  delegation_unavailable: problem(503, "temporarily_unavailable", AWAY),
  delegation_graph_behind: problem(503, "temporarily_unavailable", AWAY),
  delegation_source_gone: problem(
    403,
    "access_denied",
    "An application that the delegation came through does not exist any more.",
  ),
  delegation_not_target: problem(
    403,
    "access_denied",
    "The delegation was not given to this agent session. Name the one that received it in agent_session_id.",
  ),
  delegation_broken: problem(403, "access_denied", "The delegation does not lead back to its root."),
  delegation_too_deep: problem(403, "access_denied", "The delegation was passed on more often than it may be."),
  delegation_revoked: problem(403, "access_denied", "The delegation, or one that it came through, was revoked."),
  delegation_source_ended: problem(
    403,
    "access_denied",
    "An agent session that the delegation came through does not run any more.",
  ),
  delegation_expired: problem(403, "access_denied", "The delegation, or one that it came through, has expired."),
  delegation_widened: problem(403, "access_denied", "The delegation gives more than the one that it came through."),
  delegation_budget_busy: problem(
    429,
    "temporarily_unavailable",
    "Too many exchanges of this zone wait to be counted against budgets. Try again later.",
  ),
  delegation_budget_spent: problem(403, "access_denied", "A budget of the delegation is used up."),
  resource_unknown: problem(400, "invalid_target", "There is no such resource in this zone."),
  resource_not_in_target: problem(400, "invalid_target", "The subject_token is limited to other resources."),
  provider_not_served: problem(
    400,
    "invalid_target",
    "This resource takes a provider's credential, which this version does not get. Take the provider off the resource.",
  ),
  resource_not_delegated: problem(400, "invalid_target", "The delegation is for another resource."),
  scope_malformed: problem(
    400,
    "invalid_scope",
    "scope must be a space-separated list of at most 256 scope tokens (RFC 6749, 3.3).",
  ),
  scope_not_allowed: problem(
    400,
    "invalid_scope",
    "scope asks for more than resource, application (or delegation) and subject_token have in common.",
  ),
  scope_nothing_left: problem(
    400,
    "invalid_scope",
    "Resource, application and subject_token have no scope in common. Give the application a scope of the resource.",
  ),
  no_active_policy_set: problem(
    403,
    "access_denied",
    "The zone has no active policy set; nothing is issued until one is activated.",
  ),
  policy_denied: problem(403, "access_denied", "The zone's policy does not allow this."),
  step_up_required: problem(
    401,
    "interaction_required",
    "The zone's policy wants somebody to vouch for this call first: see challenge_type. Wait at /step-up/{challenge_id}, then ask again with challenge_id and challenge_response.",
  ),
  challenge_incomplete: problem(
    400,
    "invalid_request",
    "challenge_id and challenge_response are sent together; one is missing.",
  ),
  challenge_throttled: problem(
    429,
    "temporarily_unavailable",
    "Too many wrong answers to challenges. Try again later.",
  ),
  challenge_response_wrong: problem(
    401,
    "interaction_required",
    "There is no such challenge, or another secret opens it.",
  ),
  challenge_pending: problem(401, "interaction_required", "Nobody has decided on this challenge yet."),
  challenge_rejected: problem(401, "interaction_required", "An approver refused this call."),
  challenge_consumed: problem(
    401,
    "interaction_required",
    "This approval was used; each releases one mandate. Ask for another without challenge_id.",
  ),
  challenge_dead: problem(
    401,
    "interaction_required",
    "This challenge has ended: its time is over, or too many answers were wrong. Ask for another without challenge_id.",
  ),
  challenge_for_another_call: problem(
    401,
    "interaction_required",
    "This challenge is for another call: session, resource, scopes, method, path or the active policy differ from what was approved. For this one ask without challenge_id.",
  ),
  challenges_of_principal: problem(
    429,
    "temporarily_unavailable",
    "Too many challenges of this principal wait for a decision. Try again later.",
  ),
  challenges_of_zone: problem(
    429,
    "temporarily_unavailable",
    "Too many challenges of this zone wait for a decision. Try again later.",
  ),
  challenge_busy: problem(429, "temporarily_unavailable", "This zone asks for too many challenges. Try again later."),
  challenge_unavailable: problem(503, "temporarily_unavailable", AWAY),
  policy_set_incomplete: problem(403, "policy_eval_failed", NOT_EVALUATED),
  policy_budget_exceeded: problem(403, "policy_eval_failed", NOT_EVALUATED),
  policy_quarantined: problem(403, "policy_eval_failed", NOT_EVALUATED),
  policy_units_exhausted: problem(
    429,
    "temporarily_unavailable",
    "This zone's policies have used up what they may spend a second (POLICY_UNITS_PER_SECOND). Try again later.",
  ),
  policy_input_too_large: problem(
    400,
    "invalid_request",
    "The request is too large to be judged by policy: its path or the resource's scopes are too long.",
  ),
  token_too_long: problem(400, "invalid_request", "The token would be too long. Ask for fewer scopes or resources."),
  signing_key_missing: problem(503, "temporarily_unavailable", "The zone has no key to sign with."),
  signing_key_unavailable: problem(503, "temporarily_unavailable", AWAY),
  application_archived: problem(401, "invalid_client", "Client authentication failed."),
  session_not_written: problem(503, "temporarily_unavailable", AWAY),
  audit_unavailable: problem(503, "temporarily_unavailable", AWAY),
  ledger_share: problem(503, "temporarily_unavailable", LEDGER_SHARE_TEXT),
} as const satisfies Record<TokenReason, OAuthProblem>;

/** Refusals to nobody in particular: they are counted and summed up, and don't go into a zone's ledger. */
export const UNAUTHENTICATED: ReadonlySet<string> = new Set<TokenReason>([
  "zone_unavailable",
  "client_unauthenticated",
  "client_throttled",
  "client_check_busy",
  "client_keys_unavailable",
  "client_assertion_replayed",
  "gateway_call_replayed",
]);
