import type { Author } from "../../authority/admin-audit.ts";
import type { Change } from "../../authority/change.ts";
import type { OAuthError, Refused } from "../../contracts/exchange.ts";
import type { AuditWriter } from "../../domain/audit-event.ts";
import type { Claims } from "../../domain/token.ts";
import type { Denial } from "../../kernel/pipeline.ts";
import type { Log } from "../../kernel/log.ts";
import type { PipelinePorts } from "../exchange.ts";
import type { Facts } from "../facts.ts";
import { type InquiryEvent, inquiryDraft, type InquiryStart } from "../inquiry.ts";
import { introspect } from "../introspect.ts";
import { type TokenReason, UNAUTHENTICATED } from "../problems.ts";
import { revoke } from "../revoke.ts";
import { errorBody, refusalOf, type TokenCounts } from "./token-endpoint.ts";

/** RFC 7662, 2.2: of a token that is not to be taken, or not this caller's to know of, nothing but that is told. */
export type Introspection =
  | { readonly active: false }
  | ({ readonly active: true; readonly token_type: "Bearer" } & Claims);

export type InquiryCounts = Pick<TokenCounts, "denied" | "unauthenticated" | "failed"> & {
  /** A token was shown to be active, or its session is over. */
  inquired(event_type: InquiryEvent): void;
};

/** An empty body: RFC 7009, 2.2. */
export type InquiryAnswer<Body> = { readonly ok: true; readonly body: Body } | Refused;

export type InquiryEndpoint = {
  readonly steps: { readonly introspect: readonly string[]; readonly revoke: readonly string[] };
  /** Neither rejects. */
  introspect(start: InquiryStart): Promise<InquiryAnswer<Introspection>>;
  revoke(start: InquiryStart): Promise<InquiryAnswer<undefined>>;
};

/** What is wrong with the token that is meant, not with the request: there is none that could be shown, or ended. */
const OF_THE_TOKEN: ReadonlySet<string> = new Set<TokenReason>([
  "subject_token_malformed",
  "subject_token_signature",
  "subject_token_claims",
  "subject_token_issuer",
  "subject_token_zone",
  "subject_token_not_yet_valid",
  "subject_token_expired",
  "token_not_visible",
  "application_unknown",
  "session_unknown",
  "session_revoked",
  "session_expired",
]);

type Known = InquiryStart & Partial<Omit<Facts, "request" | "presented">>;

/** Runs the two pipelines about tokens, and tells counters and ledger what came of them. */
export const createInquiryEndpoint = (
  ports: PipelinePorts & {
    readonly change: Change<Author>;
    readonly audit: AuditWriter;
    readonly log: Log;
    readonly counts: InquiryCounts;
  },
): InquiryEndpoint => {
  const { audit, counts, log } = ports;
  const pipelines = { introspect: introspect(ports), revoke: revoke(ports) };

  const failed = (error: unknown, request_id: string): Refused => {
    counts.failed();
    log.error({ err: error, request_id }, "a request about a token failed unexpectedly");
    const description = "The request failed for a reason on our side. The log has it under this requestId.";
    const body: OAuthError = errorBody("internal_error", description, "internal_error", request_id);
    return { ok: false, status: 500, body };
  };

  /** Nothing is given that a ledger could stop: what came of it is recorded, and follows later where it can't be now. */
  const record = (
    event_type: InquiryEvent,
    facts: Known,
    refused: { readonly step: string; readonly denial: Denial<TokenReason> } | undefined,
  ): void => {
    const { application } = facts;
    if (refused === undefined) counts.inquired(event_type);
    else counts.denied(refused.step, refused.denial.reason);
    if (application === undefined || (refused !== undefined && UNAUTHENTICATED.has(refused.denial.reason)))
      counts.unauthenticated(refused?.denial.reason ?? "");
    else audit.record(inquiryDraft(event_type, { ...facts, application }, refused));
  };

  return {
    steps: { introspect: pipelines.introspect.steps, revoke: pipelines.revoke.steps },

    async introspect(start) {
      try {
        const outcome = await pipelines.introspect.run(start);
        if (outcome.denial === undefined) {
          record("token.introspect", outcome.facts, undefined);
          return { ok: true, body: { active: true, token_type: "Bearer", ...outcome.facts.subject } };
        }
        record("token.introspect", { ...outcome.facts, ...start }, outcome);
        return OF_THE_TOKEN.has(outcome.denial.reason)
          ? { ok: true, body: { active: false } }
          : refusalOf(outcome.denial, start.request_id);
      } catch (error) {
        return failed(error, start.request_id);
      }
    },

    async revoke(start) {
      try {
        const outcome = await pipelines.revoke.run(start);
        if (outcome.denial === undefined) {
          record("token.revoke", outcome.facts, undefined);
          return { ok: true, body: undefined };
        }
        record("token.revoke", { ...outcome.facts, ...start }, outcome);
        return OF_THE_TOKEN.has(outcome.denial.reason)
          ? { ok: true, body: undefined }
          : refusalOf(outcome.denial, start.request_id);
      } catch (error) {
        return failed(error, start.request_id);
      }
    },
  };
};
