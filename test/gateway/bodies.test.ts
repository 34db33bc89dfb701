import assert from "node:assert/strict";
import { createServer as createTcpServer, type AddressInfo, type Socket } from "node:net";
import { after, before, describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { createRig, openRaw, requestText, RESOURCE, type Rig } from "./rig.ts";

const LIMIT = 100_000;

const headersOf = (rig: Rig, more: Readonly<Record<string, string>>) => ({
  Authorization: `Bearer ${rig.ambient()}`,
  "X-Caracal-Resource": RESOURCE,
  ...more,
});
const chunk = (size: number): string => `${size.toString(16)}\r\n${"x".repeat(size)}\r\n`;

describe("a request's body", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig({ max_request_bytes: LIMIT });
  });
  after(() => rig.close());

  it("that is chunked passes up to the limit, small and large", async () => {
    rig.upstream((request, response) => {
      let bytes = 0;
      request.on("data", (data: Buffer) => (bytes += data.byteLength)).on("end", () => response.end(`got ${bytes}`));
    });
    for (const sizes of [[10], [40_000, 40_000, 20_000]]) {
      const raw = await openRaw(rig.port);
      raw.write(requestText("POST /", headersOf(rig, { "Transfer-Encoding": "chunked" })));
      for (const size of sizes) raw.write(chunk(size));
      raw.write("0\r\n\r\n");
      await raw.until(new RegExp(`got ${sizes.reduce((sum, size) => sum + size, 0)}`));
      raw.destroy();
    }
  });

  it("that is chunked is cut at the limit: 413, and the upstream never sees a whole body", async () => {
    let ended = false;
    let aborted = false;
    rig.upstream((request) => {
      request
        .on("data", () => undefined)
        .on("end", () => (ended = true))
        .on("error", () => (aborted = true));
    });
    const before_count = await rig.metric("denials_too_large");
    const raw = await openRaw(rig.port);
    raw.write(requestText("POST /", headersOf(rig, { "Transfer-Encoding": "chunked" })));
    const reached = rig.seen.length;
    raw.write(chunk(60_000));
    await eventually(() => rig.seen.length > reached);
    raw.write(chunk(60_000));
    const text = await raw.untilClosed();
    assert.match(text, /^HTTP\/1.1 413 [^]*"error":"RequestTooLarge"/);
    await eventually(() => aborted);
    assert.equal(ended, false);
    assert.equal((await rig.metric("denials_too_large")) - before_count, 1);
    await eventually(() => rig.outcomes().at(-1)?.cut === "too_large");
  });

  it("over the limit after the answer has begun breaks the connection off", async () => {
    rig.upstream((request, response) => {
      request.resume();
      response.write("early");
    });
    const raw = await openRaw(rig.port);
    raw.write(requestText("POST /", headersOf(rig, { "Transfer-Encoding": "chunked" })));
    raw.write(chunk(90_000));
    await raw.until(/early/);
    raw.write(chunk(20_000));
    const text = await raw.untilClosed();
    assert.doesNotMatch(text, /\r\n0\r\n/);
  });

  it("that is still coming in is cut when its session is revoked", async () => {
    let ended = false;
    let closed = false;
    rig.upstream((request) => {
      request
        .on("data", () => undefined)
        .on("end", () => (ended = true))
        .on("close", () => (closed = true))
        .on("error", () => undefined);
    });
    const raw = await openRaw(rig.port);
    raw.write(
      requestText("POST /", {
        ...headersOf(rig, { "Content-Length": "90000" }),
        Authorization: `Bearer ${rig.ambient({ sid: "s-up" })}`,
      }),
    );
    const reached = rig.seen.length;
    raw.write("x".repeat(1_000));
    await eventually(() => rig.seen.length > reached);
    rig.revoke("session", "s-up");
    assert.match(await raw.until(/\}/), /^HTTP\/1.1 401/);
    await eventually(() => closed);
    assert.equal(ended, false);
    raw.destroy();
  });

  it("that the client breaks off is never seen as whole by the upstream", async () => {
    for (const framing of [{ "Content-Length": "90000" }, { "Transfer-Encoding": "chunked" }] as const) {
      let ended = false;
      let closed = false;
      rig.upstream((request) => {
        request
          .on("data", () => undefined)
          .on("end", () => (ended = true))
          .on("close", () => (closed = true))
          .on("error", () => undefined);
      });
      const raw = await openRaw(rig.port);
      raw.write(requestText("POST /", headersOf(rig, framing)));
      const reached = rig.seen.length;
      raw.write("Content-Length" in framing ? "x".repeat(40_000) : chunk(40_000));
      await eventually(() => rig.seen.length > reached);
      raw.destroy();
      await eventually(() => closed);
      assert.equal(ended, false);
    }
  });

  it("with two lengths, or a length and chunks, gets nowhere", async () => {
    const token = rig.ambient();
    const heads = [
      "Content-Length: 4\r\nContent-Length: 5\r\n",
      "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
      "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
      "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
      "Transfer-Encoding : chunked\r\n",
      "Content-Length: +4\r\n",
      "Content-Length: 0x4\r\n",
    ];
    for (const head of heads) {
      const reached = rig.seen.length;
      const raw = await openRaw(rig.port);
      raw.write(
        `POST / HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer ${token}\r\nX-Caracal-Resource: ${RESOURCE}\r\n${head}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: g\r\n\r\n`,
      );
      const text = await raw.untilClosed();
      assert.match(text, /^HTTP\/1.1 400/, head);
      assert.equal(rig.seen.length, reached, head);
    }
  });

  it("that is refused while it is still being sent leaves the client time to read why", async () => {
    const raw = await openRaw(rig.port);
    raw.write(requestText("POST /", headersOf(rig, { "Content-Length": "400000" })));
    raw.write("x".repeat(200_000));
    await raw.until(/"RequestTooLarge"/);
    rig.upstream((_request, response) => response.end("meanwhile"));
    await (await rig.call("/")).text();
    assert.equal(raw.closed(), "no", "it may still be writing");
    raw.write("x".repeat(200_000));
    const text = await raw.untilClosed();
    assert.match(text, /Connection: close[^]*"RequestTooLarge"/);
    assert.equal(raw.closed(), "end", "not reset");
  });

  it("behind a refusal is read on a little, so that the connection can be used again", async () => {
    const raw = await openRaw(rig.port);
    raw.write(
      requestText(
        "POST /",
        { ...headersOf(rig, { "Content-Length": "5" }), "X-Caracal-Resource": "resource://none" },
        "hello",
      ),
    );
    await raw.until(/"AccessDenied"[^}]*\}$/);
    rig.upstream((_request, response) => response.end("second"));
    raw.write(requestText("GET /", headersOf(rig, {})));
    await raw.until(/second/);
    raw.destroy();
  });
});

