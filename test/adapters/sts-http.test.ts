import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { after, before, beforeEach, describe, it } from "node:test";
import { createStsHttp } from "../../src/adapters/sts-http/index.ts";
import { type GatewayExchange, MAX_EXCHANGES, readBatch } from "../../src/contracts/exchange.ts";
import { contentSha256, GATEWAY_HEADERS, isGatewayCall } from "../../src/domain/gateway-signature.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { type Cancellation, Cancelling } from "../../src/kernel/cancel.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { StsTimeout } from "../../src/ports/sts.ts";
import { Unavailable } from "../../src/ports/streams.ts";
import { eventually } from "../support/eventually.ts";

const ring = keyring(Buffer.alloc(32, 7));
const REQUEST: GatewayExchange = {
  zone_id: "z 1",
  subject_token: "a.b.c",
  resource: "resource://demo?&=",
  scope: "read write",
  method: "POST",
  path: '/x/ü"\\',
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
  upstreams: { "resource://demo": { url: "http://upstream.test", auth_mode: "caracal_jwt" } },
  decision_id: "d",
  auth_exp: 1_900_000_000,
};
const REFUSAL = { error: "access_denied", error_description: "d", reason: "policy_denied", requestId: "r1" };
const TIMEOUT_MS = 300;

const granted = (exchange: number, some: object = {}): string =>
  `${JSON.stringify({ exchange, status: 200, body: { ...ANSWER, ...some } })}\n`;
const refused = (exchange: number): string => `${JSON.stringify({ exchange, status: 403, body: REFUSAL })}\n`;

/** A batch as the server got it. */
type Batch = {
  readonly exchanges: readonly GatewayExchange[];
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly body: string;
};

