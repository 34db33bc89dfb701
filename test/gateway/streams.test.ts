import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { afterEach, beforeEach, describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { createRig, openRaw, requestText, RESOURCE, type Rig, type RigOptions } from "./rig.ts";

type Stream = {
  readonly raw: Awaited<ReturnType<typeof openRaw>>;
  readonly upstream: ServerResponse;
  upstreamClosed(): boolean;
};

const headersOf = (rig: Rig, more: Readonly<Record<string, string>> = {}, sid = "session-1") => ({
  Authorization: `Bearer ${rig.ambient({ sid })}`,
  "X-Caracal-Resource": RESOURCE,
  ...more,
});

/** An answer that has begun and goes on until somebody ends it. */
const startStream = async (
  rig: Rig,
  options: {
    readonly sid?: string;
    readonly headers?: Readonly<Record<string, string>>;
    readonly answer?: Record<string, string>;
    readonly version?: string;
  } = {},
): Promise<Stream> => {
  let upstream: ServerResponse | undefined;
  let closed = false;
  rig.upstream((request, response) => {
    upstream = response;
    request.on("close", () => undefined);
    response.on("close", () => (closed = true));
    response.writeHead(200, options.answer ?? { "content-type": "text/event-stream" });
    response.write("data: 0\n\n");
  });
  const raw = await openRaw(rig.port);
  const text = requestText("GET /stream", headersOf(rig, options.headers, options.sid));
  raw.write(options.version === undefined ? text : text.replace("HTTP/1.1", options.version));
  await raw.until(/data: 0\n/);
  assert.ok(upstream !== undefined);
  return { raw, upstream, upstreamClosed: () => closed };
};

/** How an outcome of this cut comes to be in the ledger. */
const outcomeOf = (rig: Rig, cut: string) => eventually(() => rig.outcomes().find((one) => one.cut === cut) ?? null);

describe("a running answer", () => {
  let rig: Rig;
  const start = async (options: RigOptions = {}): Promise<void> => {
    rig = await createRig(options);
  };
  beforeEach(() => {
    rig = undefined as unknown as Rig;
  });
  afterEach(() => rig?.close());

  it("of a revoked session is cut at once, also while it is idle, so that it does not look complete", async () => {
    await start();
    const stream = await startStream(rig, { sid: "s-1" });
    const other = await startStream(rig, { sid: "s-2" });
    rig.revoke("session", "s-1");
    const text = await stream.raw.untilClosed(500);
    assert.doesNotMatch(text, /\r\n0\r\n/, "the last chunk never came");
    await eventually(() => stream.upstreamClosed());
    await outcomeOf(rig, "revoked");
    other.upstream.write("data: 1\n\n");
    await other.raw.until(/data: 1\n/);
    assert.equal(other.raw.closed(), "no", "another session's goes on");
    other.raw.destroy();
  });

  it("of a revoked session ends with the trailer where the client reads trailers", async () => {
    await start();
    const stream = await startStream(rig, { sid: "s-1", headers: { TE: "trailers", Connection: "TE" } });
    rig.revoke("session", "s-1");
    const text = await stream.raw.until(/\r\n0\r\n[^]*\r\n\r\n$/);
    assert.match(text, /Trailer: X-Caracal-Revoked\r\n/);
    assert.match(text, /\r\n0\r\nX-Caracal-Revoked: true\r\n\r\n$/);
    await eventually(() => stream.upstreamClosed());
    stream.raw.destroy();
  });

  it("with a length is broken off before its length is reached, trailers or not", async () => {
    await start();
    const stream = await startStream(rig, {
      sid: "s-1",
      headers: { TE: "trailers" },
      answer: { "content-length": "1000" },
    });
    rig.revoke("session", "s-1");
    const text = await stream.raw.untilClosed(500);
    assert.match(text, /Content-Length: 1000/i);
    assert.doesNotMatch(text, /Trailer|Revoked/i);
    assert.ok((text.split("\r\n\r\n")[1] ?? "").length < 1000);
  });

  it("to a client of HTTP/1.0, which ends with the connection, is reset", async () => {
    await start();
    const stream = await startStream(rig, { sid: "s-1", version: "HTTP/1.0" });
    rig.revoke("session", "s-1");
    await stream.raw.untilClosed(500);
    assert.equal(stream.raw.closed(), "error", "not an ordinary end");
  });

  it("is cut for a mark that came without an event: at a snapshot, and within 4 KiB", async () => {
    await start();
    const stream = await startStream(rig, { sid: "s-1" });
    rig.snapshot("session", "s-1");
    await stream.raw.untilClosed(500);
    const other = await startStream(rig, { sid: "s-2" });
    const before = other.raw.text().length;
    rig.mark("session", "s-2");
    other.upstream.write("x".repeat(3_000));
    other.upstream.write("x".repeat(3_000));
    await other.raw.untilClosed(500);
    assert.ok(other.raw.text().length - before < 4_200, "no more than 4 KiB passed");
  });

  it("is cut for a revoked agent session, edge or grant too", async () => {
    await start();
    for (const [kind, claim] of [
      ["agent_session", "agent_session_id"],
      ["delegation_edge", "delegation_edge_id"],
      ["grant", "grant_id"],
    ] as const) {
      let closed = false;
      rig.upstream((_request, response) => {
        response.on("close", () => (closed = true));
        response.write("begun");
      });
      const raw = await openRaw(rig.port);
      const token = rig.ambient({ [claim]: `${kind}-1` });
      raw.write(requestText("GET /", { Authorization: `Bearer ${token}`, "X-Caracal-Resource": RESOURCE }));
      await raw.until(/begun/);
      rig.revoke(kind, `${kind}-1`);
      await raw.untilClosed(500);
      await eventually(() => closed);
    }
  });

  it("is cut by what the mandate stands for, where the ambient token does not name it", async () => {
    await start();
    rig.sts.answer = (request) => {
      const allowed = rig.allow(request);
      assert.ok(allowed.ok);
      return { ok: true, body: { ...allowed.body, grant_id: "g-of-the-mandate" } };
    };
    const stream = await startStream(rig, { sid: "s-1" });
    rig.revoke("grant", "g-of-the-mandate");
    await stream.raw.untilClosed(500);
    await eventually(() => stream.upstreamClosed());
  });

  it("is cut by any edge or agent session on the way to the mandate's, and by the session of who acts", async () => {
    await start();
    for (const [kind, at] of [
      ["agent_session", 0],
      ["delegation_edge", 1],
      ["agent_session", 1],
      ["delegation_edge", 2],
      ["session", "actor"],
    ] as const) {
      const id = (what: string, n: number | string): string => `${what}-${n} until ${kind}-${at}`;
      const link = (n: number) => ({ application_id: "app", agent_session_id: id("agent_session", n) });
      const edge = (n: number) => ({ ...link(n), delegation_edge_id: id("delegation_edge", n) });
      rig.sts.answer = (request) => {
        const allowed = rig.allow(request);
        assert.ok(allowed.ok);
        return { ok: true, body: { ...allowed.body, delegation_chain: [link(0), edge(1), edge(2), edge(3)] } };
      };
      let closed = false;
      rig.upstream((_request, response) => {
        response.on("close", () => (closed = true));
        response.write("begun");
      });
      const raw = await openRaw(rig.port);
      const token = rig.ambient({ act: { sub: "actor", sid: id("session", "actor") } });
      raw.write(requestText("GET /", { Authorization: `Bearer ${token}`, "X-Caracal-Resource": RESOURCE }));
      await raw.until(/begun/);
      rig.revoke(kind, id(kind, at));
      await raw.untilClosed(500);
      await eventually(() => closed);
    }
  });

  it("that has not begun is answered with 401, and the upstream's call ends", async () => {
    await start();
    let aborted = false;
    rig.upstream((_request, response) => response.on("close", () => (aborted = true)));
    const pending = rig.call("/", { token: rig.ambient({ sid: "s-1" }) });
    await eventually(() => rig.seen.length === 1);
    rig.revoke("session", "s-1");
    const answer = await pending;
    assert.equal(answer.status, 401);
    assert.equal(((await answer.json()) as { error: string }).error, "InvalidToken");
    await eventually(() => aborted);
    assert.equal((await outcomeOf(rig, "revoked")).status, 401);
  });

  it("waits while the revocation state is stale, and goes on, or not, when it is fresh again", async () => {
    await start();
    const stream = await startStream(rig, { sid: "s-1" });
    const revoked = await startStream(rig, { sid: "s-2" });
    rig.setAge(10_001);
    stream.upstream.write("data: held\n\n");
    revoked.upstream.write("data: secret\n\n");
    const fence = rig.call("/health-of-the-test"); // by now both chunks have been read
    assert.equal((await fence).status, 503);
    await eventually(async () => (await rig.metric("calls_running")) === 2);
    assert.doesNotMatch(stream.raw.text(), /held/);
    rig.mark("session", "s-2");
    rig.setAge(0);
    await stream.raw.until(/data: held\n/);
    const text = await revoked.raw.untilClosed(1_000);
    assert.doesNotMatch(text, /secret/);
    stream.raw.destroy();
  });

  it("that waits from its headers on keeps its order", async () => {
    await start();
    let answer = (): void => undefined;
    rig.upstream((_request, response) => {
      answer = () => {
        response.write("one ");
        response.end("two");
      };
    });
    const pending = rig.call("/");
    await eventually(() => rig.seen.length === 1);
    rig.setAge(10_001);
    answer();
    assert.equal((await rig.call("/")).status, 503);
    rig.setAge(0);
    assert.equal(await (await pending).text(), "one two");
  });

  it("that waits from its headers on is given up in time, and says why", async () => {
    await start({ upstream_timeout_ms: 300 });
    let answer = (): void => undefined;
    rig.upstream((_request, response) => {
      answer = () => {
        response.writeEarlyHints({ link: "</secret>; rel=preload" });
        response.end("secret");
      };
    });
    const raw = await openRaw(rig.port);
    raw.write(requestText("GET /", headersOf(rig)));
    await eventually(() => rig.seen.length === 1);
    rig.setAge(10_001);
    answer();
    await raw.until(/revocation_stale/);
    assert.match(raw.text(), /^HTTP\/1\.1 503 [^]*retry-after: \d/i);
    assert.doesNotMatch(raw.text(), /secret/);
    assert.equal((await outcomeOf(rig, "stale")).status, 503);
    raw.destroy();
  });

  it("ends at auth_exp, not at the mandate's end", async () => {
    await start();
    rig.sts.answer = (request) => rig.allow(request, Math.ceil(Date.now() / 1000) + 1);
    const stream = await startStream(rig);
    const text = await stream.raw.untilClosed(3_000);
    assert.doesNotMatch(text, /\r\n0\r\n/);
    await outcomeOf(rig, "expired");
  });

  it("ends after STREAM_IDLE_TIMEOUT without a byte, and not before", async () => {
    await start({ stream_idle_timeout_ms: 300 });
    const stream = await startStream(rig);
    for (let at = 1; at <= 5; at += 1) {
      const sent = performance.now();
      await eventually(() => performance.now() - sent > 120);
      stream.upstream.write(`data: ${at}\n\n`);
    }
    assert.equal(stream.raw.closed(), "no");
    await stream.raw.untilClosed(1_000);
    await outcomeOf(rig, "idle");
  });

  it("ends after STREAM_MAX_SECONDS however busy it is", async () => {
    await start({ stream_max_s: 0.5 });
    const stream = await startStream(rig);
    const busy = setInterval(() => stream.upstream.write("data: x\n\n"), 20);
    try {
      await stream.raw.untilClosed(2_000);
    } finally {
      clearInterval(busy);
    }
    await outcomeOf(rig, "max");
  });

  it("ends its upstream's call when the client goes away", async () => {
    await start();
    const stream = await startStream(rig);
    stream.raw.destroy();
    await eventually(() => stream.upstreamClosed());
    await outcomeOf(rig, "client");
    await eventually(async () => (await rig.metric("calls_running")) === 0);
  });

  it("ends its upstream's call also where it waits behind another answer on a connection that the client closes", async () => {
    await start();
    let open = 0;
    rig.upstream((_request, response) => {
      open += 1;
      response.on("close", () => (open -= 1));
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: 0\n\n");
    });
    const raw = await openRaw(rig.port);
    raw.write(requestText("GET /", headersOf(rig)).repeat(5));
    await eventually(() => open === 5);
    raw.destroy();
    await eventually(() => open === 0);
    await eventually(async () => (await rig.metric("calls_running")) === 0);
    assert.deepEqual(
      rig.outcomes().map(({ cut }) => cut),
      Array.from({ length: 5 }, () => "client"),
    );
  });

  it("leaves nothing behind on a connection that carries many, one behind the other", async () => {
    await start();
    const warnings: string[] = [];
    const onWarning = ({ message }: Error): void => void warnings.push(message);
    process.on("warning", onWarning);
    const connections: Socket[] = [];
    rig.server.on("connection", (socket: Socket) => connections.push(socket));
    rig.upstream((_request, response) => void response.end("answer "));
    const raw = await openRaw(rig.port);
    raw.write(requestText("GET /", headersOf(rig)));
    await raw.until(/answer /);
    const listeners = connections[0]?.listenerCount("close");
    raw.write(requestText("GET /", headersOf(rig)).repeat(20));
    await eventually(() => raw.text().match(/answer /g)?.length === 21);
    await eventually(() => rig.outcomes().length === 21);
    assert.equal(connections[0]?.listenerCount("close"), listeners);
    process.off("warning", onWarning);
    assert.deepEqual(warnings, []);
    raw.destroy();
  });

  it("that the upstream breaks off does not look complete either", async () => {
    await start();
    const stream = await startStream(rig);
    stream.upstream.destroy();
    const text = await stream.raw.untilClosed();
    assert.doesNotMatch(text, /\r\n0\r\n/);
    await outcomeOf(rig, "upstream");
    assert.equal(await rig.metric("upstream_errors"), 0, "the upstream had answered");
  });

  it("is slowed down by a client that does not read, and holds no more than a few buffers", async () => {
    await start();
    let written = 0;
    let upstream: ServerResponse | undefined;
    rig.upstream((_request, response) => {
      upstream = response;
      response.writeHead(200, { "content-type": "application/octet-stream" });
      const push = (): void => {
        written += 64 * 1024;
        if (response.write(Buffer.alloc(64 * 1024)) && written < 256 * 1024 * 1024) setImmediate(push);
        else response.once("drain", push);
      };
      push();
    });
    const raw = await openRaw(rig.port);
    raw.socket.pause();
    raw.write(requestText("GET /flood", headersOf(rig)));
    let last = -1;
    await eventually(
      () => {
        const settled = written > 0 && written === last;
        last = written;
        return settled;
      },
      { every_ms: 100 },
    );
    assert.ok(written < 64 * 1024 * 1024, `${written} bytes were taken for a client that reads none`);
    assert.ok(upstream !== undefined);
    raw.destroy();
    await eventually(() => upstream?.destroyed === true);
  });

  it("of events ends when the process drains; another is left to end by itself", async () => {
    await start();
    const events = await startStream(rig);
    const plain = await startStream(rig, { answer: { "content-type": "text/plain" } });
    rig.role.drain?.();
    await events.raw.untilClosed(500);
    plain.upstream.end("data: last\n\n");
    assert.match(await plain.raw.until(/\r\n0\r\n\r\n$/), /data: last/);
    plain.raw.destroy();
  });

  it("of events is not begun any more behind the drain; another is", async () => {
    await start();
    const answers: (() => void)[] = [];
    rig.upstream((request, response) => {
      answers.push(() => {
        response.writeHead(200, { "content-type": request.url === "/events" ? "text/event-stream" : "text/plain" });
        response.write("data: 0\n\n");
        if (request.url !== "/events") response.end();
      });
    });
    const events = rig.call("/events");
    const plain = rig.call("/plain");
    await eventually(() => answers.length === 2);
    rig.role.drain?.();
    for (const answer of answers) answer();
    assert.equal((await events).status, 503);
    assert.equal(await (await plain).text(), "data: 0\n\n");
    assert.equal((await outcomeOf(rig, "drain")).status, 503);
  });

  describe("of an upstream that closes its connection", () => {
    /** An upstream that says `text` and hands its connection over. `heard`: the call is there, and not answered. */
    const startBare = async (
      text: string,
      said: (socket: Socket) => void,
      heard: () => void = () => undefined,
    ): Promise<() => Promise<void>> => {
      const sockets: Socket[] = [];
      const bare = createServer((socket) => {
        sockets.push(socket.on("error", () => undefined));
        socket.once("data", () => {
          heard();
          socket.write(text, () => said(socket));
        });
      });
      await new Promise<void>((resolve) => bare.listen(0, "127.0.0.1", resolve));
      await start({ upstream_url: `http://127.0.0.1:${(bare.address() as AddressInfo).port}` });
      return async () => {
        for (const socket of sockets) socket.destroy();
        await new Promise((done) => bare.close(done));
      };
    };

    for (const connection of ["close", "keep-alive"]) {
      it(`is passed on as a whole where it had to wait for a fresh revocation state (${connection})`, async () => {
        let closed = false;
        const text = `HTTP/1.1 200 OK\r\nConnection: ${connection}\r\nContent-Length: 5\r\n\r\nhello`;
        const close = await startBare(
          text,
          (socket) => socket.on("close", () => (closed = true)).end(),
          () => rig.setAge(10_001),
        );
        const raw = await openRaw(rig.port);
        raw.write(requestText("GET /", headersOf(rig)));
        await eventually(() => closed);
        assert.equal(raw.text(), "");
        rig.setAge(0);
        await raw.until(/^HTTP\/1\.1 200 [^]*\r\n\r\nhello$/);
        raw.destroy();
        await eventually(() => rig.outcomes().some(({ cut }) => cut === false));
        await close();
      });
    }

    it("and resets it, does not look complete where its connection is its only end", async () => {
      const close = await startBare("HTTP/1.1 200 OK\r\n\r\nhello", (socket) => {
        setTimeout(() => socket.resetAndDestroy(), 50);
      });
      const raw = await openRaw(rig.port);
      raw.write(requestText("GET /", headersOf(rig)));
      const text = await raw.untilClosed();
      assert.match(text, /hello/);
      assert.doesNotMatch(text, /\r\n0\r\n/);
      await outcomeOf(rig, "upstream");
      await close();
    });
  });
});
