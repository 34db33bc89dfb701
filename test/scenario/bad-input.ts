import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { openRaw, type RawAnswer, rawRequest, requestText } from "../support/raw-http.ts";
import { ambientToken, callGateway } from "./agent.ts";
import { newAgent, type TestApplication, type TestResource, type Topology } from "./topology.ts";

/** What a stack trace, a driver's words or a path of ours would look like in an answer. */
const LEAKS =
  /\n\s+at |node:internal|node_modules|\.[jt]s:\d+|postgres|ioredis|ECONN|syntax error at|SELECT |violates/i;

const checkError = (name: string, answer: RawAnswer | undefined, statuses: readonly number[]): void => {
  assert.ok(answer !== undefined, `${name}: there is an answer`);
  const shown = `${name}: ${answer.status} ${answer.body}`;
  assert.ok(statuses.includes(answer.status), shown);
  assert.match(answer.headers["content-type"] ?? "", /^application\/json/, shown);
  assert.ok(answer.complete, `${name}: the answer is whole`);
  assert.doesNotMatch(answer.body, LEAKS, shown);
  const body = JSON.parse(answer.body) as Record<string, unknown>;
  assert.equal(typeof body["error"], "string", shown);
  assert.equal(typeof body["requestId"], "string", shown);
  assert.ok(typeof body["message"] === "string" || typeof body["error_description"] === "string", shown);
};

const b64 = (value: object | string): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

/** A token put together anew: changed parts under the old signature. */
const forge = (token: string, change: { header?: object; payload?: object; signature?: string }): string => {
  const [header = "", payload = "", signature = ""] = token.split(".");
  const merge = (part: string, changed: object | undefined): string =>
    changed === undefined
      ? part
      : b64({ ...(JSON.parse(Buffer.from(part, "base64url").toString()) as object), ...changed });
  return `${merge(header, change.header)}.${merge(payload, change.payload)}.${change.signature ?? signature}`;
};

/** The Gateway's default. */
const MAX_REQUEST_BYTES = 10 * 1024 * 1024;
const CHUNK_BYTES = 0x10000;

type Case = { readonly name: string; readonly bytes: string | Buffer; readonly statuses: readonly number[] };

const everyPort = (t: Topology): readonly (readonly [string, string])[] => [
  ...t.gateway_urls.map((url) => ["gateway", url] as const),
  ...t.sts_urls.map((url) => ["sts", url] as const),
  ["api", t.api_url],
  ["coordinator", t.coordinator_url],
  ["audit", t.audit_url],
];

