import { MAX_EXCHANGES_BYTES, readBatch } from "../../contracts/exchange.ts";
import { contentSha256 } from "../../domain/gateway-signature.ts";
import { mustBeJson, parseJson, wholeBody } from "../../http/body.ts";
import { requestIdOf } from "../../http/request-id.ts";
import type { Route } from "../../http/router.ts";
import type { Clock } from "../../kernel/clock.ts";
import { Problem } from "../../kernel/problem.ts";
import { createAnswerLines } from "./answer-lines.ts";
import { type GatewayAdmission, saidSha256 } from "./gateway-calls.ts";
import { requestOfGateway } from "./request.ts";
import type { TokenEndpoint } from "./token-endpoint.ts";
import { traceIdOf } from "./trace.ts";

/**
 * The Gateway's exchanges of one tick. Each is a request of its own to the pipeline, the ledger and the counters; they
 * share the signature, and its nonce, which the first of them that comes to the rate limit asks about for all.
 */
export const createExchangeBatch =
  (tokens: TokenEndpoint, gateway: GatewayAdmission, clock: Clock): Route["answer"] =>
  async ({ request }, response) => {
    if ((request.url ?? "").includes("?"))
      throw new Problem(400, "invalid_request", "Send the batch in the body: this path takes no query.");
    mustBeJson(request);
    // By the hash that comes along: whoever can't sign has nothing read, and holds no memory of ours.
    const said = saidSha256(request.headers);
    if (said === undefined) throw gateway.refusal("gateway_signature");
    const nonce = gateway.signed(request, said);
    const body = await wholeBody(request, MAX_EXCHANGES_BYTES);
    if (!contentSha256(body).equals(said)) throw gateway.refusal("gateway_signature");
    const batch = readBatch(parseJson(body));
    if ("path" in batch) {
      throw new Problem(400, "invalid_body", "The batch is not what this path takes; see issues.", { issues: [batch] });
    }
    const lines = createAnswerLines(response, batch.length);
    const now_ms = clock.now_ms();
    for (const [i, exchange] of batch.entries()) {
      const request_id = requestIdOf(exchange.request_id);
      const trace_id = traceIdOf(exchange.traceparent);
      const answered = tokens.exchange({ request: requestOfGateway(exchange, nonce), request_id, trace_id, now_ms });
      void answered.then((answer) => lines.add(i, answer));
    }
    return undefined;
  };