describe("the STS over HTTP", () => {
  let server: Server;
  let handler: (request: IncomingMessage, response: ServerResponse, body: string) => void;
  let batches: Batch[] = [];
  let sts: ReturnType<typeof createStsHttp>;
  before(async () => {
    server = createServer((request, response) => {
      let body = "";
      request.setEncoding("utf8");
      request.on("data", (chunk: string) => (body += chunk)).on("end", () => handler(request, response, body));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/behind/`;
    sts = createStsHttp({ url, ring, timeout_ms: TIMEOUT_MS, clock: systemClock });
  });
  beforeEach(() => {
    batches = [];
    handler = () => undefined;
  });
  after(async () => {
    await sts.close();
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  });
  const json = (response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void =>
    void response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
  const onBatch = (answer: (batch: Batch) => void): void => {
    handler = (request, response, body) => {
      const { exchanges } = JSON.parse(body) as { exchanges: GatewayExchange[] };
      const batch = { exchanges, request, response, body };
      batches.push(batch);
      answer(batch);
    };
  };
  const say = (batch: Batch, ...lines: string[]): void => void batch.response.writeHead(200).end(lines.join(""));
  const exchange = (some: Partial<GatewayExchange> = {}, signal: Cancellation = new Cancelling()) =>
    sts.exchange({ ...REQUEST, ...some }, signal);
  const several = (count: number) => Array.from({ length: count }, (_, i) => exchange({ request_id: `r${i}` }));
  const settled = async (work: readonly Promise<unknown>[]): Promise<readonly string[]> =>
    (await Promise.allSettled(work)).map((one) =>
      one.status === "fulfilled" ? "answered" : (one.reason as Error).name,
    );

  it("is asked with a signed batch, and its answer read", async () => {
    let signed = false;
    onBatch((batch) => {
      const header = (name: string): string => String(batch.request.headers[name]);
      const call = {
        method: batch.request.method ?? "",
        path: batch.request.url ?? "",
        timestamp_ms: Number(header(GATEWAY_HEADERS.timestamp)),
        nonce: header(GATEWAY_HEADERS.nonce),
        content_sha256: contentSha256(Buffer.from(batch.body)),
      };
      signed =
        isGatewayCall(ring, call, header(GATEWAY_HEADERS.signature)) &&
        header(GATEWAY_HEADERS.content_sha256) === call.content_sha256.toString("base64url");
      say(batch, granted(0));
    });
    assert.deepEqual(await exchange(), { ok: true, body: ANSWER });
    assert.equal(signed, true, "over the path as it was asked for, its prefix included");
    assert.equal(batches[0]?.request.url, "/behind/internal/v1/exchanges");
    assert.deepEqual(batches[0]?.exchanges, [REQUEST]);
    assert.ok(!("path" in readBatch(JSON.parse(batches[0]?.body ?? ""))));
  });

  it("says no in an answer, with its wait", async () => {
    const body = { error: "temporarily_unavailable", error_description: "d", reason: "rate_limited", requestId: "r1" };
    onBatch((batch) => say(batch, `${JSON.stringify({ exchange: 0, status: 429, retry_after_s: 9, body })}\n`));
    assert.deepEqual(await exchange(), { ok: false, status: 429, body, retry_after_s: 9 });
  });

  it("takes what one tick asks for in one request, each with its own answer in whatever order", async () => {
    onBatch((batch) => {
      const lines = batch.exchanges.map((one, i) => granted(i, { access_token: one.request_id }));
      say(batch, ...lines.toReversed());
    });
    const answers = await Promise.all(several(5));
    assert.deepEqual(
      answers.map((one) => one.ok && one.body.access_token),
      ["r0", "r1", "r2", "r3", "r4"],
    );
    assert.equal(batches.length, 1);
    assert.notEqual(
      batches[0]?.request.headers[GATEWAY_HEADERS.nonce],
      (await exchange(), batches[1]?.request.headers[GATEWAY_HEADERS.nonce]),
    );
  });

  it("is never sent more in one request than agreed, by number and by size", async () => {
    onBatch((batch) => say(batch, ...batch.exchanges.map((_, i) => granted(i))));
    await Promise.all(several(2 * MAX_EXCHANGES + 1));
    assert.deepEqual(batches.map((one) => one.exchanges.length).sort(), [1, MAX_EXCHANGES, MAX_EXCHANGES]);
    batches = [];
    const path = `/${"x".repeat(60_000)}`;
    await Promise.all(Array.from({ length: 20 }, () => exchange({ path })));
    assert.ok(batches.length >= 2);
    assert.ok(batches.every((one) => Buffer.byteLength(one.body) <= 512 * 1024));
  });

  it("answers for it that an exchange is too large, and sends the others", async () => {
    onBatch((batch) => say(batch, ...batch.exchanges.map((_, i) => granted(i))));
    const [large, small] = await Promise.all([exchange({ path: `/${"\u0001".repeat(20_000)}` }), exchange()]);
    assert.deepEqual(
      [large?.ok, !large?.ok && large?.status, !large?.ok && large?.body.reason],
      [false, 413, "form_too_large"],
    );
    assert.equal(small?.ok, true);
    assert.equal(batches[0]?.exchanges.length, 1);
  });

  it("holds up no exchange by a slow one", async () => {
    let slow: Batch | undefined;
    onBatch((batch) => {
      slow = batch;
      batch.response.writeHead(200).write(granted(1));
    });
    const [first, second, third] = several(3) as [Promise<unknown>, Promise<unknown>, Promise<unknown>];
    await second;
    slow?.response.write(refused(2));
    await third;
    slow?.response.end(granted(0));
    assert.deepEqual(await settled([first]), ["answered"]);
  });

  it("may cut its lines wherever it likes", async () => {
    onBatch(({ response }) => {
      const bytes = Buffer.from(granted(0, { scope: "ü€😀" }) + granted(1));
      response.writeHead(200);
      let at = 0;
      const next = (): void => {
        const size = 1 + ((at * 7) % 23);
        if (at < bytes.byteLength) response.write(bytes.subarray(at, at + size));
        else response.end();
        at += size;
        if (at - size < bytes.byteLength) setImmediate(next);
      };
      next();
    });
    const [first] = await Promise.all(several(2));
    assert.equal(first?.ok && first.body.scope, "ü€😀");
  });

  it("that answers something else than agreed gives no decision, and is not asked a second time", async () => {
    const odd: ((batch: Batch) => void)[] = [
      (batch) => say(batch, `${JSON.stringify({ exchange: 0, status: 200, body: {} })}\n`),
      (batch) => say(batch, granted(0, { token_type: "mac" })),
      (batch) => say(batch, `${JSON.stringify({ exchange: 0, status: 403, body: { error: "access_denied" } })}\n`),
      (batch) => say(batch, `${JSON.stringify({ exchange: 0, status: 302, body: REFUSAL })}\n`),
      (batch) => say(batch),
      (batch) => say(batch, granted(0).slice(0, -1)),
      (batch) => say(batch, granted(0).slice(0, 40)),
      (batch) => say(batch, "\n", granted(0)),
      (batch) => say(batch, granted(1)),
      (batch) => say(batch, granted(-1)),
      (batch) => say(batch, granted(0.5)),
      (batch) => say(batch, "[]\n"),
      (batch) => say(batch, "null\n"),
      (batch) => say(batch, granted(0, { scope: "x".repeat(70 * 1024) })),
      (batch) => say(batch, "x".repeat(300 * 1024)),
      ({ response }) => void response.writeHead(502).end("<html>bad gateway</html>"),
      ({ response }) => void response.writeHead(302, { location: "http://evil.test/" }).end(),
      ({ response }) => void response.writeHead(204).end(),
      ({ response }) => void response.destroy(),
      ({ response }) => void response.writeHead(200, { "content-length": "1000" }).write("{", () => response.destroy()),
    ];
    for (const [i, answer] of odd.entries()) {
      batches = [];
      onBatch(answer);
      await assert.rejects(exchange(), Unavailable, `answer ${i}`);
      assert.equal(batches.length, 1, "a call is never sent twice");
    }
  });

  it("says by its status why it takes no batch", async () => {
    handler = (_request, response) =>
      json(response, 401, { error: "invalid_token", message: "m", requestId: "r", reason: "gateway_clock" });
    assert.deepEqual(await settled(several(3)), Array(3).fill("Unavailable"));
    await assert.rejects(exchange(), /status 401, gateway_clock/);
  });

  it("leaves those without a line undecided where the connection breaks or a line can't be believed", async () => {
    const broken: ((batch: Batch) => void)[] = [
      ({ response }) => void response.writeHead(200).write(granted(1), () => response.destroy()),
      (batch) => say(batch, granted(1)),
      (batch) => say(batch, granted(1), "{}\n", granted(0), granted(2)),
      (batch) => say(batch, granted(1), granted(7), granted(0), granted(2)),
      (batch) => say(batch, granted(1), refused(1), granted(0), granted(2)),
      (batch) => say(batch, granted(1), granted(0).slice(0, 50)),
    ];
    for (const [i, answer] of broken.entries()) {
      batches = [];
      onBatch(answer);
      assert.deepEqual(await settled(several(3)), ["Unavailable", "answered", "Unavailable"], `answer ${i}`);
      assert.equal(batches.length, 1);
    }
  });

  it("fails one exchange alone where only its answer has another form", async () => {
    onBatch((batch) => say(batch, granted(0), granted(1, { expires_in: "soon" }), granted(2)));
    assert.deepEqual(await settled(several(3)), ["answered", "Unavailable", "answered"]);
  });

  it("that is silent when it is asked for its state or for keys times out", async () => {
    await assert.rejects(sts.bindings({ since: undefined }), StsTimeout);
    await assert.rejects(sts.jwks("zone"), StsTimeout);
  });

  it("that is slow is waited for as long as the caller waits, in the middle of its answer, too", async () => {
    let closed = 0;
    onBatch(({ response }) => {
      response.on("close", () => (closed += 1));
      response.writeHead(200).write(granted(1) + granted(0).slice(0, 30));
    });
    const cancel = new Cancelling();
    const work = [exchange({}, cancel), exchange()];
    assert.ok((await work[1])?.ok);
    assert.equal(closed, 0);
    cancel.cancel();
    assert.deepEqual(await settled(work), ["Unavailable", "answered"]);
    await eventually(() => assert.equal(closed, 1));
  });

  it("loses one caller of a batch without the others, and is let go of when all have given up", async () => {
    let closed = 0;
    onBatch(({ response }) => void response.on("close", () => (closed += 1)));
    const [one, two] = [new Cancelling(), new Cancelling()];
    const gone = exchange({}, one);
    const stays = exchange({}, two);
    await eventually(() => assert.equal(batches.length, 1));
    one.cancel();
    await assert.rejects(gone, Unavailable);
    assert.equal(closed, 0);
    batches[0]?.response.writeHead(200).end(granted(0) + granted(1));
    assert.ok((await stays).ok);

    closed = 0;
    const [three, four] = [new Cancelling(), new Cancelling()];
    const both = [exchange({}, three), exchange({}, four)];
    await eventually(() => assert.equal(batches.length, 2));
    three.cancel();
    four.cancel();
    assert.deepEqual(await settled(both), ["Unavailable", "Unavailable"]);
    await eventually(() => assert.equal(closed, 1));
  });

  it("is not asked for whom has given up before anything was sent", async () => {
    onBatch((batch) => say(batch, ...batch.exchanges.map((_, i) => granted(i))));
    const cancel = new Cancelling();
    const gone = exchange({ request_id: "gone" }, cancel);
    const stays = exchange({ request_id: "stays" });
    cancel.cancel();
    await assert.rejects(gone, Unavailable);
    assert.ok((await stays).ok);
    await assert.rejects(exchange({}, cancel), Unavailable);
    assert.deepEqual(
      batches.flatMap((one) => one.exchanges).map((one) => one.request_id),
      ["stays"],
    );
  });

  const limited = (max_batches: number, timeout_ms: number): ReturnType<typeof createStsHttp> =>
    createStsHttp({
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      ring,
      timeout_ms,
      clock: systemClock,
      max_batches,
    });
  const turn = (): Promise<void> => new Promise((next) => setImmediate(() => setImmediate(next)));

  it("gives a connection back when nobody waits for what it has not said, nor for ever for the end of what it has", async () => {
    const own = limited(1, TIMEOUT_MS);
    onBatch(({ response }) => void response.writeHead(200).write(granted(1)));
    const cancel = new Cancelling();
    const gone = own.exchange(REQUEST, cancel);
    const stays = own.exchange(REQUEST, new Cancelling());
    await eventually(() => assert.equal(batches.length, 1));
    cancel.cancel();
    assert.deepEqual(await settled([gone, stays]), ["Unavailable", "answered"]);
    onBatch(({ response }) => void response.writeHead(200).write(granted(0))); // and never ends
    assert.deepEqual(await settled([own.exchange(REQUEST, new Cancelling())]), ["answered"]);
    onBatch((batch) => say(batch, granted(0)));
    let answered = false;
    const waits = own.exchange(REQUEST, new Cancelling()).then(({ ok }) => (answered = ok));
    try {
      await eventually(() => answered, { timeout_ms: 5_000 });
    } finally {
      await own.close();
      await waits.catch(() => undefined);
    }
  });

  it("keeps nothing of callers that left, while every connection is held up", async () => {
    const own = limited(1, 60_000);
    onBatch(() => undefined);
    const held = own.exchange(REQUEST, new Cancelling());
    await eventually(() => assert.equal(batches.length, 1));
    const signals: WeakRef<object>[] = [];
    for (let i = 0; i < 20_000; i += 1) {
      const cancel = new Cancelling();
      own.exchange(REQUEST, cancel).catch(() => undefined);
      if (i < 100) signals.push(new WeakRef(cancel));
      cancel.cancel();
      if (i % 100 === 0) await turn();
    }
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    await turn();
    collect();
    assert.equal(signals.filter((one) => one.deref() !== undefined).length, 0);
    const batch = batches[0] as Batch;
    say(batch, granted(0));
    assert.ok((await held).ok);
    await own.close();
  });

  it("gets no more requests at once than connections, and what waits goes together", async () => {
    const own = limited(64, 5_000);
    onBatch(() => undefined);
    const asked: Promise<unknown>[] = [];
    for (let i = 0; i < 80; i += 1) {
      asked.push(own.exchange(REQUEST, new Cancelling()));
      await turn();
    }
    await eventually(() => assert.equal(batches.length, 64));
    assert.ok(batches.every((one) => one.exchanges.length === 1));
    const first = batches[0] as Batch;
    say(first, granted(0));
    await eventually(() => assert.equal(batches.length, 65));
    assert.equal(batches[64]?.exchanges.length, 16);
    for (const batch of batches.slice(1)) say(batch, ...batch.exchanges.map((_, i) => granted(i)));
    assert.ok((await settled(asked)).every((one) => one === "answered"));
    await own.close();
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
    assert.equal(await sts.bindings({ since: "v/1" }), undefined);
    handler = (request, response) => (note(request), json(response, 200, { version: "2", zones: [] }));
    assert.deepEqual(await sts.bindings({ since: undefined }), { version: "2", zones: [] });
    assert.deepEqual(await sts.bindings({ cursor: "c=2" }), { version: "2", zones: [] });
    assert.deepEqual(await sts.bindings({ zone_id: "z&2" }), { version: "2", zones: [] });
    handler = (request, response) => (note(request), json(response, 200, { position: "5-0", zones: [] }));
    assert.deepEqual(await sts.revocations("c=1"), { position: "5-0", zones: [] });
    handler = (request, response) => (note(request), json(response, 401, {}));
    await assert.rejects(sts.bindings({ since: undefined }), Unavailable);
    assert.deepEqual(asked.slice(0, 7), [
      { url: "/behind/.well-known/jwks.json?zone_id=z%261", signed: false },
      { url: "/behind/.well-known/jwks.json?zone_id=none", signed: false },
      { url: "/behind/internal/v1/bindings?since=v%2F1", signed: true },
      { url: "/behind/internal/v1/bindings", signed: true },
      { url: "/behind/internal/v1/bindings?cursor=c%3D2", signed: true },
      { url: "/behind/internal/v1/bindings?zone_id=z%262", signed: true },
      { url: "/behind/internal/v1/revocations?cursor=c%3D1", signed: true },
    ]);
  });

  it("answers for its state while all that it may be asked for keys hangs", async () => {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const own = createStsHttp({ url, ring, timeout_ms: 5_000, clock: systemClock });
    let hanging = 0;
    handler = (request, response) => {
      if (request.url?.startsWith("/.well-known/") === true) hanging += 1;
      else json(response, 200, { version: "2", zones: [] });
    };
    const keys = Array.from({ length: 40 }, (_, at) => own.jwks(`zone-${at}`).catch((error: unknown) => error));
    await eventually(() => hanging > 0);
    assert.deepEqual(await own.bindings({ since: undefined }), { version: "2", zones: [] });
    await own.close();
    assert.ok((await Promise.all(keys)).every((one) => one instanceof Unavailable));
  });

  it("that is not there is unavailable", async () => {
    const nobody = createStsHttp({ url: "http://127.0.0.1:1", ring, timeout_ms: 300, clock: systemClock });
    await assert.rejects(nobody.exchange(REQUEST, new Cancelling()), Unavailable);
    await nobody.close();
  });
});
