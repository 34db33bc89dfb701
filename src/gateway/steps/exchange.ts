import type { TokenAnswer } from "../../contracts/sts.ts";
import { createCancel } from "../../kernel/cancel.ts";
import { type Denial, type DenialExtra, deny, load } from "../../kernel/pipeline.ts";
import type { GatewayExchange, Sts } from "../../ports/sts.ts";
import { StsTimeout } from "../../ports/sts.ts";
import type { Binding, Claims, Client, Passage, Route, Start } from "../facts.ts";

type Refusal =
  | "policy_denied"
  | "policy_not_evaluated"
  | "step_up_required"
  | "rate_limited"
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

/** A token or session that the STS, which knows first, does not take any more: the caller needs another token. */
const BY_REASON: Readonly<Record<string, Refusal>> = {
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
};

const refusalOf = (status: number, error: string, reason: string): Refusal => {
  if (status === 429) return "rate_limited";
  if (status === 503) return "sts_busy";
  if (status >= 500) return "sts_failed";
  return BY_REASON[reason] ?? BY_ERROR[error] ?? "sts_failed";
};

/** The STS's no, in its own words: its reason, and what the policy's author says to the caller. */
const denied = (answer: TokenAnswer & { ok: false }): Denial<Refusal> => {
  const { body, status, retry_after_s } = answer;
  const refusal = refusalOf(status, body.error, body.reason);
  const said: DenialExtra = {
    public_reason: body.reason,
    ...(body.diagnostics === undefined ? {} : { diagnostics: body.diagnostics }),
    ...(retry_after_s === undefined ? {} : { retry_after_s }),
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

type Needs = Start & {
  readonly token: string;
  readonly claims: Claims;
  readonly route: Route;
  readonly scope: string | undefined;
  readonly binding: Binding;
};

/** What an allowed exchange lets through. An answer that lacks what was agreed on is the STS's failure, not an allow. */
const passageOf = (answer: TokenAnswer & { ok: true }, binding: Binding): Passage | Denial<Refusal> => {
  const { body } = answer;
  const directive = body.upstreams?.[binding.identifier];
  if (directive === undefined) return deny("sts_failed", "its answer does not say how the upstream is to be called");
  const upstream = directive.url === binding.upstream.href ? binding.upstream : parsedUrl(directive.url);
  if (upstream === undefined) return deny("sts_failed", "its answer holds no URL");
  return { mandate: body.access_token, upstream, auth_exp: body.auth_exp, decision_id: body.decision_id };
};

/** The STS's answer, or why there is none, within `timeout_ms` and for as long as somebody waits for it. */
const ask = (
  sts: Sts,
  request: GatewayExchange,
  client: Client,
  timeout_ms: number,
): Promise<TokenAnswer | Denial<Refusal>> =>
  new Promise((resolve) => {
    const { signal, cancel } = createCancel();
    const settle = (result: TokenAnswer | Denial<Refusal>): void => {
      clearTimeout(timer);
      client.whenClosed(undefined);
      resolve(result);
    };
    const timer = setTimeout(() => {
      settle(deny("sts_timeout"));
      cancel();
    }, timeout_ms);
    client.whenClosed({
      closed() {
        settle(deny("client_gone"));
        cancel();
      },
    });
    sts.exchange(request, signal).then(settle, (error: unknown) => {
      const said = error instanceof Error ? error.message : String(error);
      settle(error instanceof StsTimeout ? deny("sts_timeout", said) : deny("sts_failed", said));
    });
  });

/**
 * An ambient token becomes a mandate for this one call, after the zone's policy said yes to it. A mandate that the agent
 * got itself goes on as it is.
 */
export const exchange = (deps: { readonly sts: Sts; readonly sts_timeout_ms: number }) =>
  load("exchange", async (facts: Needs): Promise<Passage | Denial<Refusal>> => {
    const { inbound, claims, binding, route, client, token, scope } = facts;
    if (claims.use === "per_call") {
      return { mandate: token, upstream: binding.upstream, auth_exp: claims.auth_exp, decision_id: undefined };
    }
    const request: GatewayExchange = {
      zone_id: claims.zone_id,
      subject_token: token,
      resource: binding.identifier,
      scope,
      method: inbound.method,
      path: route.path, // without the query, which may hold what no ledger should
      request_id: inbound.request_id,
      traceparent: inbound.traceparent,
    };
    const answer = await ask(deps.sts, request, client, deps.sts_timeout_ms);
    if (!("ok" in answer)) return answer;
    return answer.ok ? passageOf(answer, binding) : denied(answer);
  });