describe("a large body", () => {
  it("is not read any further where its upstream takes nothing", async () => {
    const MIB = 1024 * 1024;
    const rig = await createRig({ max_request_bytes: 256 * MIB });
    try {
      let read = (): number => 0;
      rig.server.prependListener("request", ({ url, socket }: { url?: string; socket: Socket }) => {
        if (url === "/up") read = () => socket.bytesRead;
      });
      rig.upstream((request, response) => void (request.url === "/up" || response.end()));
      const raw = await openRaw(rig.port);
      raw.write(requestText("POST /up", headersOf(rig, { "Content-Length": String(128 * MIB) })));
      raw.write(Buffer.alloc(128 * MIB));
      await eventually(() => rig.seen.some(({ url }) => url === "/up"));
      // The system's own buffers take some megabytes; then nothing more is taken, whatever else goes on.
      await eventually(async () => {
        const before_bytes = read();
        for (let at = 0; at < 8; at += 1) await (await rig.call("/")).text();
        return read() === before_bytes;
      });
      assert.ok(read() < 64 * MIB, `${read() / MIB} MiB`);
      raw.destroy();
    } finally {
      await rig.close();
    }
  });
});

describe("an upstream", () => {
  it("that can't be reached is 502, and says nothing of its address", async () => {
    const rig = await createRig({ upstream_url: "http://127.0.0.1:1/" });
    try {
      const answer = await rig.call("/");
      assert.equal(answer.status, 502);
      const text = await answer.text();
      assert.match(text, /"error":"BadGateway"/);
      assert.doesNotMatch(text, /127\.0\.0\.1|ECONN/);
      assert.equal(await rig.metric("upstream_errors"), 1);
      await eventually(() => rig.outcomes()[0]?.cut === "upstream" && rig.outcomes()[0]?.status === 502);
    } finally {
      await rig.close();
    }
  });

  it("that does not answer in UPSTREAM_TIMEOUT is 504, to the tenth of a second", async () => {
    const rig = await createRig({ upstream_timeout_ms: 200 });
    let closed = false;
    rig.upstream((_request, response) => response.on("close", () => (closed = true)));
    try {
      const began = performance.now();
      const answer = await rig.call("/");
      const took_ms = performance.now() - began;
      assert.equal(answer.status, 504);
      assert.ok(took_ms >= 195 && took_ms < 600, `${took_ms}`);
      assert.equal(await rig.metric("upstream_errors"), 1);
      await eventually(() => closed);
    } finally {
      await rig.close();
    }
  });

  it("whose answer is not HTTP as it should be is 502 and not passed on", async () => {
    let reply = "";
    const server = createTcpServer((socket: Socket) => {
      socket.on("error", () => undefined);
      socket.once("data", () => socket.end(reply));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const rig = await createRig({ upstream_url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` });
    try {
      for (reply of [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        `HTTP/1.1 200 OK\r\nX-Long: ${"a".repeat(40_000)}\r\n\r\n`,
        "",
      ]) {
        const answer = await rig.call("/").catch((error: unknown) => error as Error);
        if (answer instanceof Response) assert.equal(answer.status, 502, reply.slice(0, 60));
      }
    } finally {
      await rig.close();
      server.close();
    }
  });
});
