import type { IncomingMessage, ServerResponse } from "node:http";
import { getRequestListener, type HttpBindings, RequestError } from "@hono/node-server";
import { RESPONSE_ALREADY_SENT } from "@hono/node-server/utils/response";
import { type Context, Hono } from "hono";
import {
  BINDINGS_PATH,
  EXCHANGES_PATH,
  JWKS_PATH,
  MAX_FORM_BYTES,
  REVOCATIONS_PATH,
  TOKEN_PATH,
} from "../../contracts/sts.ts";
import { MAX_EXCHANGES_BYTES, readBatch, type TokenAnswer } from "../../contracts/exchange.ts";
import { contentSha256 } from "../../domain/gateway-signature.ts";
import type { Keyring } from "../../domain/keyring.ts";
import { parseJson } from "../../http/json.ts";
import { problemBody, problemHeaders, sendProblem, toProblem } from "../../http/problem.ts";
import { requestIdOf } from "../../http/request-id.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Log } from "../../kernel/log.ts";
import { Problem } from "../../kernel/problem.ts";
import type { BindingsQuery } from "../../ports/sts.ts";
import { createAnswerLines } from "./answer-lines.ts";
import { parseForm } from "./form.ts";
import { type CallNonce, callNonce, type GatewayNonces, readGatewaySignature, saidSha256 } from "./gateway-calls.ts";
import type { PublicState } from "./public-state.ts";
import { type BodyFault, readBody } from "./read-body.ts";
import { type Caller, readTokenRequest, type RequestFault, requestOfGateway } from "./request.ts";
import type { TokenEndpoint } from "./token-endpoint.ts";

export type RouteOptions = {
  readonly tokens: TokenEndpoint;
  readonly state: PublicState;
  readonly gateway_ring: Keyring | undefined;
  readonly nonces: GatewayNonces;
  readonly addressOf: (request: IncomingMessage) => string;
  /** A call that nobody of ours made. */
  readonly onUnauthenticated: (reason: string) => void;
  readonly clock: Clock;
  readonly log: Log;
};

type Env = { readonly Bindings: HttpBindings };
type Call = { readonly request: IncomingMessage; readonly request_id: string };

const SHA256_OF_NOTHING = contentSha256(new Uint8Array());
const JSON_TYPE = "application/json; charset=utf-8";
/** RFC 6749, 5.1: neither a token nor a refusal is for a cache. */
const NO_STORE = { "cache-control": "no-store", pragma: "no-cache" } as const;
const FORM = /^application\/x-www-form-urlencoded\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?$/i;
const IS_JSON = /^application\/json\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?$/i;
const TRACEPARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/;

const traceIdOf = (header: string | string[] | undefined): string | undefined =>
  typeof header === "string" ? TRACEPARENT.exec(header)?.[1] : undefined;

/** Every header of that name: node keeps only the first of some, and two are a way to be read differently by two. */
const headersNamed = (request: IncomingMessage, name: string): readonly string[] => {
  const found: string[] = [];
  for (let i = 0; i + 1 < request.rawHeaders.length; i += 2) {
    if (request.rawHeaders[i]?.toLowerCase() === name) found.push(request.rawHeaders[i + 1] ?? "");
  }
  return found;
};

const badRequest = (reason: string, description: string, status: 400 | 408 | 413 = 400): RequestFault => ({
  status,
  error: "invalid_request",
  reason,
  description,
});

const BODY_FAULTS = {
  too_large: badRequest("form_too_large", `The form has more than ${MAX_FORM_BYTES} bytes.`, 413),
  too_slow: badRequest("form_too_slow", "The form took too long to arrive.", 408),
  broken_off: badRequest("form_broken_off", "The form broke off."),
} as const satisfies Record<BodyFault, RequestFault>;

