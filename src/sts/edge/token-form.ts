import type { IncomingMessage } from "node:http";
import type { TokenAnswer } from "../../contracts/exchange.ts";
import { MAX_FORM_BYTES } from "../../contracts/sts.ts";
import { contentSha256 } from "../../domain/gateway-signature.ts";
import type { Keyring } from "../../domain/keyring.ts";
import { type BodyFault, type ContentFault, contentFault, readBody } from "../../http/body.ts";
import { headersNamed } from "../../http/headers.ts";
import type { Route } from "../../http/router.ts";
import type { Clock } from "../../kernel/clock.ts";
import { parseForm } from "./form.ts";
import { callNonce, type GatewayNonces, readGatewaySignature } from "./gateway-calls.ts";
import { type Caller, readTokenRequest, type RequestFault } from "./request.ts";
import type { TokenEndpoint } from "./token-endpoint.ts";
import { traceIdOf } from "./trace.ts";

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

const GATEWAY_FAULTS = {
  gateway_signature: {
    status: 401,
    error: "invalid_client",
    reason: "gateway_signature",
    description: "The signature of the Gateway does not verify.",
  },
  gateway_clock: {
    status: 401,
    error: "invalid_client",
    reason: "gateway_clock",
    description: "The call was signed more than 60 s away from the clock of this server.",
  },
} as const satisfies Record<string, RequestFault>;

/** RFC 6749, 5.1: neither a token nor a refusal is for a cache. */
const headersOf = (answer: TokenAnswer): Record<string, string> => {
  const headers: Record<string, string> = { "cache-control": "no-store", pragma: "no-cache" };
  if (answer.ok) return headers;
  if (answer.status === 401) headers["www-authenticate"] = 'Basic realm="caracal", charset="UTF-8"';
  if (answer.retry_after_s !== undefined) headers["retry-after"] = String(answer.retry_after_s);
  return headers;
};

export type TokenFormOptions = {
  readonly tokens: TokenEndpoint;
  readonly gateway_ring: Keyring | undefined;
  readonly nonces: GatewayNonces;
  readonly addressOf: (request: IncomingMessage) => string;
  readonly clock: Clock;
};

/** The token endpoint: a form, of a client or signed by the Gateway, and an answer in RFC 6749's shape. */
export const createTokenForm = (options: TokenFormOptions): Route["answer"] => {
  const { tokens, clock } = options;

  const answerOf = async (request: IncomingMessage, request_id: string): Promise<TokenAnswer> => {
    const refuse = (fault: RequestFault): TokenAnswer => tokens.refuse(fault, request_id);
    const path = request.url ?? "";
    const content = contentFault(request, "application/x-www-form-urlencoded");
    if (content !== undefined) return refuse(FORM_FAULTS[content]);
    // RFC 6749, 2.3.1: never in the URI, which goes into the logs of everybody on the way.
    if (path.includes("?"))
      return refuse(badRequest("query_not_allowed", "Send the fields in the body, not in the query."));
    const body = await readBody(request, MAX_FORM_BYTES);
    if (typeof body === "string") return refuse(FORM_FAULTS[body]);
    const now_ms = clock.now_ms();
    const call = { method: "POST", path, headers: request.headers, content_sha256: contentSha256(body) };
    const signature = readGatewaySignature(options.gateway_ring, call, now_ms);
    if (signature.signed === "badly") return refuse(GATEWAY_FAULTS[signature.reason]);
    const form = parseForm(body);
    if ("field" in form) return refuse(badRequest("form_malformed", `${form.field} ${form.message}.`));
    const gateway: Caller | undefined =
      signature.signed === "well" ? { kind: "gateway", nonce: callNonce(options.nonces, signature.nonce) } : undefined;
    const address = options.addressOf(request);
    const read = readTokenRequest(form, { authorization: headersNamed(request, "authorization"), address, gateway });
    if ("status" in read) return refuse(read);
    return tokens.answer({ request: read, request_id, trace_id: traceIdOf(request.headers["traceparent"]), now_ms });
  };

  return async ({ request, request_id }) => {
    const answer = await answerOf(request, request_id);
    return { status: answer.ok ? 200 : answer.status, headers: headersOf(answer), body: answer.body };
  };
};
