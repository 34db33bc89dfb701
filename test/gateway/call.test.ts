import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { createRig, openRaw, requestText, RESOURCE, RESOURCE_ID, type Rig, ZONE } from "./rig.ts";

const headersOf = (raw: readonly string[]): Map<string, string[]> => {
  const map = new Map<string, string[]>();
  for (let i = 0; i < raw.length; i += 2) {
    const name = (raw[i] as string).toLowerCase();
    map.set(name, [...(map.get(name) ?? []), raw[i + 1] as string]);
  }
  return map;
};

describe("a call that is allowed", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig({ base: "/base" });
  });
  after(() => rig.close());

  it("reaches the upstream with the mandate in place of the ambient token, and its answer comes back", async () => {
    rig.upstream((request, response) => {
      response.setHeader("X-Own", "1");
      response.statusCode = 201;
      response.end(`${request.method} ${request.url}`);
    });
    const answer = await rig.call("/things?x=1", {
      method: "PUT",
      headers: {
        "x-caracal-scope": "read",
        "x-caracal-agent-session": "agent-1",
        "X-Caracal-Delegation-Edge": "edge-1",
      },
    });
    assert.equal(answer.status, 201);
    assert.equal(await answer.text(), "PUT /base/things?x=1");
    assert.equal(answer.headers.get("x-own"), "1");
    const exchange = rig.sts.exchanges.at(-1);
    assert.equal(exchange?.method, "PUT");
    assert.equal(exchange?.path, "/things", "the query stays out of policy and ledger");
    assert.equal(exchange?.scope, "read");
    assert.equal(exchange?.agent_session_id, "agent-1");
    assert.equal(exchange?.delegation_edge_id, "edge-1");
    assert.equal(exchange?.zone_id, ZONE);
    const sent = headersOf(rig.seen.at(-1)?.headers ?? []);
    assert.deepEqual(sent.get("authorization"), [`Bearer mandate-for-${RESOURCE}`]);
    for (const name of sent.keys()) assert.doesNotMatch(name, /^x-caracal-/, "it goes no further");
    assert.equal(sent.get("x-request-id")?.[0], answer.headers.get("x-request-id"));
    assert.equal(exchange?.request_id, answer.headers.get("x-request-id"));
    assert.deepEqual(sent.get("host"), [`127.0.0.1:${rig.upstream_port}`]);
  });

  it("takes nothing along that speaks in the Gateway's name or ends at this hop", async () => {
    rig.upstream((_request, response) => response.end("ok"));
    const raw = await openRaw(rig.port);
    raw.write(
      requestText("GET /x", {
        Authorization: `Bearer ${rig.ambient()}`,
        "X-Caracal-Resource": RESOURCE,
        "X-Caracal-Identity": "forged",
        X_Caracal_Identity: "forged",
        "X-Forwarded-For": "6.6.6.6",
        "x-forwarded-proto": "https",
        Forwarded: "for=6.6.6.6",
        "X-Real-IP": "6.6.6.6",
        "Proxy-Authorization": "Basic x",
        Connection: "X-Private, close",
        "X-Private": "1",
        "Keep-Alive": "timeout=5",
        TE: "trailers",
        Upgrade: "h2c",
        "X-Kept": "kept",
        "X-Request-Id": "mine.1",
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
      }),
    );
    await raw.until(/ok$/);
    const sent = headersOf(rig.seen.at(-1)?.headers ?? []);
    assert.deepEqual([...sent.keys()].sort(), [
      "authorization",
      "connection",
      "host",
      "traceparent",
      "x-forwarded-for",
      "x-forwarded-host",
      "x-forwarded-proto",
      "x-kept",
      "x-request-id",
    ]);
    assert.deepEqual(sent.get("connection"), ["keep-alive"], "the dialler's own");
    assert.deepEqual(sent.get("x-forwarded-for"), ["127.0.0.1"]);
    assert.deepEqual(sent.get("x-forwarded-proto"), ["http"]);
    assert.deepEqual(sent.get("x-forwarded-host"), ["gateway.test"]);
    assert.deepEqual(sent.get("x-request-id"), ["mine.1"]);
    assert.deepEqual(sent.get("traceparent"), ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]);
    raw.destroy();
  });

  it("gets ids of the Gateway's own where the caller's are not well-formed", async () => {
    const answer = await rig.call("/", {
      headers: { "x-request-id": "no spaces please", traceparent: "00-zz", tracestate: "a=b" },
    });
    assert.match(answer.headers.get("x-request-id") ?? "", /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
    const sent = headersOf(rig.seen.at(-1)?.headers ?? []);
    assert.match(sent.get("traceparent")?.[0] ?? "", /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
    assert.equal(sent.has("tracestate"), false);
  });

  it("goes by the path form too, where the path names zone and resource", async () => {
    rig.upstream((request, response) => response.end(request.url));
    const answer = await fetch(`${rig.url}/r/${ZONE}/${RESOURCE_ID}/deep/er?q=1`, {
      headers: { authorization: `Bearer ${rig.ambient()}` },
    });
    assert.equal(await answer.text(), "/base/deep/er?q=1");
    assert.equal(rig.sts.exchanges.at(-1)?.path, "/deep/er");
    const other = await fetch(`${rig.url}/r/zone-2/${RESOURCE_ID}/x`, {
      headers: { authorization: `Bearer ${rig.ambient()}` },
    });
    assert.equal(other.status, 403, "a path of another zone finds nothing");
  });

  it("passes redirects back, with a place inside the upstream's base rewritten", async () => {
    const cases: readonly (readonly [string, string])[] = [
      [`${rig.upstream_origin}/base/next?a=1#f`, "/next?a=1#f"],
      ["/base/next", "/next"],
      ["/base", "/"],
      ["/elsewhere", `${rig.upstream_origin}/elsewhere`],
      ["relative", "relative"],
      ["https://other.test/base/x", "https://other.test/base/x"],
      ["/base//evil.test/x", "/evil.test/x"],
    ];
    for (const [location, expected] of cases) {
      rig.upstream((_request, response) => response.writeHead(302, { location }).end());
      const answer = await rig.call("/a", { redirect: "manual" });
      assert.equal(answer.status, 302);
      assert.equal(answer.headers.get("location"), expected);
    }
    rig.upstream((_request, response) => response.writeHead(302, { location: "/base/next" }).end());
    const by_path = await fetch(`${rig.url}/r/${ZONE}/${RESOURCE_ID}/a`, {
      headers: { authorization: `Bearer ${rig.ambient()}` },
      redirect: "manual",
    });
    assert.equal(by_path.headers.get("location"), `/r/${ZONE}/${RESOURCE_ID}/next`);
  });

  it("gets the upstream's headers as they are, without those that end here or speak for the Gateway", async () => {
    rig.upstream((_request, response) => {
      response.writeHead(200, [
        ["Set-Cookie", "a=1"],
        ["Set-Cookie", "b=2"],
        ["X-Caracal-Revoked", "true"],
        ["X-Request-Id", "upstream"],
        ["Alt-Svc", 'h3=":443"'],
        ["Connection", "X-Hop"],
        ["X-Hop", "1"],
        ["Content-Encoding", "gzip"],
      ] as never);
      response.end("not really gzip");
    });
    const raw = await openRaw(rig.port);
    raw.write(
      requestText("GET /", {
        Authorization: `Bearer ${rig.ambient()}`,
        "X-Caracal-Resource": RESOURCE,
        "X-Request-Id": "r1",
      }),
    );
    const text = await raw.until(/not really gzip/);
    assert.doesNotMatch(text, /set-cookie/i);
    assert.match(text, /Content-Encoding: gzip/);
    assert.match(text, /X-Request-Id: r1\r\n/);
    assert.doesNotMatch(text, /x-caracal-revoked|alt-svc|x-hop|X-Request-Id: upstream/i);
    raw.destroy();
  });

  it("streams a large body both ways without changing a byte of it", async () => {
    rig.upstream((request, response) => {
      response.writeHead(200, { "content-type": "application/octet-stream" });
      request.pipe(response);
    });
    for (const size of [1, 1_000, 70_000, 1024 * 1024]) {
      const body = randomBytes(size);
      const answer = await rig.call("/echo", { method: "POST", body });
      assert.equal(answer.status, 200);
      const back = Buffer.from(await answer.arrayBuffer());
      assert.equal(back.byteLength, size);
      assert.equal(createHash("sha256").update(back).digest("hex"), createHash("sha256").update(body).digest("hex"));
    }
  });

  it("has an event stream delivered chunk by chunk, headers first", async () => {
    let push = (_text: string): void => undefined;
    rig.upstream((_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.flushHeaders();
      push = (text) => void response.write(text);
    });
    const raw = await openRaw(rig.port);
    raw.write(requestText("GET /events", { Authorization: `Bearer ${rig.ambient()}`, "X-Caracal-Resource": RESOURCE }));
    await raw.until(/\r\n\r\n/); // before any event
    for (let at = 1; at <= 3; at += 1) {
      push(`data: ${at}\n\n`);
      await raw.until(new RegExp(`data: ${at}\n`));
    }
    raw.destroy();
    await eventually(() => rig.outcomes().at(-1)?.cut === "client");
  });

  it("answers HEAD, 204 and 304 without a body, and the connection goes on", async () => {
    rig.upstream((request, response) => {
      if (request.url === "/base/204") response.writeHead(204).end();
      else if (request.url === "/base/304") response.writeHead(304, { etag: '"x"' }).end();
      else response.writeHead(200, { "content-length": "5" }).end("hello");
    });
    const raw = await openRaw(rig.port);
    const headers = { Authorization: `Bearer ${rig.ambient()}`, "X-Caracal-Resource": RESOURCE };
    raw.write(requestText("HEAD /head", headers));
    await raw.until(/HTTP\/1.1 200 OK[^]*\r\n\r\n$/);
    raw.write(requestText("GET /204", headers));
    await raw.until(/HTTP\/1.1 204[^]*\r\n\r\n$/);
    raw.write(requestText("GET /304", headers));
    await raw.until(/HTTP\/1.1 304[^]*\r\n\r\n$/);
    raw.write(requestText("GET /200", headers));
    assert.match(await raw.until(/hello$/), /HTTP\/1.1 200 OK[^]*HTTP\/1.1 200 OK/);
    raw.destroy();
  });

  it("is asked of policy, and of the upstream, in one spelling of its path, and without headers that name another call", async () => {
    rig.upstream((_request, response) => response.end("ok"));
    const overrides = [
      "X-HTTP-Method-Override",
      "X-HTTP-Method",
      "X-Method-Override",
      "X-Original-URL",
      "X-Rewrite-URL",
    ];
    const answer = await rig.call("/%61dmin/%7euser/a%20b%2Fc", {
      headers: Object.fromEntries(overrides.map((name) => [name, "DELETE"])),
    });
    assert.equal(answer.status, 200);
    assert.equal(rig.sts.exchanges.at(-1)?.path, "/admin/~user/a%20b%2Fc");
    assert.equal(rig.seen.at(-1)?.url, "/base/admin/~user/a%20b%2Fc");
    const sent = headersOf(rig.seen.at(-1)?.headers ?? []);
    for (const name of overrides) assert.equal(sent.get(name.toLowerCase()), undefined, name);
  });

  it("is not broken off for an early hint that Node can't pass on", async () => {
    rig.upstream((_request, response) => {
      response.socket?.write("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload, </b>; rel=preload\r\n\r\n");
      response.end("done");
    });
    const answer = await rig.call("/hint", { method: "POST", body: "x" });
    assert.deepEqual([answer.status, await answer.text()], [200, "done"]);
  });

  it("of a mandate that an agent presents is in the ledger before the upstream hears of it, or does not pass", async () => {
    rig.upstream((_request, response) => response.end("ok"));
    const passed = await rig.call("/", { token: rig.mandate() });
    assert.equal(passed.status, 200);
    assert.ok(rig.drafts.some((draft) => draft.event_type === "gateway.call" && draft.decision === "allow"));
    rig.ledger(new Error("the stream is away"));
    const before_call = rig.seen.length;
    const refused = await rig.call("/", { token: rig.mandate() });
    rig.ledger(undefined);
    assert.equal(refused.status, 503);
    assert.equal(refused.headers.get("retry-after"), "1");
    assert.equal(rig.seen.length, before_call, "the upstream was not called");
  });

  it("passes early hints on, and trailers to those that read them", async () => {
    rig.upstream((_request, response) => {
      response.writeEarlyHints({ link: "</style.css>; rel=preload" });
      response.writeHead(200, { trailer: "X-Sum" });
      response.write("body");
      response.addTrailers({ "X-Sum": "42", "X-Caracal-Revoked": "true" });
      response.end();
    });
    const headers = { Authorization: `Bearer ${rig.ambient()}`, "X-Caracal-Resource": RESOURCE };
    const raw = await openRaw(rig.port);
    raw.write(requestText("GET /", { ...headers, TE: "trailers", Connection: "TE" }));
    const text = await raw.until(/\r\n0\r\n[^]*\r\n\r\n$/);
    assert.match(text, /^HTTP\/1.1 103 Early Hints\r\nLink: <\/style.css>/i);
    assert.match(text, /\r\n0\r\nX-Sum: 42\r\n\r\n$/);
    raw.destroy();
    const plain = await openRaw(rig.port);
    plain.write(requestText("GET /", headers));
    assert.match(await plain.until(/\r\n0\r\n/), /\r\n0\r\n\r\n$/);
    plain.destroy();
  });

  it("is told to send its body only after the decision", async () => {
    rig.upstream((request, response) => request.pipe(response));
    const headers = { "X-Caracal-Resource": RESOURCE, Expect: "100-continue", "Content-Length": "4" };
    const refused = await openRaw(rig.port);
    refused.write(requestText("POST /", { ...headers, Authorization: "Bearer nonsense" }));
    const no = await refused.untilClosed();
    assert.match(no, /^HTTP\/1.1 401/);
    const allowed = await openRaw(rig.port);
    allowed.write(requestText("POST /", { ...headers, Authorization: `Bearer ${rig.ambient()}` }));
    await allowed.until(/^HTTP\/1.1 100 Continue\r\n\r\n$/);
    allowed.write("body");
    assert.match(await allowed.until(/body/), /HTTP\/1.1 200 OK/);
    allowed.destroy();
  });

  it("is told to send its body where node:http takes it for one that asks, and never in HTTP/1.0", async () => {
    rig.upstream((request, response) => request.pipe(response));
    const headers = {
      Authorization: `Bearer ${rig.ambient()}`,
      "X-Caracal-Resource": RESOURCE,
      Expect: "100-Continue, x",
      "Content-Length": "4",
    };
    const asks = await openRaw(rig.port);
    asks.write(requestText("POST /", headers));
    await asks.until(/^HTTP\/1.1 100 Continue\r\n\r\n$/);
    asks.write("body");
    assert.match(await asks.until(/body/), /HTTP\/1.1 200 OK/);
    asks.destroy();
    const old = await openRaw(rig.port);
    old.write(requestText("POST /", { ...headers, Expect: "100-continue" }).replace("HTTP/1.1", "HTTP/1.0"));
    old.write("body");
    assert.match(await old.until(/body/), /^HTTP\/1.1 200 OK/);
    old.destroy();
  });

  it("takes no other spelling of a name along that a CGI-like program would read as the Gateway's", async () => {
    rig.upstream((_request, response) => response.end("ok"));
    const forged = [
      "X.Caracal.Identity",
      "X_Caracal-Identity",
      "X!Forwarded!For",
      "X-Forwarded",
      "X_Forwarded",
      "Proxy",
      "X*Real*IP",
      "X-HTTP-Method.Override",
      "Content.Length",
    ];
    const raw = await openRaw(rig.port);
    raw.write(
      requestText("GET /", {
        Authorization: `Bearer ${rig.ambient()}`,
        "X-Caracal-Resource": RESOURCE,
        ...Object.fromEntries(forged.map((name) => [name, "7"])),
        "X.Kept_Name": "kept",
      }),
    );
    await raw.until(/ok$/);
    raw.destroy();
    const sent = headersOf(rig.seen.at(-1)?.headers ?? []);
    for (const name of forged) assert.equal(sent.get(name.toLowerCase()), undefined, name);
    assert.deepEqual(sent.get("x.kept_name"), ["kept"]);
  });

  it("gets no trailer that speaks for the Gateway, in any spelling", async () => {
    rig.upstream((_request, response) => {
      response.writeHead(200, { trailer: "X-Sum" });
      response.write("body");
      response.addTrailers({
        "X-Sum": "42",
        x_caracal_revoked: "false",
        "x.caracal.revoked": "false",
        "X-Request-Id": "forged",
        x_request_id: "forged",
        Forwarded: "for=1",
        "X-Forwarded-For": "1",
      });
      response.end();
    });
    const raw = await openRaw(rig.port);
    const headers = { Authorization: `Bearer ${rig.ambient()}`, "X-Caracal-Resource": RESOURCE, TE: "trailers" };
    raw.write(requestText("GET /", headers));
    assert.match(await raw.until(/\r\n0\r\n[^]*\r\n\r\n$/), /\r\n0\r\nX-Sum: 42\r\n\r\n$/);
    raw.destroy();
  });

  it("leaves an outcome in the ledger, joined by the decision's id", async () => {
    rig.upstream((_request, response) => response.end("12345"));
    const answer = await rig.call("/", { headers: { "x-request-id": "outcome-1" } });
    await answer.text();
    const draft = await eventually(() => rig.drafts.find((one) => one.request_id === "outcome-1") ?? null);
    assert.equal(draft.event_type, "gateway.outcome");
    assert.equal(draft.decision, "none");
    assert.equal(draft.zone_id, ZONE);
    // Who and what stands in the decision's event.
    assert.deepEqual([draft.resource_id, draft.client_id, typeof draft.session_id], [null, null, "string"]);
    const outcome = JSON.parse(draft.metadata_json ?? "{}");
    assert.deepEqual(
      { ...outcome, duration_ms: 0 },
      { decision_id: "decision-1", status: 200, bytes: 5, duration_ms: 0, cut: false },
    );
  });
});

describe("the upstream's own query", () => {
  it("wins over the client's, in every spelling of a name", async () => {
    const rig = await createRig({ base: "/b?key=own&fixed=1" });
    rig.upstream((request, response) => response.end(request.url));
    try {
      const answer = await rig.call("/x?key=theirs&%6bey=theirs&other=1&a=1;fixed=2");
      assert.equal(await answer.text(), "/b/x?key=own&fixed=1&other=1");
      assert.equal(await (await rig.call("/")).text(), "/b?key=own&fixed=1");
    } finally {
      await rig.close();
    }
  });
});
