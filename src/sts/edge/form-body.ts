import type { IncomingMessage } from "node:http";
import { MAX_FORM_BYTES } from "../../contracts/sts.ts";
import { type BodyFault, type ContentFault, contentFault, readBody } from "../../http/body.ts";
import { type Form, parseForm } from "./form.ts";
import type { RequestFault } from "./request.ts";

const badRequest = (reason: string, description: string, status: 400 | 408 | 413 = 400): RequestFault => ({
  status,
  error: "invalid_request",
  reason,
  description,
});

const FORM_FAULTS = {
  content_type: badRequest("content_type", "Send the fields as application/x-www-form-urlencoded in UTF-8."),
  content_encoding: badRequest("content_encoding", "Send the form without a content encoding."),
  too_large: badRequest("form_too_large", `The form has more than ${MAX_FORM_BYTES} bytes.`, 413),
  too_slow: badRequest("form_too_slow", "The form took too long to arrive.", 408),
  broken_off: badRequest("form_broken_off", "The form broke off."),
} as const satisfies Record<ContentFault | BodyFault, RequestFault>;

/** The bytes of a form, whole: 64 KiB and 10 s at most. */
export const readFormBytes = async (request: IncomingMessage): Promise<Buffer | RequestFault> => {
  const content = contentFault(request, "application/x-www-form-urlencoded");
  if (content !== undefined) return FORM_FAULTS[content];
  // RFC 6749, 2.3.1: never in the URI, which goes into the logs of everybody on the way.
  if (request.url?.includes("?") === true)
    return badRequest("query_not_allowed", "Send the fields in the body, not in the query.");
  const body = await readBody(request, MAX_FORM_BYTES);
  return typeof body === "string" ? FORM_FAULTS[body] : body;
};

/** Those bytes as fields. */
export const readFields = (body: Uint8Array): Form | RequestFault => {
  const form = parseForm(body);
  return "field" in form ? badRequest("form_malformed", `${form.field} ${form.message}.`) : form;
};

/** RFC 6749, 5.1: neither a token, nor what is said of one, nor a refusal is for a cache. */
export const formHeaders = (refused?: {
  readonly status: number;
  readonly retry_after_s?: number | undefined;
}): Record<string, string> => {
  const headers: Record<string, string> = { "cache-control": "no-store", pragma: "no-cache" };
  if (refused?.status === 401) headers["www-authenticate"] = 'Basic realm="caracal", charset="UTF-8"';
  if (refused?.retry_after_s !== undefined) headers["retry-after"] = String(refused.retry_after_s);
  return headers;
};
