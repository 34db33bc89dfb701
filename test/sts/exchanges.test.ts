import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { createStsHttp } from "../../src/adapters/sts-http/index.ts";
import { type GatewayExchange, MAX_EXCHANGES, MAX_EXCHANGES_BYTES } from "../../src/contracts/exchange.ts";
import { EXCHANGES_PATH } from "../../src/contracts/sts.ts";
import { contentSha256, GATEWAY_HEADERS, signGatewayCall } from "../../src/domain/gateway-signature.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { Cancelling } from "../../src/kernel/cancel.ts";
import { randomSecret, uuidv7 } from "../../src/kernel/ids.ts";
import { eventually } from "../support/eventually.ts";
import { openRaw, requestText } from "../support/raw-http.ts";
import { ALLOW_AGENTS, type Fixture, startFixture, type TestApplication, type TestResource } from "./fixture.ts";

type Line = {
  readonly exchange: number;
  readonly status: number;
  readonly retry_after_s?: number;
  readonly body: Readonly<Record<string, unknown>>;
};

describe("a batch of the Gateway's exchanges", () => {
  let f: Fixture;
  let zone: string;
  let app: TestApplication;
  let target: TestResource;
  let ambient: string;

  before(async () => {
    f = await startFixture();
    zone = await f.newZone();
    app = await f.newApplication(zone, { rate_limit_per_minute: 100_000 });
    target = await f.newResource(zone, { upstream_url: "http://upstream.test/base?x=1" });
    await f.activate(zone, ALLOW_AGENTS);
    ambient = await eventually(async () => {
      const answer = await f.ambient(zone, app, { resource: target.identifier });
      return answer.status === 200 ? String(answer.body["access_token"]) : null;
    });
  });
  after(() => f.close());

  const exchange = (some: Partial<GatewayExchange> = {}): GatewayExchange => ({
    zone_id: zone,
    subject_token: ambient,
    resource: target.identifier,
    method: "POST",
    path: "/orders/7?x=é",
    request_id: uuidv7(),
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ...some,
  });
  const bodyOf = (...exchanges: readonly GatewayExchange[]): string => JSON.stringify({ exchanges });
  const signed = (
    body: string | Buffer,
    some: { readonly timestamp_ms?: number; readonly nonce?: string; readonly path?: string; key?: number } = {},
  ): Record<string, string> => {
    const { timestamp_ms = f.clock.now_ms(), nonce = randomSecret(16), path = EXCHANGES_PATH } = some;
    const ring = some.key === undefined ? f.gateway_ring : keyring(Buffer.alloc(32, some.key));
    const content_sha256 = contentSha256(Buffer.from(body));
    const call = { method: "POST", path, timestamp_ms, nonce, content_sha256 };
    return {
      "content-type": "application/json",
      [GATEWAY_HEADERS.content_sha256]: content_sha256.toString("base64url"),
      [GATEWAY_HEADERS.timestamp]: String(timestamp_ms),
      [GATEWAY_HEADERS.nonce]: nonce,
      [GATEWAY_HEADERS.signature]: signGatewayCall(ring, call),
    };
  };
  const send = async (
    body: string | Buffer,
    headers: Readonly<Record<string, string>> = signed(body),
    init: { readonly path?: string; readonly method?: string } = {},
  ) => {
    const method = init.method ?? "POST";
    const response = await fetch(`${f.url}${init.path ?? EXCHANGES_PATH}`, {
      method,
      headers,
      ...(method === "POST" ? { body } : {}),
    });
    return { status: response.status, headers: response.headers, text: await response.text() };
  };
  const linesOf = (text: string): readonly Line[] => {
    assert.ok(text.endsWith("\n"));
    const lines = text
      .slice(0, -1)
      .split("\n")
      .map((one) => JSON.parse(one) as Line);
    return lines.toSorted((a, b) => a.exchange - b.exchange);
  };
  const ask = async (...exchanges: readonly GatewayExchange[]): Promise<readonly Line[]> => {
    const { status, text } = await send(bodyOf(...exchanges));
    assert.equal(status, 200, text);
    return linesOf(text);
  };
  const refusedWith = async (answer: ReturnType<typeof send>) => {
    const { status, text } = await answer;
    const { error, reason, issues } = JSON.parse(text) as {
      error: string;
      reason?: string;
      issues?: readonly { readonly path: string; readonly message: string }[];
    };
    return { status, error, reason, path: issues?.[0]?.path };
  };

  it("answers each as the token endpoint does, in a line of its own", async () => {
    const [granted, unknown, malformed, scope] = await ask(
      exchange(),
      exchange({ resource: "resource://nowhere" }),
      exchange({ subject_token: "x.y.z" }),
      exchange({ scope: "admin" }),
    );
    assert.equal(granted?.status, 200);
    assert.deepEqual(granted?.body["upstreams"], {
      [target.identifier]: { url: "http://upstream.test/base?x=1", auth_mode: "caracal_jwt" },
    });
    assert.equal(granted?.body["token_type"], "Bearer");
    assert.deepEqual([unknown?.status, unknown?.body["reason"]], [400, "resource_unknown"]);
    assert.deepEqual([malformed?.status, malformed?.body["reason"]], [400, "subject_token_malformed"]);
    assert.deepEqual([scope?.status, scope?.body["error"]], [400, "invalid_scope"]);
    assert.deepEqual(Object.keys(scope?.body ?? {}).sort(), ["error", "error_description", "reason", "requestId"]);
  });

  it("is counted and written down exchange by exchange, with its request and its trace", async () => {
    const before_them = await f.metric('sts_tokens_issued_total{use="per_call"}').catch(() => 0);
    const trace = "1af7651916cd43dd8448eb211c80319c";
    const ids = ["batch:1", "batch:2", "batch:3"];
    const lines = await ask(
      ...ids.map((request_id) => exchange({ request_id, traceparent: `00-${trace}-b7ad6b7169203331-01` })),
    );
    assert.equal((await f.metric('sts_tokens_issued_total{use="per_call"}')) - before_them, 3);
    const decisions = new Set<string>();
    for (const [i, request_id] of ids.entries()) {
      const [event, ...more] = await f.eventsOf(request_id);
      assert.equal(more.length, 0);
      assert.equal(event?.id, lines[i]?.body["decision_id"]);
      const { evaluations } = JSON.parse(event?.metadata_json ?? "{}") as {
        evaluations: { input: { trace_id: string } }[];
      };
      assert.equal(evaluations[0]?.input.trace_id, trace);
      decisions.add(String(event?.id));
    }
    assert.equal(decisions.size, 3);
  });

  it("is limited exchange by exchange, in the order in which they stand", async () => {
    const slow = await f.newApplication(zone, { rate_limit_per_minute: 30 });
    const own = await eventually(async () => {
      const answer = await f.ambient(zone, slow);
      return answer.status === 200 ? String(answer.body["access_token"]) : null;
    });
    const lines = await ask(
      exchange(),
      ...Array.from({ length: 5 }, () => exchange({ subject_token: own })),
      exchange(),
    );
    const statuses = lines.map((one) => one.status);
    assert.deepEqual([statuses[0], statuses[6]], [200, 200], "another application is not concerned");
    const limited = lines.slice(1, 6);
    const first = limited.findIndex((one) => one.status === 429);
    assert.ok(first >= 1 && limited.slice(first).every((one) => one.status === 429), statuses.join(" "));
    assert.equal(limited[first]?.body["reason"], "rate_limited");
    assert.ok((limited[first]?.retry_after_s ?? 0) >= 1);
  });

  it("costs no SQL and two round trips however many are in it", async () => {
    await ask(exchange());
    const [statements, round_trips] = [f.statements(), f.roundTrips()];
    const lines = await ask(...Array.from({ length: MAX_EXCHANGES }, () => exchange()));
    assert.ok(lines.every((one) => one.status === 200));
    assert.equal(new Set(lines.map((one) => one.body["access_token"])).size, MAX_EXCHANGES);
    assert.equal(f.statements() - statements, 0);
    assert.ok(f.roundTrips() - round_trips <= 3, `${f.roundTrips() - round_trips} round trips`);
  });

  it("is good once, of many at the same instant too: the others are refused exchange by exchange", async () => {
    const body = bodyOf(exchange(), exchange());
    const headers = signed(body);
    const answers = await Promise.all(Array.from({ length: 6 }, () => send(body, headers)));
    const taken = answers.map(({ text }) => linesOf(text).map((one) => one.status));
    assert.deepEqual(taken.map(String).sort(), ["200,200", ...Array<string>(5).fill("401,401")]);
    const again = linesOf((await send(body, headers)).text);
    assert.deepEqual(
      again.map((one) => [one.status, one.body["reason"]]),
      [
        [401, "gateway_call_replayed"],
        [401, "gateway_call_replayed"],
      ],
    );
  });

  it("is refused unsigned, badly signed and out of time, before it is read", async () => {
    const body = bodyOf(exchange());
    const good = signed(body);
    const cases: readonly (readonly [string, string, Record<string, string>, string])[] = [
      ["no signature", body, { "content-type": "application/json" }, "gateway_signature"],
      ["another body", bodyOf(exchange({ scope: "x" })), good, "gateway_signature"],
      ["another path", body, signed(body, { path: "/oauth/2/token" }), "gateway_signature"],
      ["another key", body, signed(body, { key: 9 }), "gateway_signature"],
      ["another nonce", body, { ...good, [GATEWAY_HEADERS.nonce]: randomSecret(16) }, "gateway_signature"],
      ["too early", body, signed(body, { timestamp_ms: f.clock.now_ms() + 61_000 }), "gateway_clock"],
      ["too late", body, signed(body, { timestamp_ms: f.clock.now_ms() - 61_000 }), "gateway_clock"],
      ["no batch", "[", { "content-type": "application/json" }, "gateway_signature"],
    ];
    for (const [what, text, headers, reason] of cases) {
      const answer = await refusedWith(send(text, headers));
      assert.deepEqual([answer.status, answer.error, answer.reason], [401, "invalid_token", reason], what);
    }
  });

  it("has nothing read of whoever can't sign, and is what its hash says", async () => {
    const body = bodyOf(exchange());
    const head = (headers: Readonly<Record<string, string>>): string =>
      [
        `POST ${EXCHANGES_PATH} HTTP/1.1`,
        "Host: sts",
        `Content-Length: ${Buffer.byteLength(body)}`,
        ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
        "\r\n",
      ].join("\r\n");
    for (const headers of [
      { "content-type": "application/json" },
      signed(body, { key: 9 }),
      { ...signed(body), [GATEWAY_HEADERS.content_sha256]: "" },
    ]) {
      const raw = await openRaw(f.url);
      raw.write(head(headers)); // and not a byte of the body
      const answer = await raw.answer(2_000);
      assert.equal(answer?.status, 401);
      assert.match(answer?.body ?? "", /"gateway_signature"/);
      await raw.closed(2_000);
    }
    const another = bodyOf(exchange({ path: "/orders/8" }));
    const answer = await refusedWith(send(another.padEnd(body.length), signed(body)));
    assert.deepEqual([answer.status, answer.reason], [401, "gateway_signature"]);
  });

  it("is refused whole where it is malformed, by the name of what is wrong", async () => {
    const good = exchange();
    const { path: _path, ...without_path } = good;
    const cases: readonly (readonly [string | Buffer, string])[] = [
      ["", ""],
      ["[", ""],
      ["[]", ""],
      ["null", ""],
      [Buffer.from([0x7b, 0xff, 0x7d]), ""],
      ["{}", "exchanges"],
      [JSON.stringify({ exchanges: {} }), "exchanges"],
      [JSON.stringify({ exchanges: [] }), "exchanges"],
      [JSON.stringify({ exchanges: [good], more: 1 }), "more"],
      [bodyOf(...Array.from({ length: MAX_EXCHANGES + 1 }, () => good)), "exchanges"],
      [JSON.stringify({ exchanges: [good, 7] }), "exchanges.1"],
      [JSON.stringify({ exchanges: [good, [good]] }), "exchanges.1"],
      [JSON.stringify({ exchanges: [good, without_path] }), "exchanges.1.path"],
      [JSON.stringify({ exchanges: [{ ...good, zone_id: 7 }] }), "exchanges.0.zone_id"],
      [JSON.stringify({ exchanges: [{ ...good, scope: null }] }), "exchanges.0.scope"],
      [JSON.stringify({ exchanges: [{ ...good, subject_token: "" }] }), "exchanges.0.subject_token"],
      [JSON.stringify({ exchanges: [{ ...good, client_id: "x" }] }), "exchanges.0.client_id"],
      [`{"exchanges":[${JSON.stringify(good).replace("{", '{"__proto__":{},')}]}`, "exchanges.0.__proto__"],
      [JSON.stringify({ exchanges: [{ ...good, zone_id: "z".repeat(129) }] }), "exchanges.0.zone_id"],
      [JSON.stringify({ exchanges: [{ ...good, request_id: "r".repeat(129) }] }), "exchanges.0.request_id"],
      [JSON.stringify({ exchanges: [{ ...good, path: "p".repeat(64 * 1024 + 1) }] }), "exchanges.0.path"],
    ];
    for (const [body, path] of cases) {
      const answer = await refusedWith(send(body));
      assert.deepEqual(
        [answer.status, answer.error, answer.path],
        [400, "invalid_body", path],
        String(body).slice(0, 60),
      );
    }
  });

  it("takes POST alone, JSON alone, no query and no more than its bytes", async () => {
    const body = bodyOf(exchange());
    const get = await send("", {}, { method: "GET" });
    assert.deepEqual([get.status, get.headers.get("allow")], [405, "POST"]);
    assert.equal((await send(body, { ...signed(body), "content-type": "text/plain" })).status, 415);
    assert.equal((await send(body, { ...signed(body), "content-encoding": "gzip" })).status, 415);
    const path = `${EXCHANGES_PATH}?a=b`;
    assert.equal((await send(body, signed(body, { path }), { path })).status, 400);
    const large = " ".repeat(MAX_EXCHANGES_BYTES) + body;
    const head = { Host: "sts", ...signed(large), "Content-Length": String(large.length) };
    const oversize = await openRaw(f.url);
    oversize.write(requestText("POST", EXCHANGES_PATH, head));
    assert.equal((await oversize.answer())?.status, 413);
    await oversize.closed(); // the body that does not come is not waited for
    const connection = await openRaw(f.url);
    connection.write(requestText("POST", EXCHANGES_PATH, { Host: "sts", ...signed(body), "Content-Length": "500" }));
    connection.write(body.slice(0, 100));
    connection.end();
    const broken = await connection.answer();
    assert.ok(broken === undefined || broken.status === 400);
    connection.destroy();
  });

  it("brings the lines of those that are decided while others are not", async () => {
    const cold = await f.newZone();
    let open = (): void => undefined;
    f.engine.gate = new Promise((resolve) => (open = resolve));
    const activated = f.activate(cold, ALLOW_AGENTS.replace("agents only", "cold"));
    await eventually(
      async () => (await f.db.sql`select 1 from active_policy_sets where zone_id = ${cold}`).length === 1,
    );
    const body = bodyOf(exchange(), exchange({ zone_id: cold }), exchange());
    const connection = await openRaw(f.url);
    try {
      connection.write(requestText("POST", EXCHANGES_PATH, { Host: "sts", ...signed(body) }, body));
      await eventually(() => assert.equal((connection.seen()?.body ?? "").split("\n").length, 3));
      assert.deepEqual(
        (connection.seen()?.body ?? "")
          .trim()
          .split("\n")
          .map((one) => (JSON.parse(one) as Line).exchange)
          .sort(),
        [0, 2],
      );
      assert.equal(connection.seen()?.complete, false);
      open();
      const answer = await connection.answer();
      const last = linesOf(answer?.body ?? "")[1];
      assert.equal(last?.exchange, 1);
      assert.equal(last?.status, 403, "the token's application is none of this zone");
    } finally {
      open();
      connection.destroy();
      await activated;
    }
  });

  it("goes on to its end where the Gateway has gone: what was decided is in the ledger", async () => {
    const ids = ["gone:1", "gone:2"];
    const body = bodyOf(...ids.map((request_id) => exchange({ request_id })));
    const connection = await openRaw(f.url);
    connection.write(requestText("POST", EXCHANGES_PATH, { Host: "sts", ...signed(body) }, body));
    await new Promise((next) => setImmediate(next));
    connection.destroy();
    for (const id of ids) {
      await eventually(async () => assert.ok((await f.eventsOf(id)).length <= 1));
    }
    assert.equal((await ask(exchange()))[0]?.status, 200, "and the server goes on");
  });

  it("is what the Gateway's adapter sends, and its lines what the adapter reads", async () => {
    const sts = createStsHttp({ url: f.url, ring: f.gateway_ring, timeout_ms: 5_000, clock: f.clock });
    try {
      const answers = await Promise.all([
        ...Array.from({ length: 40 }, () => sts.exchange(exchange(), new Cancelling())),
        sts.exchange(exchange({ resource: "resource://nowhere", scope: "" }), new Cancelling()),
      ]);
      assert.ok(answers.slice(0, 40).every((one) => one.ok && one.body.upstreams?.[target.identifier] !== undefined));
      const denied = answers[40];
      assert.deepEqual([denied?.ok, !denied?.ok && denied?.body.reason], [false, "resource_unknown"]);
    } finally {
      await sts.close();
    }
  });

  it("is refused exchange by exchange while the memory of nonces is away", async () => {
    await f.redis.stop();
    const lines = await ask(exchange(), exchange());
    assert.deepEqual(
      lines.map((one) => [one.status, one.body["reason"], one.retry_after_s]),
      [
        [503, "rate_limit_unavailable", 1],
        [503, "rate_limit_unavailable", 1],
      ],
    );
    await f.redis.start();
  });
});
