import { LEDGER_SHARE_TEXT } from "../domain/audit-event.ts";
import type { CounterName } from "./counters.ts";
import type { DenyReason } from "./decide.ts";

/** What a refused caller is told, and what is counted beside `requests_denied`. */
export type GatewayProblem = {
  readonly status: number;
  readonly error: string;
  readonly message: string;
  readonly counters: readonly CounterName[];
};

const problem = (
  status: number,
  error: string,
  message: string,
  ...counters: readonly CounterName[]
): GatewayProblem => ({
  status,
  error,
  message,
  counters,
});

const AWAY = "A part that this call needs is unavailable. Try again.";
const INVALID = "The token is not valid here. Get a new one.";

/** Reasons for which a call ends outside of the decision: at the door, on the way to the upstream, in the middle. */
export type FlowReason =
  | "method_not_allowed"
  | "draining"
  | "internal_error"
  | "revoked_on_the_way"
  | "expired_on_the_way"
  | "body_too_large"
  | "upstream_failed"
  | "upstream_headers_excess"
  | "upstream_interim_excess"
  | "upstream_timeout"
  | "upstream_unauthorized";

/** Each reason → its answer. A reason without one does not compile. */
export const problems = {
  method_not_allowed: problem(405, "MethodNotAllowed", "CONNECT and TRACE are not accepted."),
  draining: problem(503, "TemporarilyUnavailable", "This Gateway is stopping. Try again."),
  internal_error: problem(
    500,
    "InternalError",
    "The call failed for a reason on our side. The log has it under this requestId.",
  ),

  authorization_missing: problem(
    401,
    "InvalidToken",
    "Send Authorization: Bearer with a token.",
    "denials_missing_auth",
  ),
  authorization_repeated: problem(
    401,
    "InvalidToken",
    "Send exactly one Authorization header.",
    "denials_missing_auth",
  ),
  authorization_not_bearer: problem(
    401,
    "InvalidToken",
    "Authorization must be Bearer and one token.",
    "denials_missing_auth",
  ),
  token_malformed: problem(
    401,
    "InvalidToken",
    "The bearer token is not a token of this issuer, or over 4096 bytes.",
    "denials_bad_bearer",
  ),
  token_expiring: problem(
    401,
    "CredentialExpired",
    "The token has expired or has 35 s or less to live. Get a new one.",
    "denials_expiring",
  ),
  routing_refused: problem(400, "InvalidRequest", "The request does not name one resource.", "denials_bad_routing"),
  upgrade_not_supported: problem(
    400,
    "InvalidRequest",
    "Upgrades are not supported by this Gateway.",
    "denials_bad_routing",
  ),
  path_refused: problem(400, "InvalidRequest", "The path is refused.", "denials_path_traversal"),
  token_invalid: problem(401, "InvalidToken", INVALID, "denials_signature"),
  keys_unavailable: problem(503, "TemporarilyUnavailable", AWAY, "sts_exchange_errors"),
  mandate_played_back: problem(
    401,
    "InvalidToken",
    "This mandate is for the upstream that it was made for.",
    "denials_jti_replay",
  ),
  resource_not_bound: problem(403, "AccessDenied", "There is no such resource in the token's zone.", "denials_binding"),
  bindings_unavailable: problem(503, "TemporarilyUnavailable", AWAY, "sts_exchange_errors"),
  zone_too_large: problem(
    403,
    "AccessDenied",
    "The zone's resources have more than 4 MiB of identifiers and addresses, which is more than a zone may.",
    "denials_binding",
  ),
  resource_not_targeted: problem(403, "AccessDenied", "The token is limited to other resources.", "denials_target"),
  mandate_for_another_call: problem(
    403,
    "AccessDenied",
    "This mandate is for another method, path, agent session or delegation.",
    "denials_bound_call",
  ),
  too_many_calls: problem(429, "RateLimited", "Too many calls are under way.", "denials_calls"),
  token_revoked: problem(401, "InvalidToken", "The token's session was revoked.", "denials_revoked"),
  revocation_stale: problem(503, "TemporarilyUnavailable", AWAY, "denials_revocation_stale"),
  request_too_large: problem(413, "RequestTooLarge", "The request's body is too large.", "denials_too_large"),

  policy_denied: problem(403, "AccessDenied", "The zone's policy does not allow this call.", "denials_policy"),
  provider_not_served: problem(
    403,
    "AccessDenied",
    "The resource takes a provider's credential, which this version does not get.",
    "denials_binding",
  ),
  authority_refused: problem(
    403,
    "AccessDenied",
    "The agent session or the delegation does not allow this call.",
    "denials_policy",
  ),
  policy_not_evaluated: problem(
    403,
    "AccessDenied",
    "The zone's policy could not be evaluated.",
    "denials_policy",
    "sts_exchange_errors",
  ),
  // Never a 401: a stock client would log in again, for ever.
  step_up_required: problem(
    403,
    "InteractionRequired",
    "The zone's policy wants somebody to vouch for this call; reason says how it stands.",
    "denials_step_up",
  ),
  rate_limited: problem(
    429,
    "RateLimited",
    "The application has used up its calls for now. Try again later.",
    "denials_rate_limited",
  ),
  policy_units_exhausted: problem(
    429,
    "RateLimited",
    "The zone's policies have used up what they may spend a second. Try again later.",
    "denials_rate_limited",
  ),
  ledger_share_at_sts: problem(503, "TemporarilyUnavailable", LEDGER_SHARE_TEXT),
  session_over: problem(401, "InvalidToken", "The token's session is over. Get a new token.", "denials_policy"),
  session_revoked_at_sts: problem(401, "InvalidToken", "The token's session was revoked.", "denials_revoked"),
  token_refused_by_sts: problem(401, "InvalidToken", INVALID, "denials_policy"),
  sts_busy: problem(503, "TemporarilyUnavailable", AWAY, "sts_exchange_errors"),
  sts_failed: problem(502, "BadGateway", "The STS gave no usable answer. Try again.", "sts_exchange_errors"),
  sts_timeout: problem(504, "GatewayTimeout", "The STS did not answer in time. Try again.", "sts_exchange_errors"),
  client_gone: problem(499, "ClientClosedRequest", "The caller went away."), // nobody reads it

  upstream_refused: problem(
    403,
    "AccessDenied",
    "The resource's upstream may not be called from here.",
    "denials_ssrf",
  ),
  upstream_not_resolved: problem(502, "BadGateway", "The resource's upstream has no address.", "upstream_errors"),
  zone_lookups_full: problem(
    429,
    "RateLimited",
    "The zone has 8 look-ups of upstream names under way, as many as it may. Try again.",
    "denials_rate_limited",
  ),
  lookups_full: problem(503, "TemporarilyUnavailable", AWAY, "upstream_errors"),
  mandate_used: problem(
    401,
    "InvalidToken",
    "This mandate was used before, or is being used; each is for one call.",
    "denials_jti_replay",
  ),
  mandate_may_be_used: problem(
    401,
    "InvalidToken",
    "This mandate may have been used before. Get a new one.",
    "denials_jti_replay",
  ),
  marks_unavailable: problem(503, "TemporarilyUnavailable", AWAY, "marks_errors"), // no replay: nothing is known of it

  ledger_unavailable: problem(503, "TemporarilyUnavailable", AWAY),
  ledger_share: problem(503, "TemporarilyUnavailable", LEDGER_SHARE_TEXT),

  revoked_on_the_way: problem(401, "InvalidToken", "The token's session was revoked.", "denials_revoked"),
  expired_on_the_way: problem(401, "CredentialExpired", "The token's session has ended. Get a new token."),
  body_too_large: problem(413, "RequestTooLarge", "The request's body is too large.", "denials_too_large"),
  upstream_failed: problem(502, "BadGateway", "The upstream could not be reached or broke off.", "upstream_errors"),
  upstream_interim_excess: problem(
    502,
    "BadGateway",
    "The upstream sent more interim answers than four, or more than 16 KiB of them.",
    "upstream_errors",
  ),
  upstream_headers_excess: problem(
    502,
    "BadGateway",
    "The upstream's answer has more than 200 headers.",
    "upstream_errors",
  ),
  upstream_unauthorized: problem(
    502,
    "BadGateway",
    "The upstream did not take the credential that this call was made with.",
    "upstream_errors",
  ),
  upstream_timeout: problem(504, "GatewayTimeout", "The upstream did not answer in time.", "upstream_errors"),
  upstream_busy: problem(
    503,
    "TemporarilyUnavailable",
    "Too many calls of this upstream are under way. Try again.",
    "upstream_errors",
  ),
  upstream_zone_busy: problem(
    429,
    "RateLimited",
    "The zone has as many calls of this upstream under way as a zone may. Try again.",
    "denials_rate_limited",
  ),
  upstream_client_busy: problem(
    429,
    "RateLimited",
    "The application has as many calls of this upstream under way as one may. Try again.",
    "denials_rate_limited",
  ),
} as const satisfies Record<DenyReason | FlowReason, GatewayProblem>;

export type Reason = keyof typeof problems;

/** Calls that the STS refused are in the ledger by its own hand, under the same request id. */
export const IN_THE_STS_LEDGER: ReadonlySet<Reason> = new Set<Reason>([
  "policy_denied",
  "authority_refused",
  "provider_not_served",
  "policy_not_evaluated",
  "step_up_required",
  "rate_limited",
  "policy_units_exhausted",
  "ledger_share_at_sts",
  "session_over",
  "session_revoked_at_sts",
  "token_refused_by_sts",
  "sts_busy",
]);

/** The STS's reasons for which it knows no client, and so only counts: the Gateway does know the caller, and writes. */
export const COUNTED_AT_THE_STS: ReadonlySet<string> = new Set(["zone_unavailable", "application_unknown"]);
