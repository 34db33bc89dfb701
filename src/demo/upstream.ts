import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { createRemoteJWKSet, jwtVerify, type JWTPayload } from "jose";
import { LRUCache } from "lru-cache";
import * as v from "valibot";

/**
 * An MCP server (Streamable HTTP, protocol 2025-06-18) as a reader would write one behind Caracal: it trusts nothing but
 * the mandate. Small on purpose; it has three tools and no sessions.
 */

const PROTOCOL_VERSIONS = ["2025-06-18", "2025-03-26", "2024-11-05"];
const MAX_BODY_BYTES = 256 * 1024;
const MAX_TICKS = 3_600;
const TICK_MS = 250;

const RpcSchema = v.object({
  jsonrpc: v.literal("2.0"),
  id: v.optional(v.union([v.string(), v.number()])),
  method: v.string(),
  params: v.optional(v.record(v.string(), v.unknown())),
});
type Rpc = v.InferOutput<typeof RpcSchema>;

const TOOLS = [
  {
    name: "whoami",
    description:
      "Tells what the mandate of this call says: who acts, for which resource, with which scopes, until when.",
    inputSchema: { type: "object", properties: {}, additionalProperties: false },
  },
  {
    name: "echo",
    description: "Answers with the text that it was given.",
    inputSchema: {
      type: "object",
      properties: { text: { type: "string" } },
      required: ["text"],
      additionalProperties: false,
    },
  },
  {
    name: "ticks",
    description: "Counts four times a second over a stream, until `count` (or until the stream is cut off).",
    inputSchema: {
      type: "object",
      properties: { count: { type: "integer", minimum: 1, maximum: MAX_TICKS } },
      additionalProperties: false,
    },
  },
] as const;

export type DemoUpstream = { readonly url: string; close(): Promise<void> };

export type DemoUpstreamOptions = {
  /** Where the zone's public keys are. */
  readonly jwks_url: string;
  /** `iss` of the zone, and the resources that this server is. */
  readonly issuer: string;
  readonly audiences: readonly string[];
  /** 0: any free one. */
  readonly port: number;
};

class Refused extends Error {}

