import assert from "node:assert/strict";
import { connect } from "node:net";
import { after, before, describe, it } from "node:test";
import * as fc from "fast-check";
import { createPolicyCompiler } from "../../src/adapters/opa/compiler.ts";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { createApi } from "../../src/api/index.ts";
import { apiEndpoints, type ApiOperation } from "../../src/contracts/api.ts";
import { MAX_API_BODY_BYTES } from "../../src/contracts/api-fields.ts";
import type { Endpoint } from "../../src/contracts/endpoint.ts";
import { bindRole } from "../../src/http/server.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { createLog } from "../../src/kernel/log.ts";
import { createMetrics } from "../../src/kernel/metrics.ts";
import { type Answer, call, EGRESS, expectOk, KEK, makeZone, send, serveApi, type ServedApi } from "./serve.ts";

/** Bytes as they are on a connection of their own; resolves to all that came back until the other side closed. */
const raw = (url: string, text: string | Buffer): Promise<string> =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname, () => socket.write(text));
    const chunks: Buffer[] = [];
    socket.setTimeout(10_000, () => socket.destroy(new Error("the connection hung")));
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.on("error", reject);
    socket.on("close", () => resolve(Buffer.concat(chunks).toString()));
  });

describe("the API's edge", () => {
  let api: ServedApi;
  let zone_id: string;
  let token: string;
  before(async () => {
    api = await serveApi();
    ({ zone_id, token } = await makeZone(api));
  });
  after(() => api.close());

  const post = (body: unknown, headers: Record<string, string> = {}): Promise<Answer> =>
    send(api.url, { method: "POST", path: `/v1/zones/${zone_id}/applications`, token, body, headers });

  it("tells what is wrong with a body that is no JSON object", async () => {
    const bodies: unknown[] = [
      "{",
      "",
      "null",
      "[]",
      "5",
      '"x"',
      "{'name':'x'}",
      '{"name":"x",}',
      "\ufeff{}",
      `${"[".repeat(200_000)}`,
      '{"name":1e309,"name":{}}',
    ];
    for (const body of bodies) {
      const answer = await post(body);
      assert.equal(answer.status, 400, String(body).slice(0, 40));
      assert.equal(answer.body.error, "invalid_body");
      assert.ok((answer.body.issues?.length ?? 0) > 0);
    }
    const latin1 = await fetch(`${api.url}/v1/zones/${zone_id}/applications`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: Buffer.from('{"name":"\xe9"}', "latin1"),
    });
    assert.equal(latin1.status, 400);
    assert.match(await latin1.text(), /UTF-8/);
    assert.equal((await post('{"name":"a","rate_limit_per_minute":1e309}')).status, 400);
    assert.equal((await post('{"name":"\\ud800"}')).status, 400);
    assert.equal((await post('{"name":"a\\u0000"}')).status, 400);
    assert.equal((await post('{"name":"a","__proto__":{"kind":"public"}}')).status, 400);
  });

  it("takes JSON in UTF-8 and says so to all else", async () => {
    for (const type of [
      "text/plain",
      "application/x-www-form-urlencoded",
      "application/json; charset=utf-16",
      "application/jsonp",
      "multipart/form-data",
    ]) {
      assert.equal((await post('{"name":"a"}', { "content-type": type })).status, 415, type);
    }
    assert.equal(
      (await post('{"name":"a","kind":"public"}', { "content-type": 'application/json; charset="UTF-8"' })).status,
      201,
    );
    assert.equal((await post('{"name":"a"}', { "content-encoding": "gzip" })).status, 415);
  });

  it("stops reading a body that is too large, announced or not", async () => {
    const large = JSON.stringify({ name: "x".repeat(MAX_API_BODY_BYTES) });
    const announced = await post(large).catch((error: unknown) => error);
    assert.ok(announced instanceof Error || (announced as Answer).status === 413);
    const head = `POST /v1/zones/${zone_id}/applications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\n`;
    const chunk = `10000\r\n${" ".repeat(0x10000)}\r\n`;
    const chunked = await raw(
      api.url,
      `${head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n${chunk.repeat(20)}0\r\n\r\n`,
    );
    assert.match(chunked, /^HTTP\/1\.1 413 /);
    assert.match(chunked, /request_too_large/);
    assert.match(
      await raw(api.url, `${head}Connection: close\r\nContent-Length: 99999999999\r\n\r\n{}`),
      /^HTTP\/1\.1 413 /,
    );
  });

  it("asks who calls before it reads what they send", async () => {
    const answer = await raw(
      api.url,
      `POST /v1/zones HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{`,
    );
    assert.match(answer, /^HTTP\/1\.1 401 /);
  });

  it("takes no name in which something can't be seen, or that reads backwards", async () => {
    const unseen = [
      "\u00ad",
      "\u061c",
      "\u180e",
      "\u{e0041}",
      "\u3164",
      "\u115f",
      "\u034f",
      "\ufff9",
      "\uffff",
      "\u202e",
    ];
    for (const one of unseen) {
      const body = { slug: "unseen", name: `a${one}b` };
      const answer = await send(api.url, { method: "POST", path: "/v1/zones", token: api.global_token, body });
      assert.equal(answer.status, 400, JSON.stringify(body));
      assert.match(answer.body.issues?.[0]?.message ?? "", /control or formatting characters/);
    }
  });

  it("takes no header for one value that came twice", async () => {
    const text = (headers: string): string =>
      `POST /v1/zones/${zone_id}/applications HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 12\r\n${headers}\r\n{"name":"a"}`;
    const type = "Content-Type: application/json\r\n";
    const auth = `Authorization: Bearer ${token}\r\n`;
    assert.match(await raw(api.url, text(type + auth)), /^HTTP\/1\.1 201 /);
    assert.match(await raw(api.url, text(type + auth + "Authorization: Bearer other\r\n")), /^HTTP\/1\.1 401 /);
    assert.match(await raw(api.url, text(type + auth + "Content-Type: text/plain\r\n")), /^HTTP\/1\.1 415 /);
  });

  it("takes no body where none belongs, and does not ignore its fields", async () => {
    const app = await expectOk(api.url, token, "createApplication", { params: { zone_id }, body: { name: "a" } });
    const params = { zone_id, id: app.id };
    assert.equal((await call(api.url, token, "replaceSecret", { params, body: { secret: "mine" } })).status, 400);
    assert.equal((await call(api.url, token, "replaceSecret", { params, body: {} })).status, 200);
    assert.equal((await call(api.url, token, "archiveApplication", { params, body: { force: true } })).status, 400);
  });

  it("refuses query parameters that it does not have, and those that come twice", async () => {
    const path = `/v1/zones/${zone_id}/applications`;
    for (const query of [
      "?x=1",
      "?limit=1&limit=2",
      "?__proto__=1",
      "?constructor=1",
      "?limit=%00",
      "?limit=%ff",
      "?cursor=%ed%a0%80",
    ]) {
      const answer = await send(api.url, { path: path + query, token });
      assert.equal(answer.status, 400, query);
      assert.equal(answer.body.error, "invalid_query");
    }
    assert.equal(
      (await send(api.url, { method: "POST", path: `${path}?dry_run=true`, token, body: { name: "a" } })).status,
      400,
    );
  });

  it("knows its paths and their methods", async () => {
    for (const path of [
      "/",
      "/v1",
      "/v1/",
      "/v2/zones",
      "/v1/zones/",
      "/v1/nothing",
      "/V1/zones",
      `/v1/zones/${zone_id}/nothing`,
      "/v1/zones//applications",
    ]) {
      const answer = await send(api.url, { path, token });
      assert.equal(answer.status, 404, path);
      assert.equal(answer.body.error, "not_found");
    }
    const put = await send(api.url, { method: "PUT", path: "/v1/zones", token, body: {} });
    assert.equal(put.status, 405);
    assert.equal(put.headers.get("allow"), "GET, POST, HEAD");
    const head = await fetch(`${api.url}/v1/zones`, { method: "HEAD", headers: { authorization: `Bearer ${token}` } });
    assert.equal(head.status, 200);
    assert.equal((await send(api.url, { path: "/v1/zones", token })).headers.get("cache-control"), "no-store");
  });

  it("answers requests that are bent out of shape with a 4xx", async () => {
    const auth = `Authorization: Bearer ${token}\r\nConnection: close\r\n`;
    const requests = [
      `GET /v1/zones HTTP/1.1\r\nHost: a b\r\n${auth}\r\n`,
      `GET /v1/zones HTTP/1.1\r\nHost: x:99999999\r\n${auth}\r\n`,
      `GET /v1/zones\\..\\x HTTP/1.1\r\nHost: x\r\n${auth}\r\n`,
      `GET http://[bad/v1/zones HTTP/1.1\r\nHost: x\r\n${auth}\r\n`,
      `GET v1/zones HTTP/1.1\r\nHost: x\r\n${auth}\r\n`,
      `GET /v1/zones/%00/applications HTTP/1.1\r\nHost: x\r\n${auth}\r\n`,
      `GET /v1/zones/%ff%fe/applications HTTP/1.1\r\nHost: x\r\n${auth}\r\n`,
      `GET /v1/zones/${zone_id}/applications/%ed%a0%80 HTTP/1.1\r\nHost: x\r\n${auth}\r\n`,
      `GET /v1/zones/${zone_id}/audit/by-request/%00 HTTP/1.1\r\nHost: x\r\n${auth}\r\n`,
      `TRACE /v1/zones HTTP/1.1\r\nHost: x\r\n${auth}\r\n`,
      `POST /v1/zones HTTP/1.1\r\nHost: x\r\n${auth}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    ];
    for (const request of requests) {
      const answer = await raw(api.url, request);
      assert.match(answer, /^HTTP\/1\.1 4\d\d /, `${request.split("\r\n", 1)[0]} → ${answer.split("\r\n", 1)[0]}`);
    }
    assert.match(await raw(api.url, `GET /v1/zones HTTP/1.0\r\n${auth}\r\n`), /^HTTP\/1\.1 200 /);
  });

  it("keeps a request id that it can use and makes one where it can't", async () => {
    const kept = await send(api.url, { path: "/v1/zones", token, headers: { "x-request-id": "abc-1:2.3" } });
    assert.equal(kept.headers.get("x-request-id"), "abc-1:2.3");
    for (const id of ["a b", "x".repeat(129), "<script>"]) {
      const answer = await send(api.url, { path: "/v1/zones", token, headers: { "x-request-id": id } });
      assert.match(answer.headers.get("x-request-id") ?? "", /^[0-9a-f-]{36}$/);
    }
    const made = await send(api.url, {
      method: "POST",
      path: `/v1/zones/${zone_id}/policies`,
      token,
      body: { name: "traced" },
      headers: { "x-request-id": "trace-me" },
    });
    assert.equal(made.status, 201);
    const { items } = await expectOk(api.url, token, "listZoneAdminAudit", { params: { zone_id } });
    assert.equal(items.find((item) => item.request_id === "trace-me")?.action, "policy.create");
  });

  it("never answers 5xx, whatever JSON comes in at whatever operation", async () => {
    const text = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.constantFrom(
        "",
        "\0",
        "a\0b",
        "package caracal.authz\0",
        "\ud800",
        "resource://x",
        "https://x.example.com",
        "null",
        zone_id,
        "__proto__",
      ),
    );
    const operations = (Object.keys(apiEndpoints) as ApiOperation[]).filter(
      (name) => !["archiveZone", "bootstrap"].includes(name),
    );
    /** Bodies that pass, of which one or two fields are then spoilt: what is wrong everywhere gets no further than the first check. */
    const good: Partial<Record<ApiOperation, Record<string, unknown>>> = {
      createZone: { slug: "s", name: "n" },
      updateZone: { name: "n" },
      createApplication: { name: "n", kind: "public", scopes: [], traits: [], rate_limit_per_minute: 1 },
      createResource: {
        identifier: "resource://x",
        name: "n",
        upstream_url: "https://x.example.com",
        scopes: [],
        application_id: null,
      },
      createProvider: {
        name: "n",
        kind: "oauth2",
        client_id: "c",
        token_url: "https://x.example.com",
        allowed_hosts: ["x.example.com"],
        client_secret: "s",
        auth_header: "Authorization",
      },
      createIssuer: { name: "n", issuer_url: "https://x.example.com", audience: "a", jwks: { keys: [{ kty: "EC" }] } },
      createGrant: { application_id: zone_id, resource_id: zone_id, subject: "s", scopes: [] },
      putGrantCredential: { access_token: "t", refresh_token: "r", expires_at: "2030-01-01T00:00:00Z" },
      createRegistrationToken: { name: "n", scopes: [], expires_in_s: 60 },
      setQuota: { limit: 1 },
      rotateKeys: { force: true },
      createPolicy: { name: "n" },
      createPolicySet: { name: "n" },
      createPolicyVersion: { source: "package caracal.authz" },
      createPolicySetVersion: { entries: [{ policy_version_id: zone_id }] },
      revokeSubject: { subject: "s" },
      createAdminToken: { label: "l", zone_id, access: "read", expires_in_s: 60 },
    };
    const value = fc.oneof(
      { weight: 4, arbitrary: text },
      fc.double(),
      fc.maxSafeInteger(),
      fc.constantFrom(0, -0, 1e308, -1, 2 ** 31, 2 ** 53, 2 ** 63, null, true, zone_id),
      fc.array(text, { maxLength: 4 }),
      fc.jsonValue(),
    );
    const operation = fc.oneof(
      fc.constantFrom(...operations),
      fc.constantFrom(...(Object.keys(good) as ApiOperation[])),
    );
    const asked = operation.chain((name) => {
      const base = good[name] ?? {};
      const field = fc.oneof(
        { weight: 4, arbitrary: fc.constantFrom("name", ...Object.keys(base)) },
        { weight: 1, arbitrary: text },
      );
      const spoilt = fc.dictionary(field, value, { maxKeys: 2 }).map((changes) => Object.assign({}, base, changes));
      const body = fc.oneof(
        { weight: 6, arbitrary: spoilt as fc.Arbitrary<unknown> },
        { weight: 1, arbitrary: fc.jsonValue() },
      );
      return body.map((sent) => ({ name, sent }));
    });
    const parameter = fc.oneof(
      fc.constantFrom("limit", "cursor", "from", "subject", "status", "client_id", "request_id"),
      text,
    );
    const id = fc.oneof(fc.constantFrom(zone_id), fc.uuid(), text);
    await fc.assert(
      fc.asyncProperty(
        asked,
        id,
        fc.dictionary(parameter, text, { maxKeys: 2 }),
        async ({ name, sent }, some_id, query) => {
          const endpoint: Endpoint = apiEndpoints[name];
          const wire = (part: string): string => encodeURIComponent(part.replace(/\p{Cs}/gu, "\ufffd"));
          const path = endpoint.path.replace("{zone_id}", zone_id).replace(/\{[a-z_]+\}/g, () => wire(some_id) || "x");
          const search = Object.entries(query)
            .map(([key, text_value]) => `${wire(key)}=${wire(text_value)}`)
            .join("&");
          const answer = await send(api.url, {
            method: endpoint.method,
            path: search === "" || endpoint.method !== "GET" ? path : `${path}?${search}`,
            token: api.global_token,
            ...(endpoint.method === "GET" ? {} : { body: sent }),
          });
          assert.ok(answer.status < 500, `${name} ${JSON.stringify(sent)} → ${answer.status} ${answer.text}`);
          assert.ok(answer.status < 400 || typeof answer.body.error === "string");
        },
      ),
      { numRuns: 2_000 },
    );
  });
});

describe("an API whose database is away", () => {
  it("says 503 and when to come back, and is not ready", async () => {
    const log = createLog({ level: "silent" });
    const db = createPostgres({ url: "postgres://x@127.0.0.1:1/x?sslmode=disable", name: "api", max: 2 });
    const role = createApi({
      db,
      compiler: createPolicyCompiler({ log }),
      engine: createPolicyEngine({ budget_units: 50_000 }),
      policy_budget: 50_000,
      templates: async () => [],
      clock: systemClock,
      wake: () => {},
      log,
      metrics: createMetrics(),
      kek: KEK,
      egress: EGRESS,
      key_delay_s: 300,
      rate_limit_per_minute: 6_000,
    });
    const serving = await bindRole({ name: "api", host: "127.0.0.1", port: 0, tls: undefined, log });
    serving.serve(role);
    try {
      const url = `http://127.0.0.1:${serving.port}`;
      const answer = await send(url, { path: "/v1/zones", token: "x".repeat(43) });
      assert.equal(answer.status, 503);
      assert.equal(answer.body.error, "temporarily_unavailable");
      assert.ok(Number(answer.headers.get("retry-after")) >= 1);
      assert.equal((await send(url, { path: "/ready" })).status, 503);
      assert.equal((await send(url, { path: "/health" })).status, 200);
    } finally {
      await serving.close(1_000);
      await db.close();
    }
  });
});