const BATCH_FAULTS = {
  too_large: new Problem(413, "request_too_large", `A batch has at most ${MAX_EXCHANGES_BYTES} bytes.`),
  too_slow: new Problem(408, "request_timeout", "The batch took too long to arrive."),
  broken_off: new Problem(400, "incomplete_request", "The batch broke off."),
} as const satisfies Record<BodyFault, Problem>;

const GATEWAY_FAULT: RequestFault = {
  status: 401,
  error: "invalid_client",
  reason: "gateway_signature",
  description: "The signature of the Gateway does not verify.",
};
const CLOCK_FAULT: RequestFault = {
  ...GATEWAY_FAULT,
  reason: "gateway_clock",
  description: "The call was signed more than 60 s away from the clock of this server.",
};

const tokenHeaders = (answer: TokenAnswer): Record<string, string> => {
  if (answer.ok) return { ...NO_STORE };
  return {
    ...NO_STORE,
    ...(answer.status === 401 ? { "www-authenticate": 'Basic realm="caracal", charset="UTF-8"' } : {}),
    ...(answer.retry_after_s === undefined ? {} : { "retry-after": String(answer.retry_after_s) }),
  };
};

/** The bindings of the STS's paths. The OAuth endpoint answers in RFC 6749's shape, everything else in the general one. */
export const createRoutes = (options: RouteOptions): ((request: IncomingMessage, response: ServerResponse) => void) => {
  const { tokens, state, clock, log } = options;

  const readToken = async ({ request, request_id }: Call): Promise<TokenAnswer> => {
    const refuse = (fault: RequestFault): TokenAnswer => tokens.refuse(fault, request_id);
    const url = request.url ?? "";
    if (!FORM.test(request.headers["content-type"] ?? "")) {
      return refuse(badRequest("content_type", "Send the fields as application/x-www-form-urlencoded in UTF-8."));
    }
    if ((request.headers["content-encoding"] ?? "identity").toLowerCase() !== "identity") {
      return refuse(badRequest("content_encoding", "Send the form without a content encoding."));
    }
    // RFC 6749, 2.3.1: never in the URI, which goes into the logs of everybody on the way.
    if (url.includes("?"))
      return refuse(badRequest("query_not_allowed", "Send the fields in the body, not in the query."));
    const body = await readBody(request, MAX_FORM_BYTES);
    if (typeof body === "string") return refuse(BODY_FAULTS[body]);
    const now_ms = clock.now_ms();
    const call = { method: "POST", path: url, headers: request.headers, content_sha256: contentSha256(body) };
    const signature = readGatewaySignature(options.gateway_ring, call, now_ms);
    if (signature.signed === "badly") return refuse(signature.reason === "gateway_clock" ? CLOCK_FAULT : GATEWAY_FAULT);
    const form = parseForm(body);
    if ("field" in form) return refuse(badRequest("form_malformed", `${form.field} ${form.message}.`));
    const gateway: Caller | undefined =
      signature.signed === "well" ? { kind: "gateway", nonce: callNonce(options.nonces, signature.nonce) } : undefined;
    const address = options.addressOf(request);
    const read = readTokenRequest(form, { authorization: headersNamed(request, "authorization"), address, gateway });
    if ("status" in read) return refuse(read);
    return tokens.answer({ request: read, request_id, trace_id: traceIdOf(request.headers["traceparent"]), now_ms });
  };

  const notTheGateway = (reason: string): Problem => {
    options.onUnauthenticated(reason);
    return new Problem(401, "invalid_token", "This path is for the Gateway, whose signature does not verify.", {
      reason,
    });
  };

  /** The Gateway's other calls: its signature. Whether that was seen before is still to be asked. */
  const signedByGateway = (request: IncomingMessage, content_sha256: Uint8Array): CallNonce => {
    const call = { method: request.method ?? "", path: request.url ?? "", headers: request.headers, content_sha256 };
    const signature = readGatewaySignature(options.gateway_ring, call, clock.now_ms());
    if (signature.signed === "well") return callNonce(options.nonces, signature.nonce);
    throw notTheGateway(signature.signed === "no" ? "gateway_signature" : signature.reason);
  };

  const admitGateway = async (request: IncomingMessage): Promise<void> => {
    if ((await signedByGateway(request, SHA256_OF_NOTHING).use()) !== "new")
      throw notTheGateway("gateway_call_replayed");
  };

  /**
   * The Gateway's exchanges of one tick. Each is a request of its own to the pipeline, the ledger and the counters; they
   * share the signature, and its nonce, which the first of them that comes to the rate limit asks about for all.
   */
  const exchangeAll = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    if ((request.url ?? "").includes("?"))
      throw new Problem(400, "invalid_request", "Send the batch in the body: this path takes no query.");
    if (!IS_JSON.test(request.headers["content-type"] ?? "")) {
      throw new Problem(415, "unsupported_media_type", "Send the batch as application/json in UTF-8.");
    }
    if ((request.headers["content-encoding"] ?? "identity").toLowerCase() !== "identity") {
      throw new Problem(415, "unsupported_media_type", "Send the batch without a content encoding.");
    }
    // By the hash that comes along: whoever can't sign has nothing read, and holds no memory of ours.
    const said = saidSha256(request.headers);
    if (said === undefined) throw notTheGateway("gateway_signature");
    const nonce = signedByGateway(request, said);
    const body = await readBody(request, MAX_EXCHANGES_BYTES);
    if (typeof body === "string") throw BATCH_FAULTS[body];
    if (!contentSha256(body).equals(said)) throw notTheGateway("gateway_signature");
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
  };

  const sendExchanges = (request: IncomingMessage, response: ServerResponse): Promise<void> =>
    exchangeAll(request, response).catch((error: unknown) => {
      const request_id = requestIdOf(request.headers["x-request-id"]);
      if (!request.complete && !response.headersSent) response.setHeader("connection", "close"); // the rest is not read
      sendProblem(response, toProblem(error, log, request_id), request_id);
    });

  const oneQuery = (c: Context<Env>, name: string): string | undefined => {
    const [value, ...more] = c.req.queries(name) ?? [];
    if (more.length > 0) throw new Problem(400, "invalid_request", `${name} may be sent once only.`);
    return value;
  };

  /** One of the three ways to ask. */
  const bindingsQuery = (c: Context<Env>): BindingsQuery => {
    const [since, cursor, zone_id] = ["since", "cursor", "zone_id"].map((name) => oneQuery(c, name));
    if ([since, cursor, zone_id].filter((one) => one !== undefined).length > 1)
      throw new Problem(400, "invalid_request", "Send one of since, cursor and zone_id.");
    if (cursor !== undefined) return { cursor };
    return zone_id === undefined ? { since } : { zone_id };
  };

  const general = async (c: Context<Env>, run: (call: Call) => Promise<Response>): Promise<Response> => {
    const request = c.env.incoming;
    const request_id = requestIdOf(request.headers["x-request-id"]);
    try {
      return await run({ request, request_id });
    } catch (error) {
      const problem = toProblem(error, log, request_id);
      const headers = { ...problemHeaders(problem), "content-type": JSON_TYPE, "x-request-id": request_id };
      return new Response(JSON.stringify(problemBody(problem, request_id)), { status: problem.status, headers });
    }
  };

  const json = (body: object, headers: Readonly<Record<string, string>>): Response =>
    new Response(JSON.stringify(body), { headers: { ...headers, "content-type": JSON_TYPE } });

  const app = new Hono<Env>();

  const answerToken = async (request: IncomingMessage, response: ServerResponse, request_id: string): Promise<void> => {
    const answer = await readToken({ request, request_id });
    if (response.destroyed) return;
    const text = JSON.stringify(answer.body);
    const headers: Record<string, string | number> = tokenHeaders(answer);
    headers["content-type"] = JSON_TYPE;
    headers["content-length"] = Buffer.byteLength(text);
    headers["x-request-id"] = request_id;
    if (!request.complete) headers["connection"] = "close"; // what is left of the body is not read
    response.writeHead(answer.ok ? 200 : answer.status, headers);
    response.end(text);
  };

  const sendToken = (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const request_id = requestIdOf(request.headers["x-request-id"]);
    return answerToken(request, response, request_id).catch((error: unknown) =>
      sendProblem(response, toProblem(error, log, request_id), request_id),
    );
  };

  // However else the path was spelt: with a query (refused by name), in absolute form, with escapes.
  app.post(TOKEN_PATH, async (c) => {
    await sendToken(c.env.incoming, c.env.outgoing);
    return RESPONSE_ALREADY_SENT;
  });

  app.post(EXCHANGES_PATH, async (c) => {
    await sendExchanges(c.env.incoming, c.env.outgoing);
    return RESPONSE_ALREADY_SENT;
  });

  app.get(JWKS_PATH, (c) =>
    general(c, async () => {
      const zone_id = oneQuery(c, "zone_id");
      if (zone_id === undefined || zone_id === "") {
        throw new Problem(
          400,
          "invalid_request",
          "zone_id is missing: name the zone whose keys you want, as ?zone_id=.",
        );
      }
      const keys = await state.jwks(zone_id);
      if (keys === undefined) throw new Problem(404, "not_found", "There is no such zone, or it has no keys.");
      return json(keys, { "cache-control": "public, max-age=300, must-revalidate" });
    }),
  );

  app.get(BINDINGS_PATH, (c) =>
    general(c, async ({ request }) => {
      await admitGateway(request);
      const bindings = await state.bindings(bindingsQuery(c));
      return bindings === undefined
        ? new Response(null, { status: 304 })
        : json(bindings, { "cache-control": "no-store" });
    }),
  );

  app.get(REVOCATIONS_PATH, (c) =>
    general(c, async ({ request }) => {
      await admitGateway(request);
      return json(await state.revocations(oneQuery(c, "cursor")), { "cache-control": "no-store" });
    }),
  );

  const ALLOW = {
    [TOKEN_PATH]: "POST",
    [EXCHANGES_PATH]: "POST",
    [JWKS_PATH]: "GET, HEAD",
    [BINDINGS_PATH]: "GET",
    [REVOCATIONS_PATH]: "GET",
  };
  for (const [path, allow] of Object.entries(ALLOW)) {
    app.all(path, async (c) => {
      const answer = await general(c, async () => {
        throw new Problem(405, "method_not_allowed", `This path takes ${allow}.`);
      });
      answer.headers.set("allow", allow);
      return answer;
    });
  }
  app.notFound((c) =>
    general(c, async () => {
      throw new Problem(404, "not_found", "There is nothing at this path.");
    }),
  );
  app.onError((error, c) =>
    general(c, async () => {
      throw error;
    }),
  );

  const listener = getRequestListener(app.fetch, {
    overrideGlobalObjects: false,
    hostname: "localhost", // a client of HTTP/1.0 sends none
    errorHandler: (error) => {
      const request_id = requestIdOf(undefined);
      const problem =
        error instanceof RequestError
          ? new Problem(400, "invalid_request", "The request's target or Host header is not well-formed.")
          : toProblem(error, log, request_id);
      const headers = { ...problemHeaders(problem), "content-type": JSON_TYPE };
      return new Response(JSON.stringify(problemBody(problem, request_id)), { status: problem.status, headers });
    },
  });
  return (request, response) => {
    // The paths that every call takes: through a web Request and Response they cost three times as much.
    if (request.method === "POST" && request.url === EXCHANGES_PATH) void sendExchanges(request, response);
    else if (request.method === "POST" && request.url === TOKEN_PATH) void sendToken(request, response);
    else void listener(request, response);
  };
};
