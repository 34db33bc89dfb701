import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, it } from "node:test";
import { createStsHttp } from "../../src/adapters/sts-http/index.ts";
import { GATEWAY_HEADERS, isGatewayCall } from "../../src/domain/gateway-signature.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { type GatewayExchange, StsTimeout } from "../../src/ports/sts.ts";
import { Unavailable } from "../../src/ports/streams.ts";
import { eventually } from "../support/eventually.ts";

const ring = keyring(Buffer.alloc(32, 7));
const REQUEST: GatewayExchange = {
  zone_id: "z 1",
  subject_token: "a.b.c",
  resource: "resource://demo?&=",
  scope: "read write",
  method: "POST",
  path: "/x/ü",
  request_id: "r1",
  traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
};
const ANSWER = {
  access_token: "t",
  token_type: "Bearer",
  expires_in: 300,
  scope: "read",
  issued_token_type: "urn:ietf:params:oauth:token-type:access_token",
  target_resources: ["resource://demo"],
  session_id: "s",
};

describe("the STS over HTTP", () => {
  let server: Server;
  let handler: (request: IncomingMessage, response: ServerResponse, body: string) => void = () => undefined;
  let calls = 0;
  let sts: ReturnType<typeof createStsHttp>;
  before(async () => {
    server = createServer((request, response) => {
      calls += 1;
      let body = "";
      request.setEncoding("utf8");
      request.on("data", (chunk: string) => (body += chunk)).on("end", () => handler(request, response, body));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/behind/`;
    sts = createStsHttp({ url, ring, timeout_ms: 300, clock: systemClock });
  });
  after(async () => {
    await sts.close();
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  });
  const json = (response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void =>
    void response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
  const exchange = () => sts.exchange(REQUEST, new AbortController().signal);

  it("is asked with a signed form, and its answer read", async () => {
    let seen: { form: URLSearchParams; signed: boolean; headers: IncomingMessage["headers"] } | undefined;
    handler = (request, response, body) => {
      const header = (name: string): string => String(request.headers[name]);
      const call = {
        method: request.method ?? "",
        path: request.url ?? "",
        timestamp_ms: Number(header(GATEWAY_HEADERS.timestamp)),
        nonce: header(GATEWAY_HEADERS.nonce),
        body: Buffer.from(body),
      };
      seen = {
        form: new URLSearchParams(body),
        signed: isGatewayCall(ring, call, header(GATEWAY_HEADERS.signature)),
        headers: request.headers,
      };
      json(response, 200, ANSWER);
    };
    const answer = await exchange();
    assert.deepEqual(answer, { ok: true, body: ANSWER });
    assert.equal(seen?.signed, true, "over the path as it was asked for, its prefix included");
    assert.deepEqual(Object.fromEntries(seen?.form ?? []), {
      grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
      zone_id: "z 1",
      subject_token: "a.b.c",
      subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
      resource: "resource://demo?&=",
      scope: "read write",
      request_method: "POST",
      request_path: "/x/ü",
    });
    assert.equal(seen?.headers["x-request-id"], "r1");
    assert.equal(seen?.headers["traceparent"], REQUEST.traceparent);
  });

  it("says no in an answer, with its wait", async () => {
    const body = { error: "temporarily_unavailable", error_description: "d", reason: "rate_limited", requestId: "r1" };
    handler = (_request, response) => json(response, 429, body, { "retry-after": "9" });
    assert.deepEqual(await exchange(), { ok: false, status: 429, body, retry_after_s: 9 });
  });

  it("that answers something else than agreed gives no decision", async () => {
    const odd: ((response: ServerResponse) => void)[] = [
      (response) => json(response, 200, {}),
      (response) => json(response, 200, { ...ANSWER, token_type: "mac" }),
      (response) => json(response, 403, { error: "access_denied" }),
      (response) => void response.writeHead(502).end("<html>bad gateway</html>"),
      (response) => void response.writeHead(302, { location: "http://evil.test/" }).end(),
      (response) => json(response, 200, { ...ANSWER, scope: "x".repeat(300 * 1024) }),
      (response) => response.destroy(),
    ];
    for (const answer of odd) {
      const before_calls = calls;
      handler = (_request, response) => answer(response);
      await assert.rejects(exchange(), Unavailable);
      assert.equal(calls - before_calls, 1, "a call is never sent twice");
    }
  });

  it("that is silent, or slow in the middle of its answer, times out", async () => {
    handler = () => undefined;
    await assert.rejects(exchange(), StsTimeout);
    handler = (_request, response) => void response.writeHead(200, { "content-length": "1000" }).write("{");
    await assert.rejects(exchange(), StsTimeout);
  });

  it("is let go of when the caller gives up", async () => {
    let closed = false;
    handler = (_request, response) => void response.on("close", () => (closed = true));
    const abort = new AbortController();
    const before_calls = calls;
    const pending = sts.exchange(REQUEST, abort.signal);
    await eventually(() => calls > before_calls);
    abort.abort();
    await assert.rejects(pending, Unavailable);
    await eventually(() => closed);
  });

  it("gives keys without a signature, none for a zone that has none, and bindings only when they changed", async () => {
    const jwk = { kty: "EC", crv: "P-256", x: "x", y: "y", kid: "k", alg: "ES256", use: "sig" };
    const asked: { url: string; signed: boolean }[] = [];
    const note = (request: IncomingMessage): void =>
      void asked.push({ url: request.url ?? "", signed: request.headers[GATEWAY_HEADERS.signature] !== undefined });
    handler = (request, response) => (note(request), json(response, 200, { keys: [jwk] }));
    assert.deepEqual(await sts.jwks("z&1"), { keys: [jwk] });
    handler = (request, response) => (note(request), json(response, 404, {}));
    assert.equal(await sts.jwks("none"), undefined);
    handler = (request, response) => (note(request), void response.writeHead(304).end());
    assert.equal(await sts.bindings("v/1"), undefined);
    handler = (request, response) => (note(request), json(response, 200, { version: "2", zones: [] }));
    assert.deepEqual(await sts.bindings(undefined), { version: "2", zones: [] });
    handler = (request, response) => (note(request), json(response, 200, { position: "5-0", zones: [] }));
    assert.deepEqual(await sts.revocations("c=1"), { position: "5-0", zones: [] });
    handler = (request, response) => (note(request), json(response, 401, {}));
    await assert.rejects(sts.bindings(undefined), Unavailable);
    assert.deepEqual(asked.slice(0, 5), [
      { url: "/behind/.well-known/jwks.json?zone_id=z%261", signed: false },
      { url: "/behind/.well-known/jwks.json?zone_id=none", signed: false },
      { url: "/behind/internal/v1/bindings?since=v%2F1", signed: true },
      { url: "/behind/internal/v1/bindings", signed: true },
      { url: "/behind/internal/v1/revocations?cursor=c%3D1", signed: true },
    ]);
  });

  it("that is not there is unavailable", async () => {
    const nobody = createStsHttp({ url: "http://127.0.0.1:1", ring, timeout_ms: 300, clock: systemClock });
    await assert.rejects(nobody.exchange(REQUEST, new AbortController().signal), Unavailable);
    await nobody.close();
  });
});
