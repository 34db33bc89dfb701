import type { Metrics } from "../kernel/metrics.ts";

/** The Gateway's counters, under exactly these names: operators alert on them. */
const HELP = {
  requests_total: "Requests that reached the Gateway.",
  requests_allowed: "Requests that were let through to an upstream.",
  requests_denied: "Requests that were refused, for whatever reason.",
  denials_missing_auth: "Not exactly one Authorization: Bearer.",
  denials_bad_bearer: "The bearer token is too long or no token of ours by form.",
  denials_expiring: "The token has 35 s or less to live.",
  denials_bad_routing: "No resource, more than one, or a header that is not accepted.",
  denials_path_traversal: "The path climbs, or could for some decoder.",
  denials_signature: "The token's signature or claims do not verify.",
  denials_binding: "The zone has no such resource.",
  denials_target: "The token is limited to other resources.",
  denials_bound_call: "The mandate is for another method or path.",
  denials_calls: "The process, the zone or the client has as many calls under way as it may.",
  denials_revoked: "The token's session, agent session, edge or grant is revoked.",
  denials_revocation_stale: "The revocation state is older than 10 s.",
  denials_too_large: "The request's body is larger than MAX_REQUEST_BYTES.",
  denials_policy: "The STS said no: policy, scope, target or session.",
  denials_step_up: "The policy asks for a step-up.",
  denials_rate_limited: "The application has used up its calls.",
  denials_ssrf: "The upstream's name or address may not be called.",
  denials_jti_replay: "A mandate was presented that was used before, or may have been.",
  marks_errors: "Mandates that could not be marked, because the store of marks failed.",
  sts_exchange_errors: "Exchanges that failed, and evaluations that did.",
  upstream_errors: "Calls that an upstream did not answer.",
} as const;

export type CounterName = keyof typeof HELP;
export type Counters = Readonly<Record<CounterName, { inc(by?: number): void }>>;

export const createCounters = (metrics: Metrics): Counters =>
  Object.fromEntries(Object.entries(HELP).map(([name, help]) => [name, metrics.counter(name, help)])) as Counters;