const readBody = async (request: IncomingMessage): Promise<string> => {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.byteLength;
    if (size > MAX_BODY_BYTES) throw new Refused("the body is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
};

const answer = (
  response: ServerResponse,
  status: number,
  body: object | undefined,
  headers: Record<string, string> = {},
): void => {
  if (body === undefined) {
    response.writeHead(status, headers).end();
    return;
  }
  response.writeHead(status, { ...headers, "content-type": "application/json" }).end(JSON.stringify(body));
};

const text = (id: Rpc["id"], value: string): object => ({
  jsonrpc: "2.0",
  id,
  result: { content: [{ type: "text", text: value }] },
});

/** Starts the server on loopback. */
export const startDemoUpstream = async (options: DemoUpstreamOptions): Promise<DemoUpstream> => {
  const jwks = createRemoteJWKSet(new URL(options.jwks_url), { cooldownDuration: 1_000 });
  const used = new LRUCache<string, true>({ max: 100_000, ttl: 1_000_000 });

  /** What any upstream must check: signature, issuer, audience, type, and that this mandate was not used before. */
  const verify = async (request: IncomingMessage): Promise<JWTPayload> => {
    const [, token] = /^Bearer (\S+)$/.exec(request.headers.authorization ?? "") ?? [];
    if (token === undefined) throw new Refused("there is no mandate");
    const { payload } = await jwtVerify(token, jwks, {
      algorithms: ["ES256"],
      typ: "at+jwt",
      issuer: options.issuer,
      audience: [...options.audiences],
      requiredClaims: ["jti", "exp", "sub"],
    });
    if (payload["use"] !== "per_call" || payload.jti === undefined)
      throw new Refused("this token is no per-call mandate");
    if (used.has(payload.jti)) throw new Refused("this mandate was used before");
    used.set(payload.jti, true);
    return payload;
  };

  const stream = (rpc: Rpc, count: number, response: ServerResponse): void => {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    let tick = 0;
    const timer = setInterval(() => {
      tick += 1;
      if (tick < count) {
        const note = {
          jsonrpc: "2.0",
          method: "notifications/message",
          params: { level: "info", data: `tick ${tick}` },
        };
        response.write(`event: message\ndata: ${JSON.stringify(note)}\n\n`);
        return;
      }
      clearInterval(timer);
      response.end(`event: message\ndata: ${JSON.stringify(text(rpc.id, `${count} ticks`))}\n\n`);
    }, TICK_MS);
    response.once("close", () => clearInterval(timer));
  };

  const call = (rpc: Rpc, mandate: JWTPayload, response: ServerResponse): void => {
    const given = v.safeParse(
      v.object({ name: v.string(), arguments: v.optional(v.record(v.string(), v.unknown()), {}) }),
      rpc.params,
    );
    const name = given.success ? given.output.name : "";
    const args = given.success ? given.output.arguments : {};
    if (name === "whoami") {
      const { sub, aud, scope, exp, sid, jti } = mandate;
      answer(
        response,
        200,
        text(rpc.id, JSON.stringify({ sub, client_id: mandate["client_id"], aud, scope, sid, jti, exp })),
      );
    } else if (name === "echo" && typeof args["text"] === "string") {
      answer(response, 200, text(rpc.id, args["text"]));
    } else if (name === "ticks") {
      const count = args["count"] ?? 20;
      if (typeof count === "number" && Number.isInteger(count) && count >= 1 && count <= MAX_TICKS)
        stream(rpc, count, response);
      else
        answer(response, 200, {
          jsonrpc: "2.0",
          id: rpc.id,
          error: { code: -32602, message: `count: a whole number from 1 to ${MAX_TICKS}` },
        });
    } else {
      answer(response, 200, {
        jsonrpc: "2.0",
        id: rpc.id,
        error: { code: -32602, message: "no such tool, or not its arguments" },
      });
    }
  };

  const METHODS: Readonly<Record<string, (rpc: Rpc, mandate: JWTPayload, response: ServerResponse) => void>> = {
    initialize: (rpc, _mandate, response) => {
      const wanted = rpc.params?.["protocolVersion"];
      const protocolVersion =
        typeof wanted === "string" && PROTOCOL_VERSIONS.includes(wanted) ? wanted : PROTOCOL_VERSIONS[0];
      const result = {
        protocolVersion,
        capabilities: { tools: {}, logging: {} },
        serverInfo: { name: "caracal-demo", version: "1" },
      };
      answer(response, 200, { jsonrpc: "2.0", id: rpc.id, result });
    },
    ping: (rpc, _mandate, response) => answer(response, 200, { jsonrpc: "2.0", id: rpc.id, result: {} }),
    "tools/list": (rpc, _mandate, response) =>
      answer(response, 200, { jsonrpc: "2.0", id: rpc.id, result: { tools: TOOLS } }),
    "tools/call": call,
  };

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    let mandate: JWTPayload;
    try {
      mandate = await verify(request);
    } catch (error) {
      const message = error instanceof Error ? error.message : "the mandate is not valid";
      answer(
        response,
        401,
        { error: "invalid_token", message },
        { "www-authenticate": 'Bearer error="invalid_token"' },
      );
      return;
    }
    if (request.method !== "POST") {
      answer(response, 405, { error: "method_not_allowed", message: "POST a JSON-RPC message." }, { allow: "POST" });
      return;
    }
    let parsed: unknown;
    try {
      parsed = JSON.parse(await readBody(request));
    } catch {
      answer(response, 400, { jsonrpc: "2.0", id: null, error: { code: -32700, message: "the body is not JSON" } });
      return;
    }
    const rpc = v.safeParse(RpcSchema, parsed);
    if (!rpc.success) {
      answer(response, 400, {
        jsonrpc: "2.0",
        id: null,
        error: { code: -32600, message: "the body is not a JSON-RPC 2.0 request" },
      });
    } else if (rpc.output.id === undefined) {
      answer(response, 202, undefined); // a notification
    } else {
      const method = Object.hasOwn(METHODS, rpc.output.method) ? METHODS[rpc.output.method] : undefined;
      if (method === undefined)
        answer(response, 200, {
          jsonrpc: "2.0",
          id: rpc.output.id,
          error: { code: -32601, message: "no such method" },
        });
      else method(rpc.output, mandate, response);
    }
  };

  const server: Server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: "127.0.0.1", port: options.port }, () => resolve());
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
};
