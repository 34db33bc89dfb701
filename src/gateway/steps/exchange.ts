import type { ExchangeAnswer, GatewayExchange, GatewayGrant, OAuthError, Refused } from "../../contracts/exchange.ts";
import { stepUpPathOf } from "../../contracts/sts.ts";
import type { AuthorityIds } from "../../domain/revocation.ts";
import { Cancelling } from "../../kernel/cancel.ts";
import type { Clock } from "../../kernel/clock.ts";
import { type Denial, type DenialExtra, deny, load } from "../../kernel/pipeline.ts";
import { type Sts, StsTimeout } from "../../ports/sts.ts";
import type { Binding, Claims, Client, Credential, NamedAuthority, Passage, Route, Start, Watcher } from "../facts.ts";
import { createLimits, type Limited, type Limits } from "../limits.ts";
import { LinkedList, type Place } from "../../kernel/linked-list.ts";

type Refusal =
  | "policy_denied"
  | "authority_refused"
  | "provider_not_served"
  | "policy_not_evaluated"
  | "step_up_required"
  | "rate_limited"
  | "policy_units_exhausted"
  | "ledger_share_at_sts"
  | "session_over"
  | "session_revoked_at_sts"
  | "token_refused_by_sts"
  | "sts_busy"
  | "sts_failed"
  | "sts_timeout"
  | "client_gone";

/** The STS's `error` → ours. A word that is not here is a failure of the STS or of us, never the caller's. */
const BY_ERROR: Readonly<Record<string, Refusal>> = {
  access_denied: "policy_denied",
  invalid_scope: "policy_denied",
  invalid_target: "policy_denied",
  policy_eval_failed: "policy_not_evaluated",
  interaction_required: "step_up_required",
};

/** Reasons of who runs and by whose authority: another answer than that policy said no. */
const AUTHORITY = [
  "agent_session_changed",
  "agent_session_client",
  "agent_session_expired",
  "agent_session_revoked",
  "agent_session_session",
  "agent_session_unknown",
  "delegation_broken",
  "delegation_budget_spent",
  "delegation_edge_changed",
  "delegation_edge_unknown",
  "delegation_expired",
  "delegation_not_target",
  "delegation_revoked",
  "delegation_source_ended",
  "delegation_source_gone",
  "delegation_too_deep",
  "delegation_widened",
  "resource_not_delegated",
] as const;

/** Reasons that say more than the status does. First, a token or session that the STS, which knows first, does not take any more. */
const BY_REASON: Readonly<Record<string, Refusal>> = {
  ...Object.fromEntries(AUTHORITY.map((reason) => [reason, "authority_refused" as const])),
  provider_not_served: "provider_not_served",
  session_revoked: "session_revoked_at_sts",
  session_expired: "session_over",
  session_unknown: "session_over",
  subject_token_bound: "token_refused_by_sts",
  subject_token_claims: "token_refused_by_sts",
  subject_token_expired: "token_refused_by_sts",
  subject_token_issuer: "token_refused_by_sts",
  subject_token_malformed: "token_refused_by_sts",
  subject_token_not_ambient: "token_refused_by_sts",
  subject_token_not_yet_valid: "token_refused_by_sts",
  subject_token_signature: "token_refused_by_sts",
  subject_token_zone: "token_refused_by_sts",
  // What the caller asked for is too much: its mistake, and no failure of a part.
  form_too_large: "policy_denied",
  policy_input_too_large: "policy_denied",
  token_too_long: "policy_denied",
  // Whose share of what is used up: another answer than that a part is away, or that the application called too often.
  policy_units_exhausted: "policy_units_exhausted",
  ledger_share: "ledger_share_at_sts",
};

const refusalOf = (status: number, error: string, reason: string): Refusal => {
  const known = Object.hasOwn(BY_REASON, reason) ? BY_REASON[reason] : undefined;
  if (known !== undefined) return known;
  if (status === 429) return "rate_limited";
  if (status === 503) return "sts_busy";
  if (status >= 500) return "sts_failed";
  return BY_ERROR[error] ?? "sts_failed";
};

/** The challenge that the STS speaks of, and where its end is waited for. */
const challengeOf = (body: OAuthError, issuer_url: string): DenialExtra["challenge"] => {
  const { challenge_id: id, challenge_type: type, challenge_secret: secret, challenge_expires_at: expires_at } = body;
  if (id === undefined || type === undefined || expires_at === undefined) return undefined;
  const wait_url = `${issuer_url}${stepUpPathOf(encodeURIComponent(id))}`;
  return { id, type, ...(secret === undefined ? {} : { secret }), expires_at, wait_url };
};

/** The STS's no, in its own words: its reason, and what the policy's author says to the caller. */
const denied = (answer: Refused, issuer_url: string): Denial<Refusal> => {
  const { body, status, retry_after_s } = answer;
  const refusal = refusalOf(status, body.error, body.reason);
  const challenge = refusal === "step_up_required" ? challengeOf(body, issuer_url) : undefined;
  const said: DenialExtra = {
    public_reason: body.reason,
    ...(body.diagnostics === undefined ? {} : { diagnostics: body.diagnostics }),
    ...(retry_after_s === undefined ? {} : { retry_after_s }),
    ...(challenge === undefined ? {} : { challenge }),
  };
  return deny(refusal, `${status} ${body.error} ${body.reason}`, refusal === "sts_failed" ? undefined : said);
};

const parsedUrl = (text: string): URL | undefined => {
  try {
    return new URL(text);
  } catch {
    return undefined;
  }
};