const malformedHttp = (host: string): readonly Case[] => [
  { name: "no HTTP", bytes: "hello\r\n\r\n", statuses: [400] },
  {
    name: "TLS to a plain port",
    bytes: Buffer.from([0x16, 0x03, 0x01, 0x00, 0x10, 0x01, 0x00, 0x00, 0x0c, 0x0d, 0x0a]),
    statuses: [400],
  },
  { name: "an impossible version", bytes: `GET / HTTP/9.9\r\nHost: ${host}\r\n\r\n`, statuses: [400, 505] },
  { name: "no Host", bytes: "GET /nothing HTTP/1.1\r\n\r\n", statuses: [400] },
  { name: "two Hosts", bytes: `GET /nothing HTTP/1.1\r\nHost: ${host}\r\nHost: other\r\n\r\n`, statuses: [400] },
  {
    name: "a header with a space in its name",
    bytes: `GET / HTTP/1.1\r\nHost: ${host}\r\nX Y: z\r\n\r\n`,
    statuses: [400],
  },
  { name: "a folded header", bytes: `GET / HTTP/1.1\r\nHost: ${host}\r\nX-Y: a\r\n b\r\n\r\n`, statuses: [400] },
  {
    name: "both Content-Length and Transfer-Encoding",
    bytes: `POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    statuses: [400],
  },
  {
    name: "two lengths",
    bytes: `POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd`,
    statuses: [400],
  },
  {
    name: "a length that is no number",
    bytes: `POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: -1\r\n\r\n`,
    statuses: [400],
  },
  {
    name: "a bad chunk",
    bytes: `POST /v1/x HTTP/1.1\r\nHost: ${host}\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n`,
    statuses: [400, 401, 404],
  },
  {
    name: "headers too large",
    bytes: `GET / HTTP/1.1\r\nHost: ${host}\r\nX-Big: ${"a".repeat(64 * 1024)}\r\n\r\n`,
    statuses: [431],
  },
  { name: "an unknown path", bytes: requestText("GET", "/no/such/path", { Host: host }), statuses: [400, 401, 404] },
  {
    name: "a page of the server's with POST",
    bytes: requestText("POST", "/ready", { Host: host }, ""),
    statuses: [405],
  },
  { name: "TRACE", bytes: requestText("TRACE", "/", { Host: host }), statuses: [400, 401, 404, 405] },
];

type GatewayCase = {
  readonly name: string;
  readonly status: number;
  readonly error: string;
  readonly target?: string;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
};

const gatewayCases = (token: string, resource: TestResource): readonly GatewayCase[] => {
  const bearer = { Authorization: `Bearer ${token}` };
  const named = { "X-Caracal-Resource": resource.identifier };
  const forged = (change: Parameters<typeof forge>[1]): Record<string, string> => ({
    Authorization: `Bearer ${forge(token, change)}`,
  });
  const [, , signature = ""] = token.split(".");
  const other = signature.startsWith("A") ? `B${signature.slice(1)}` : `A${signature.slice(1)}`;
  const invalid = { status: 401, error: "InvalidToken" } as const;
  const request = { status: 400, error: "InvalidRequest" } as const;
  return [
    { name: "no token", ...invalid, headers: named },
    { name: "another scheme", ...invalid, headers: { ...named, Authorization: "Basic YTpi" } },
    { name: "two tokens", ...invalid, headers: { ...named, Authorization: [`Bearer ${token}`, `Bearer ${token}`] } },
    { name: "an empty token", ...invalid, headers: { ...named, Authorization: "Bearer " } },
    { name: "no JWT", ...invalid, headers: { ...named, Authorization: "Bearer abc" } },
    { name: "two dots and nothing", ...invalid, headers: { ...named, Authorization: "Bearer .." } },
    { name: "too long a token", ...invalid, headers: { ...named, Authorization: `Bearer ${"a".repeat(5000)}.a.a` } },
    { name: "alg none", ...invalid, headers: { ...named, ...forged({ header: { alg: "none" }, signature: "" }) } },
    { name: "alg HS256", ...invalid, headers: { ...named, ...forged({ header: { alg: "HS256" } }) } },
    {
      name: "a key of the caller's own",
      ...invalid,
      headers: { ...named, ...forged({ header: { jku: "http://127.0.0.1/" } }) },
    },
    { name: "an unknown kid", ...invalid, headers: { ...named, ...forged({ header: { kid: "../../etc/passwd" } }) } },
    { name: "a changed claim", ...invalid, headers: { ...named, ...forged({ payload: { client_id: "someone" } }) } },
    {
      name: "another zone",
      ...invalid,
      headers: { ...named, ...forged({ payload: { zone_id: "0195f2b0-0000-7000-8000-000000000000" } }) },
    },
    { name: "another signature", ...invalid, headers: { ...named, ...forged({ signature: other }) } },
    {
      name: "a token at its end",
      status: 401,
      error: "CredentialExpired",
      headers: { ...named, ...forged({ payload: { exp: Math.floor(Date.now() / 1000) + 20 } }) },
    },
    {
      name: "two resources",
      ...request,
      headers: { ...bearer, "X-Caracal-Resource": [resource.identifier, resource.identifier] },
    },
    {
      name: "an identity of the caller's own",
      ...request,
      headers: { ...bearer, ...named, "X-Caracal-Client-ID": "me" },
    },
    {
      name: "an agent session of nobody",
      status: 403,
      error: "AccessDenied",
      headers: { ...bearer, ...named, "X-Caracal-Agent-Session": "x" },
    },
    { name: "two agent sessions", ...request, headers: { ...bearer, ...named, "X-Caracal-Agent-Session": ["x", "x"] } },
    { name: "a way up", ...request, target: "/hop/../../m0/hop", headers: { ...bearer, ...named } },
    { name: "an encoded way up", ...request, target: "/hop/%2e%2e/hop", headers: { ...bearer, ...named } },
    { name: "a way up encoded twice", ...request, target: "/hop/%252e%252e/hop", headers: { ...bearer, ...named } },
    { name: "a way up by a backslash", ...request, target: "/hop/..%5chop", headers: { ...bearer, ...named } },
    {
      name: "a resource that nobody has",
      status: 403,
      error: "AccessDenied",
      headers: { ...bearer, "X-Caracal-Resource": "resource://nobody" },
    },
    {
      name: "a body too large",
      status: 413,
      error: "RequestTooLarge",
      headers: { ...bearer, ...named, "Content-Length": "10485761" },
    },
  ];
};

type FormCase = {
  readonly name: string;
  readonly statuses: readonly number[];
  readonly error: string;
  readonly body: string;
  readonly type?: string;
};

const formCases = (t: Topology, application: TestApplication, resource: TestResource): readonly FormCase[] => {
  const client = `zone_id=${t.zone.id}&client_id=${application.id}&client_secret=${application.secret}`;
  const ask = `grant_type=client_credentials&${client}`;
  const invalid = { statuses: [400], error: "invalid_request" } as const;
  return [
    { name: "nothing", ...invalid, body: "" },
    { name: "no zone", ...invalid, body: `grant_type=client_credentials&client_id=${application.id}&client_secret=x` },
    { name: "JSON", statuses: [400, 415], error: "invalid_request", body: "{}", type: "application/json" },
    { name: "bad percent-encoding", ...invalid, body: `${ask}&scope=%zz` },
    { name: "bytes that are no UTF-8", ...invalid, body: `${ask}&scope=%ff%fe` },
    { name: "a repeated field", ...invalid, body: `${ask}&grant_type=client_credentials` },
    { name: "a repeated secret", ...invalid, body: `${ask}&client_secret=x` },
    {
      name: "an unknown grant",
      statuses: [400],
      error: "unsupported_grant_type",
      body: `grant_type=password&${client}`,
    },
    {
      name: "a wrong secret",
      statuses: [401],
      error: "invalid_client",
      body: ask.replace(application.secret, "wrong"),
    },
    {
      name: "an unknown client",
      statuses: [401],
      error: "invalid_client",
      body: ask.replace(application.id, t.zone.id),
    },
    { name: "an unknown zone", statuses: [401], error: "invalid_client", body: ask.replace(t.zone.id, application.id) },
    {
      name: "a zone of odd letters",
      statuses: [400, 401],
      error: "invalid_",
      body: ask.replace(t.zone.id, "%00%27%3B--"),
    },
    ...["1e309", "-1", "0", "1.5", "0x10", "3601", "9999999999999999999999", "NaN", " 60"].map((ttl): FormCase => ({
      name: `ttl_seconds ${ttl}`,
      ...invalid,
      body: `${ask}&ttl_seconds=${encodeURIComponent(ttl)}`,
    })),
    {
      name: "a resource that nobody has",
      statuses: [400],
      error: "invalid_target",
      body: `${ask}&resource=resource%3A%2F%2Fnobody`,
    },
    {
      name: "a scope that nobody has",
      statuses: [400],
      error: "invalid_scope",
      body: `${ask}&scope=root&resource=${encodeURIComponent(resource.identifier)}`,
    },
    {
      name: "seventeen resources",
      statuses: [400],
      error: "invalid_target",
      body: `${ask}${"&resource=resource%3A%2F%2Fx".repeat(17)}`,
    },
    {
      name: "a subject token that is none",
      ...invalid,
      body: `grant_type=${encodeURIComponent("urn:ietf:params:oauth:grant-type:token-exchange")}&${client}&subject_token=abc&subject_token_type=${encodeURIComponent("urn:ietf:params:oauth:token-type:access_token")}&resource=${encodeURIComponent(resource.identifier)}`,
    },
    ...["actor_token", "challenge_id", "challenge_response"].map((field): FormCase => ({
      name: field,
      ...invalid,
      body: `${ask}&${field}=x`,
    })),
    ...["agent_session_id", "delegation_edge_id"].map((field): FormCase => ({
      name: field,
      statuses: [403],
      error: "access_denied",
      body: `${ask}&${field}=x`,
    })),
    {
      name: "too large a form",
      statuses: [400, 413],
      error: "invalid_request",
      body: `${ask}&scope=${"a".repeat(65 * 1024)}`,
    },
  ];
};

type ApiCase = {
  readonly name: string;
  readonly statuses: readonly number[];
  readonly method: string;
  readonly path: string;
  readonly body?: string;
  readonly type?: string;
  readonly token?: string;
};

const apiCases = (zone_id: string): readonly ApiCase[] => {
  const zone = `/v1/zones/${zone_id}`;
  const unknown = "0195f2b0-0000-7000-8000-000000000000";
  return [
    { name: "no token", statuses: [401], method: "GET", path: zone, token: "" },
    { name: "a wrong token", statuses: [401], method: "GET", path: zone, token: "Bearer wrong" },
    {
      name: "the bootstrap without its token",
      statuses: [401],
      method: "POST",
      path: "/v1/bootstrap",
      body: '{"slug":"x","name":"x"}',
    },
    { name: "malformed JSON", statuses: [400], method: "POST", path: `${zone}/applications`, body: "{" },
    {
      name: "no JSON at all",
      statuses: [400, 415],
      method: "POST",
      path: `${zone}/applications`,
      body: "name=x",
      type: "text/plain",
    },
    { name: "a list", statuses: [400], method: "POST", path: `${zone}/applications`, body: "[]" },
    {
      name: "an unknown field",
      statuses: [400],
      method: "POST",
      path: `${zone}/applications`,
      body: '{"name":"x","provider_id":"y"}',
    },
    {
      name: "a name of the wrong type",
      statuses: [400],
      method: "POST",
      path: `${zone}/applications`,
      body: '{"name":7}',
    },
    {
      name: "NUL in a name",
      statuses: [400],
      method: "POST",
      path: `${zone}/applications`,
      body: '{"name":"a\\u0000b"}',
    },
    {
      name: "half a surrogate pair",
      statuses: [400],
      method: "POST",
      path: `${zone}/applications`,
      body: '{"name":"\\ud800"}',
    },
    {
      name: "an absurd number",
      statuses: [400],
      method: "POST",
      path: `${zone}/applications`,
      body: '{"name":"x","rate_limit_per_minute":1e400}',
    },
    {
      name: "__proto__",
      statuses: [400],
      method: "POST",
      path: `${zone}/applications`,
      body: '{"name":"x","__proto__":{"kind":"public"}}',
    },
    {
      name: "a deep body",
      statuses: [400],
      method: "POST",
      path: `${zone}/applications`,
      body: `{"name":${"[".repeat(50_000)}${"]".repeat(50_000)}}`,
    },
    { name: "a zone that does not exist", statuses: [403, 404], method: "GET", path: `/v1/zones/${unknown}` },
    { name: "an id that is none", statuses: [400, 404], method: "GET", path: `${zone}/applications/%27%3B--` },
    { name: "a bad cursor", statuses: [400], method: "GET", path: `${zone}/applications?cursor=%00` },
    { name: "a bad limit", statuses: [400], method: "GET", path: `${zone}/applications?limit=1e9` },
    { name: "an unknown parameter", statuses: [400], method: "GET", path: `${zone}/applications?order=name` },
    {
      name: "a method that nobody knows",
      statuses: [404, 405],
      method: "PUT",
      path: `${zone}/applications`,
      body: "{}",
    },
    {
      name: "an upstream of another scheme",
      statuses: [400],
      method: "POST",
      path: `${zone}/resources`,
      body: '{"identifier":"resource://a","name":"a","upstream_url":"file:///etc/passwd"}',
    },
    {
      name: "too large a body",
      statuses: [413],
      method: "POST",
      path: `${zone}/applications`,
      body: `{"name":"${"a".repeat(1024 * 1024 + 1)}"}`,
    },
  ];
};

/** From outside, at every port: a clear 4xx in JSON or a close; never a 5xx, a stack or a hang; and it goes on serving. */
export const badInput = (topology: () => Topology): void => {
  describe("bad input", () => {
    it("in HTTP itself gets a 4xx in JSON at every port, and the port goes on serving", async () => {
      const t = topology();
      for (const [role, url] of everyPort(t)) {
        for (const one of malformedHttp(new URL(url).host)) {
          checkError(`${role}: ${one.name}`, await rawRequest(url, one.bytes, { timeout_ms: 5_000 }), one.statuses);
        }
        const health = await fetch(`${url}/health`);
        assert.equal(health.status, 200, role);
      }
    });

    it("at the Gateway is refused by the check that it fails, and nothing of it goes on", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const url = t.gateway_urls[0] ?? "";
      const Host = new URL(url).host;
      for (const one of gatewayCases(ambient.token, resource)) {
        const answer = await rawRequest(url, requestText("GET", one.target ?? "/hop", { Host, ...one.headers }), {
          timeout_ms: 5_000,
        });
        checkError(one.name, answer, [one.status]);
        assert.equal(
          (JSON.parse(answer?.body ?? "{}") as { error?: string }).error,
          one.error,
          `${one.name}: ${answer?.body}`,
        );
        if (one.status === 401) assert.match(answer?.headers["www-authenticate"] ?? "", /^Bearer/, one.name);
        assert.ok(!answer?.body.includes(ambient.token), "the token is not sent back");
      }
      assert.deepEqual(t.hop.calls(resource.identifier), []);
      assert.equal((await callGateway(t, ambient.token, resource)).status, 200, "what is right still passes");
    });

    it("too long in a chunked body never reaches the upstream as a whole request", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const url = t.gateway_urls[0] ?? "";
      const chunk = `10000\r\n${"a".repeat(CHUNK_BYTES)}\r\n`;
      const send = async (chunks: number): Promise<RawAnswer | undefined> => {
        const connection = await openRaw(url);
        try {
          const headers = {
            Host: new URL(url).host,
            Authorization: `Bearer ${ambient.token}`,
            "X-Caracal-Resource": resource.identifier,
            "Transfer-Encoding": "chunked",
          };
          connection.write(requestText("POST", "/hop", headers));
          for (let sent = 0; sent < chunks; sent += 1) connection.write(chunk);
          connection.write("0\r\n\r\n");
          return await connection.answer(10_000);
        } finally {
          connection.destroy();
        }
      };
      const within_limit = await send(MAX_REQUEST_BYTES / CHUNK_BYTES);
      assert.equal(within_limit?.status, 200, within_limit?.body);
      assert.equal((JSON.parse(within_limit?.body ?? "{}") as { bytes?: number }).bytes, MAX_REQUEST_BYTES);
      const beyond = await send(MAX_REQUEST_BYTES / CHUNK_BYTES + 1);
      assert.ok(beyond === undefined || beyond.status === 413, `${beyond?.status}: ${beyond?.body}`);
      const [, cut] = t.hop.calls(resource.identifier);
      assert.equal(cut?.body.whole ?? false, false, "the upstream saw no end of it");
    });

    it("in a form of the token endpoint gets the error that OAuth has for it", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const url = t.sts_urls[0] ?? "";
      for (const one of formCases(t, application, resource)) {
        const headers = { Host: new URL(url).host, "Content-Type": one.type ?? "application/x-www-form-urlencoded" };
        const answer = await rawRequest(url, requestText("POST", "/oauth/2/token", headers, one.body), {
          timeout_ms: 5_000,
        });
        checkError(one.name, answer, one.statuses);
        const { error } = JSON.parse(answer?.body ?? "{}") as { error: string };
        assert.ok(
          error === one.error || (one.error.endsWith("_") && error.startsWith(one.error)),
          `${one.name}: ${answer?.body}`,
        );
        assert.ok(!answer?.body.includes(application.secret), "the secret is not sent back");
      }
      for (const query of ["", "?zone_id=", "?zone_id=a&zone_id=b", "?zone_id=%00"]) {
        const answer = await rawRequest(
          url,
          requestText("GET", `/.well-known/jwks.json${query}`, { Host: new URL(url).host }),
        );
        checkError(`jwks${query}`, answer, [400, 404]);
      }
    });

    it("at the control plane names the field, or the page", async () => {
      const t = topology();
      for (const one of apiCases(t.zone.id)) {
        const token = one.token ?? `Bearer ${t.zone.admin_token}`;
        const headers = {
          Host: new URL(t.api_url).host,
          ...(token === "" ? {} : { Authorization: token }),
          ...(one.body === undefined ? {} : { "Content-Type": one.type ?? "application/json" }),
        };
        const answer = await rawRequest(t.api_url, requestText(one.method, one.path, headers, one.body), {
          timeout_ms: 5_000,
        });
        checkError(one.name, answer, one.statuses);
      }
    });

    it("from a client that says nothing more is closed, not waited for", async () => {
      const t = topology();
      const connections = await Promise.all(everyPort(t).map(([, url]) => openRaw(url)));
      try {
        for (const connection of connections) connection.write("GET /health HT");
        for (const connection of connections) connection.end();
        await Promise.all(connections.map((connection) => connection.closed(5_000)));
      } finally {
        for (const connection of connections) connection.destroy();
      }
    });
  });
};
