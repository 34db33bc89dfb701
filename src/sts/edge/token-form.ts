import type { IncomingMessage } from "node:http";
import type { TokenAnswer } from "../../contracts/exchange.ts";
import { contentSha256 } from "../../domain/gateway-signature.ts";
import type { Keyring } from "../../domain/keyring.ts";
import { headersNamed } from "../../http/headers.ts";
import type { Arrival, Route } from "../../http/router.ts";
import type { Clock } from "../../kernel/clock.ts";
import { formHeaders, readFields, readFormBytes } from "./form-body.ts";
import { callNonce, type GatewayNonces, readGatewaySignature } from "./gateway-calls.ts";
import { type Caller, readTokenRequest, type RequestFault } from "./request.ts";
import type { TokenEndpoint } from "./token-endpoint.ts";
import { traceIdOf } from "./trace.ts";

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

export type TokenFormOptions = {
  readonly tokens: TokenEndpoint;
  readonly gateway_ring: Keyring | undefined;
  readonly nonces: GatewayNonces;
  readonly addressOf: (request: IncomingMessage) => string;
  readonly clock: Clock;
};

/** The token endpoint, or a zone's own: a form, of a client or signed by the Gateway, and an answer in RFC 6749's shape. */
export const createTokenForm = (options: TokenFormOptions): Route["answer"] => {
  const { tokens, clock } = options;

  const answerOf = async ({ request, request_id, params }: Arrival): Promise<TokenAnswer> => {
    const refuse = (fault: RequestFault): TokenAnswer => tokens.refuse(fault, request_id);
    const path = request.url ?? "";
    const body = await readFormBytes(request);
    if (!(body instanceof Uint8Array)) return refuse(body);
    const now_ms = clock.now_ms();
    const call = { method: "POST", path, headers: request.headers, content_sha256: contentSha256(body) };
    const signature = readGatewaySignature(options.gateway_ring, call, now_ms);
    if (signature.signed === "badly") return refuse(GATEWAY_FAULTS[signature.reason]);
    const form = readFields(body);
    if ("status" in form) return refuse(form);
    const gateway: Caller | undefined =
      signature.signed === "well" ? { kind: "gateway", nonce: callNonce(options.nonces, signature.nonce) } : undefined;
    const read = readTokenRequest(form, {
      authorization: headersNamed(request, "authorization"),
      address: options.addressOf(request),
      gateway,
      zone_id: params["zone_id"],
    });
    if ("status" in read) return refuse(read);
    return tokens.answer({ request: read, request_id, trace_id: traceIdOf(request.headers["traceparent"]), now_ms });
  };

  return async (arrival) => {
    const answer = await answerOf(arrival);
    return answer.ok
      ? { status: 200, headers: formHeaders(), body: answer.body }
      : { status: answer.status, headers: formHeaders(answer), body: answer.body };
  };
};
