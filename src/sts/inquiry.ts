import type { AuditDraft } from "../domain/audit-event.ts";
import type { Denial } from "../kernel/pipeline.ts";
import type { Asker, TokenRequest } from "./edge/request.ts";
import type { Facts, Start } from "./facts.ts";

/** A request about a token: RFC 7662, 2.1 and RFC 7009, 2.1. `subject_token` is the one that is meant. */
export type TokenInquiry = Asker & Pick<TokenRequest, "subject_token">;

/** What a run begins with. */
export type InquiryStart = Omit<Start, "request"> & {
  readonly request: TokenInquiry;
  /** As for an exchange that brings its token itself. */
  readonly presented: undefined;
};

export type InquiryEvent = "token.introspect" | "token.revoke";

/**
 * What came of a request of somebody whom we know. Whose token it is, is believed only once its signature was verified.
 * `refused` is undefined where the token was shown, or ended.
 */
export const inquiryDraft = (
  event_type: InquiryEvent,
  facts: Pick<InquiryStart, "request" | "request_id" | "trace_id"> &
    Pick<Facts, "application"> &
    Partial<Omit<Facts, "request">>,
  refused: { readonly step: string; readonly denial: Denial } | undefined,
): AuditDraft => {
  const { application, subject, credential_type, trace_id } = facts;
  const { denial, step } = refused ?? {};
  const about = subject === undefined ? {} : { jti: subject.jti, use: subject.use, issued_to: subject.client_id };
  return {
    zone_id: facts.request.zone_id,
    event_type,
    request_id: facts.request_id,
    decision: denial === undefined ? "allow" : "deny",
    client_id: application.id,
    subject: subject?.sub ?? null,
    session_id: subject?.sid ?? null,
    metadata_json: JSON.stringify({
      ...(denial === undefined ? {} : { reason: denial.reason, step, detail: denial.detail }),
      ...about,
      credential_type,
      trace_id,
    }),
    ...(denial === undefined ? {} : { reason: denial.reason }),
  };
};
