import type {
  ExchangeAnswer,
  GatewayGrant,
  OAuthError,
  Refused,
  TokenAnswer,
  TokenResponse,
} from "../../contracts/exchange.ts";
import { TOKEN_TYPE_ACCESS_TOKEN } from "../../contracts/sts.ts";
import type { Denial } from "../../kernel/pipeline.ts";
import type { Database } from "../../ports/database.ts";
import { exchange, type PipelinePorts } from "../exchange.ts";
import type { Facts, Start } from "../facts.ts";
import { issue } from "../issue.ts";
import { denyDraft, type EventType } from "../ledger.ts";
import { problems, type TokenReason, UNAUTHENTICATED } from "../problems.ts";
import { kindOf, type RequestFault } from "./request.ts";

const RETRY_AFTER_S = 1;

/** What is counted of token requests. */
export type TokenCounts = {
  issued(use: "ambient" | "per_call"): void;
  denied(step: string, reason: string): void;
  /** A refusal to nobody. */
  unauthenticated(reason: string): void;
  failed(): void;
};

export type TokenEndpoint = {
  readonly steps: { readonly issue: readonly string[]; readonly exchange: readonly string[] };
  /** Never rejects: what was not foreseen is a 500 that says nothing, and a line in the log that says everything. */
  answer(start: Start): Promise<TokenAnswer>;
  /** A call of the Gateway's: it is told how to pass the call on, and by what it can be ended. */
  exchange(start: Start): Promise<ExchangeAnswer>;
  refuse(fault: RequestFault, request_id: string): TokenAnswer;
};

/** RFC 6749, 5.2. */
export const errorBody = (
  error: string,
  description: string,
  reason: string,
  request_id: string,
  diagnostics?: readonly unknown[],
): OAuthError => ({
  error,
  error_description: asciiText(description),
  reason,
  requestId: request_id,
  ...(diagnostics === undefined || diagnostics.length === 0 ? {} : { diagnostics: [...diagnostics] }),
});

/** RFC 6749, 5.2: printable ASCII without `"` and `\`. */
const asciiText = (text: string): string => text.replaceAll(/[^\x20-\x21\x23-\x5b\x5d-\x7e]/g, "'");

/** A pipeline's refusal as the caller sees it. */
export const refusalOf = (denial: Denial<TokenReason>, request_id: string): Refused => {
  const { status, error, description } = problems[denial.reason];
  const { challenge = {}, diagnostics } = denial.extra ?? {};
  const told = Object.entries(challenge).map(([name, value]) => [`challenge_${name}`, value] as const);
  const body = {
    ...errorBody(error, denial.extra?.description ?? description, denial.reason, request_id, diagnostics),
    ...Object.fromEntries(told),
  };
  const retry_after_s = denial.extra?.retry_after_s ?? (status === 429 || status === 503 ? RETRY_AFTER_S : undefined);
  return { ok: false, status, body, retry_after_s };
};

type Granted = Pick<Facts, "claims" | "access_token" | "decision_id">;

/** RFC 6749, 5.1. Where the upstream is, is the Gateway's business: an agent is not told. */
const responseOf = ({ access_token, claims }: Granted): TokenResponse => ({
  access_token,
  token_type: "Bearer",
  expires_in: claims.exp - claims.iat,
  scope: claims.scope,
  issued_token_type: TOKEN_TYPE_ACCESS_TOKEN,
  target_resources: claims.target,
  session_id: claims.sid,
});

/** What the Gateway is told beside: field by field, since a spread costs more than all of them. */
const grantOf = (facts: Granted & Pick<Facts, "resource" | "session">): GatewayGrant => {
  const { claims, resource } = facts;
  return {
    access_token: facts.access_token,
    token_type: "Bearer",
    expires_in: claims.exp - claims.iat,
    scope: claims.scope,
    issued_token_type: TOKEN_TYPE_ACCESS_TOKEN,
    target_resources: claims.target,
    session_id: claims.sid,
    upstreams: { [resource.identifier]: { url: resource.upstream_url, auth_mode: "caracal_jwt" } },
    decision_id: facts.decision_id,
    auth_exp: claims.auth_exp ?? facts.session.expires_at_s,
    agent_session_id: claims.agent_session_id,
    delegation_edge_id: claims.delegation_edge_id,
    grant_id: claims.grant_id,
    delegation_chain: claims.delegation_chain,
  };
};

/** Runs the pipeline that a request belongs to, and tells counters and ledger what came of it. */
export const createTokenEndpoint = (
  ports: PipelinePorts & {
    readonly db: Database;
    readonly counts: TokenCounts;
  },
): TokenEndpoint => {
  const { log, counts } = ports;
  const pipelines = { issue: issue(ports), exchange: exchange(ports) };

  const refused = (
    event_type: EventType,
    facts: Partial<Facts> & Start,
    step: string,
    denial: Denial<TokenReason>,
  ): Refused => {
    counts.denied(step, denial.reason);
    const { application } = facts;
    if (application === undefined || UNAUTHENTICATED.has(denial.reason)) counts.unauthenticated(denial.reason);
    // The ledger that did not take the allow has taken it as a deny already.
    else if (denial.reason !== "audit_unavailable" && denial.reason !== "ledger_share")
      ports.audit.record(denyDraft(event_type, { ...facts, application }, step, denial));
    log.debug({ request_id: facts.request_id, step, reason: denial.reason, detail: denial.detail }, "token refused");
    return refusalOf(denial, facts.request_id);
  };

  /** An unforeseen end is nobody's fault outside, and nothing of it is told there. */
  const failed = (error: unknown, request_id: string): Refused => {
    counts.failed();
    log.error({ err: error, request_id }, "a token request failed unexpectedly");
    const description = "The request failed for a reason on our side. The log has it under this requestId.";
    return { ok: false, status: 500, body: errorBody("internal_error", description, "internal_error", request_id) };
  };

  /** A mandate, in the form in which its caller is told of it. */
  const exchanged = async <Body>(
    start: Start,
    bodyOf: (facts: Granted & Pick<Facts, "resource" | "session">) => Body,
  ): Promise<{ readonly ok: true; readonly body: Body } | Refused> => {
    try {
      const outcome = await pipelines.exchange.run(start);
      if (outcome.denial !== undefined)
        return refused("token.exchange", { ...outcome.facts, ...start }, outcome.step, outcome.denial);
      counts.issued("per_call");
      return { ok: true, body: bodyOf(outcome.facts) };
    } catch (error) {
      return failed(error, start.request_id);
    }
  };

  const issued = async (start: Start): Promise<TokenAnswer> => {
    try {
      const outcome = await pipelines.issue.run(start);
      if (outcome.denial !== undefined)
        return refused("token.issue", { ...outcome.facts, ...start }, outcome.step, outcome.denial);
      counts.issued("ambient");
      return { ok: true, body: responseOf(outcome.facts) };
    } catch (error) {
      return failed(error, start.request_id);
    }
  };

  const ofGateway = (start: Start): Promise<ExchangeAnswer> => exchanged(start, grantOf);

  return {
    steps: { issue: pipelines.issue.steps, exchange: pipelines.exchange.steps },
    exchange: ofGateway,
    answer(start) {
      if (start.request.caller.kind === "gateway") return ofGateway(start);
      return kindOf(start.request) === "exchange" ? exchanged(start, responseOf) : issued(start);
    },
    refuse(fault, request_id) {
      counts.unauthenticated(fault.reason);
      return {
        ok: false,
        status: fault.status,
        body: errorBody(fault.error, fault.description, fault.reason, request_id),
      };
    },
  };
};