type Needs = Start &
  NamedAuthority & {
    readonly token: string;
    readonly claims: Claims;
    readonly route: Route;
    readonly scope: string | undefined;
    readonly binding: Binding;
  };

/** Who acts for the subject is the presented token's word: an exchange keeps it. */
const idsOf = (grant: GatewayGrant, { act }: Claims): AuthorityIds => ({
  sid: grant.session_id,
  agent_session_id: grant.agent_session_id,
  delegation_edge_id: grant.delegation_edge_id,
  grant_id: grant.grant_id,
  delegation_chain: grant.delegation_chain,
  act,
});

type AuthMode = GatewayGrant["upstreams"][string]["auth_mode"];

/** What the STS says of how the upstream is to be called → what goes there. */
const CREDENTIALS: Readonly<Record<AuthMode, (access_token: string) => Credential>> = {
  caracal_jwt: (token) => ({ kind: "mandate", token }),
};

/** What an allowed exchange lets through. An answer that lacks what was agreed on is the STS's failure, not an allow. */
const passageOf = (
  answer: ExchangeAnswer & { ok: true },
  binding: Binding,
  claims: Claims,
): Passage | Denial<Refusal> => {
  const { body } = answer;
  const { identifier } = binding;
  const directive = Object.hasOwn(body.upstreams, identifier) ? body.upstreams[identifier] : undefined;
  if (directive === undefined) return deny("sts_failed", "its answer does not say how the upstream is to be called");
  const upstream = directive.url === binding.upstream.href ? binding.upstream : parsedUrl(directive.url);
  if (upstream === undefined) return deny("sts_failed", "its answer holds no URL");
  const { access_token, auth_exp, decision_id } = body;
  const credential = CREDENTIALS[directive.auth_mode](access_token);
  return { credential, upstream, cut_by: idsOf(body, claims), auth_exp, decision_id };
};

type Result = Passage | Denial<Refusal>;

/** What the questions that wait for their answers share. */
type Desk = {
  readonly sts: Sts;
  readonly clock: Clock;
  readonly timeout_ms: number;
  readonly issuer_url: string;
  readonly waiting: LinkedList<Question>;
  readonly limits: Limits;
};

/** One question to the STS: until it is answered, or its time is over, or nobody waits for the answer any more. */
class Question extends Cancelling implements Limited, Watcher {
  private readonly desk: Desk;
  private readonly binding: Binding;
  private readonly claims: Claims;
  private readonly client: Client;
  private readonly until_ms: number;
  private readonly resolve: (result: Result) => void;
  private place: Place<Question> | undefined;

  constructor(desk: Desk, binding: Binding, claims: Claims, client: Client, resolve: (result: Result) => void) {
    super();
    this.desk = desk;
    this.binding = binding;
    this.claims = claims;
    this.client = client;
    this.until_ms = desk.clock.monotonic_ms() + desk.timeout_ms;
    this.resolve = resolve;
    this.place = desk.waiting.put(this);
  }

  ask(request: GatewayExchange): void {
    const { desk } = this;
    desk.limits.watch(this);
    this.client.whenClosed(this);
    desk.sts.exchange(request, this).then(
      (answer) =>
        this.settle(answer.ok ? passageOf(answer, this.binding, this.claims) : denied(answer, desk.issuer_url)),
      (error: unknown) => {
        const said = error instanceof Error ? error.message : String(error);
        this.settle(error instanceof StsTimeout ? deny("sts_timeout", said) : deny("sts_failed", said));
      },
    );
  }

  left_ms(): number {
    const left_ms = this.until_ms - this.desk.clock.monotonic_ms();
    if (left_ms > 0) return left_ms;
    this.giveUp(deny("sts_timeout"));
    return Infinity;
  }

  closed(): void {
    this.giveUp(deny("client_gone"));
  }

  private giveUp(why: Denial<Refusal>): void {
    this.settle(why);
    this.cancel();
  }

  private settle(result: Result): void {
    const { place } = this;
    if (place === undefined) return;
    this.place = undefined;
    this.desk.waiting.take(place);
    this.client.whenClosed(undefined);
    this.resolve(result);
  }
}

/**
 * An ambient token becomes a mandate for this one call, after the zone's policy said yes to it. A mandate that the agent
 * got itself goes on as it is.
 */
export const exchange = (deps: {
  readonly sts: Sts;
  readonly clock: Clock;
  readonly sts_timeout_ms: number;
  readonly issuer_url: string;
}) => {
  const { sts, clock, sts_timeout_ms: timeout_ms, issuer_url } = deps;
  const waiting = new LinkedList<Question>();
  const desk: Desk = { sts, clock, timeout_ms, issuer_url, waiting, limits: createLimits(clock, () => waiting.all()) };
  return load("exchange", (facts: Needs): Result | Promise<Result> => {
    const { inbound, claims, binding, route, client, token, scope } = facts;
    if (claims.use === "per_call") {
      const { auth_exp } = claims;
      const credential = CREDENTIALS.caracal_jwt(token);
      return { credential, upstream: binding.upstream, cut_by: claims, auth_exp, decision_id: undefined };
    }
    const request: GatewayExchange = {
      zone_id: claims.zone_id,
      subject_token: token,
      resource: binding.identifier,
      scope,
      agent_session_id: facts.agent_session_id,
      delegation_edge_id: facts.delegation_edge_id,
      method: inbound.method,
      path: route.path, // without the query, which may hold what no ledger should
      request_id: inbound.request_id,
      traceparent: inbound.traceparent,
      challenge_id: inbound.challenge_ids[0],
      challenge_response: inbound.challenge_responses[0],
    };
    return new Promise((resolve) => new Question(desk, binding, claims, client, resolve).ask(request));
  });
};
