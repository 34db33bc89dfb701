import type { IncomingMessage } from "node:http";
import type { Arrival, Route } from "../../http/router.ts";
import { headersNamed } from "../../http/headers.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { TokenInquiry } from "../inquiry.ts";
import type { Form } from "./form.ts";
import { formHeaders, readFields, readFormBytes } from "./form-body.ts";
import type { InquiryAnswer, InquiryEndpoint } from "./inquiry-endpoint.ts";
import { type From, readCaller, readZone, type RequestFault } from "./request.ts";
import type { TokenEndpoint } from "./token-endpoint.ts";
import { traceIdOf } from "./trace.ts";

/** `token_type_hint` is a hint, and there is one type. */
const readInquiry = (form: Form, from: From): TokenInquiry | RequestFault => {
  const zone_id = readZone(form, from.zone_id);
  if (typeof zone_id === "object") return zone_id;
  const caller = readCaller(form, from);
  return "status" in caller ? caller : { zone_id, caller, subject_token: form.one("token") };
};

export type InquiryFormOptions = {
  readonly tokens: Pick<TokenEndpoint, "refuse">;
  readonly addressOf: (request: IncomingMessage) => string;
  readonly clock: Clock;
};

/** An endpoint to which a client sends a token that it asks about, or wants to end. */
export const createInquiryForm = (
  { tokens, addressOf, clock }: InquiryFormOptions,
  answerTo: InquiryEndpoint["introspect"] | InquiryEndpoint["revoke"],
): Route["answer"] => {
  const answerOf = async ({ request, request_id, params }: Arrival): Promise<InquiryAnswer<object | undefined>> => {
    const body = await readFormBytes(request);
    if (!(body instanceof Uint8Array)) return tokens.refuse(body, request_id);
    const form = readFields(body);
    if ("status" in form) return tokens.refuse(form, request_id);
    const read = readInquiry(form, {
      authorization: headersNamed(request, "authorization"),
      address: addressOf(request),
      gateway: undefined,
      zone_id: params["zone_id"],
    });
    if ("status" in read) return tokens.refuse(read, request_id);
    const trace_id = traceIdOf(request.headers["traceparent"]);
    return answerTo({ request: read, request_id, trace_id, now_ms: clock.now_ms(), presented: undefined });
  };

  return async (arrival) => {
    const answer = await answerOf(arrival);
    if (!answer.ok) return { status: answer.status, headers: formHeaders(answer), body: answer.body };
    return { status: 200, headers: formHeaders(), ...(answer.body === undefined ? {} : { body: answer.body }) };
  };
};
