import assert from "node:assert/strict";
import { createServer, type RequestListener, type Server } from "node:http";
import {
  type AddressInfo,
  connect,
  createServer as createTcpServer,
  type Server as TcpServer,
  type Socket,
} from "node:net";
import { after, afterEach, describe, it } from "node:test";
import { createServer as createTlsServer } from "node:tls";
import { createEgress, createUpstreams } from "../../../src/adapters/egress/index.ts";
import { systemClock } from "../../../src/kernel/clock.ts";
import type { EgressTarget, RunningUpstreamCall, UpstreamFailure, Upstreams } from "../../../src/ports/egress.ts";
import type { NoShare } from "../../../src/kernel/shares.ts";
import { makeCertificates } from "../../support/certificates.ts";
import { eventually } from "../../support/eventually.ts";

const servers: Server[] = [];
const bare: TcpServer[] = [];
const pools: Upstreams[] = [];
const serve = async (listener: RequestListener): Promise<number> => {
  const server = createServer(listener);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
};
const certificates = makeCertificates();
after(() => certificates.close());
/** An upstream that says these bytes, and then ends as `end` does. */
const saying = async (
  text: string | readonly string[],
  end: (socket: Socket) => void,
  over: "http" | "https" = "http",
): Promise<number> => {
  const speak = (socket: Socket): void => {
    socket.on("error", () => undefined);
    socket.once("data", () => {
      for (const part of typeof text === "string" ? [text] : text) socket.write(part);
      setTimeout(() => end(socket), 50);
    });
  };
  const { cert, key } = certificates;
  const server = over === "http" ? createTcpServer(speak) : createTlsServer({ cert, key }, speak);
  bare.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
};
const upstreams = (limit = 8, keep_alive_ms = 4_000): Upstreams => {
  const shares = { limit, zone_share: 0.75, client_share: 0.5 };
  const made = createUpstreams({ connect_timeout_ms: 1_000, shares, ca: certificates.ca, keep_alive_ms });
  pools.push(made);
  return made;
};
/** A target under a name that only this guard knows. */
const targetOf = async (url: string, ...addresses: readonly string[]): Promise<EgressTarget> => {
  const egress = createEgress({
    allow_private: false,
    allow_loopback: true,
    allowlist: [],
    production: false,
    clock: systemClock,
    resolver: async () => (addresses.length === 0 ? ["127.0.0.1"] : addresses),
  });
  const target = await egress.check(new URL(url), "zone");
  assert.ok(!("refused" in target));
  return target;
};

/** `failure`: also the bound that stood against a place. */
type Result = {
  status?: number;
  headers?: readonly string[];
  body: string;
  failure?: UpstreamFailure | NoShare["bound"];
};
const run = (of: Upstreams, target: EgressTarget, zone_id = "zone", client_id = "client") => {
  const result: Result = { body: "" };
  let call: RunningUpstreamCall | undefined;
  const done = new Promise<Result>((resolve) => {
    const place = of.place(target, zone_id, client_id);
    if (!place.ok) {
      resolve({ body: "", failure: place.bound });
      return;
    }
    call = place.call(
      { method: "GET", path: "/", headers: [], body: null },
      {
        onInformation: () => undefined,
        onHeaders: (status, headers) => Object.assign(result, { status, headers }),
        onData: (chunk) => ((result.body += chunk.toString()), true),
        onEnd: () => resolve(result),
        onError: (failure) => resolve({ ...result, failure }),
      },
    );
  });
  return { done, result, abort: () => call?.abort() };
};

/** `resetAndDestroy` is of TCP alone. */
const resetOf = (socket: Socket & { _parent?: Socket }): void => void (socket._parent ?? socket).resetAndDestroy();

/**
 * As `run`, for a caller that takes no more from the first chunk on, and goes on after `pause_ms`. `more`: what it does
 * with what comes all the same.
 */
const runPaused = async (
  of: Upstreams,
  target: EgressTarget,
  pause_ms: number,
  more: (call: RunningUpstreamCall) => void = () => undefined,
) => {
  let goOn: (() => void) | undefined;
  let body = "";
  let paused = false;
  return new Promise<Result>((resolve) => {
    const place = of.place(target, "zone", "client");
    assert.ok(place.ok);
    const call: RunningUpstreamCall = place.call(
      { method: "GET", path: "/", headers: [], body: null },
      {
        onInformation: () => undefined,
        onHeaders: (_status, _headers, resume) => (goOn = resume),
        onData(chunk) {
          body += chunk.toString("latin1");
          if (paused) {
            more(call);
            return true;
          }
          paused = true;
          setTimeout(() => goOn?.(), pause_ms);
          return false;
        },
        onEnd: () => resolve({ body }),
        onError: (failure) => resolve({ body, failure }),
      },
    );
  });
};

afterEach(async () => {
  for (const pool of pools.splice(0)) await pool.close();
  for (const server of bare.splice(0)) await new Promise((done) => server.close(done));
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  }
});

describe("an upstream's pool", () => {
  it("dials the address that was checked, under the target's own name, whatever the system's DNS says", async () => {
    const port = await serve((request, response) => response.end(request.headers.host));
    const target = await targetOf(`http://never-resolved.invalid:${port}/`);
    const { status, body } = await run(upstreams(), target).done;
    assert.equal(status, 200);
    assert.equal(body, `never-resolved.invalid:${port}`);
  });

  /** Takes connections on a port of another loopback address and does `what` with them. */
  const at = async (address: string, port: number, what: (socket: Socket) => void): Promise<Socket[]> => {
    const taken: Socket[] = [];
    const server = createTcpServer((socket) => {
      taken.push(socket);
      socket.on("error", () => undefined);
      socket.resume(); // a paused one hears of no end
      what(socket);
    });
    bare.push(server);
    await new Promise<void>((resolve) => server.listen(port, address, resolve));
    return taken;
  };

  it("dials the next address where one refuses, and stays with the one that answered", async () => {
    const port = await serve((_request, response) => response.writeHead(200, { connection: "close" }).end("here"));
    const target = await targetOf(`http://many.invalid:${port}/`, "127.0.0.2", "127.0.0.3", "127.0.0.1");
    const of = upstreams();
    assert.equal((await run(of, target).done).body, "here");
    const late = await at("127.0.0.2", port, (socket) => socket.destroy());
    for (let call = 0; call < 3; call += 1) assert.equal((await run(of, target).done).body, "here");
    assert.equal(late.length, 0);
  });

  it("dials the next address where one is silent in the handshake, within the time for all of them", async () => {
    const port = await saying(`HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere`, (socket) => socket.end(), "https");
    const target = (...addresses: readonly string[]) => targetOf(`https://localhost:${port}/`, ...addresses);
    const silent = await at("127.0.0.2", port, () => undefined);
    silent.push(...(await at("127.0.0.3", port, () => undefined)));
    const of = upstreams();
    const began_ms = performance.now();
    assert.equal((await run(of, await target("127.0.0.2", "127.0.0.3", "127.0.0.1")).done).body, "here");
    assert.ok(performance.now() - began_ms < 1_000, "the silent ones had a third of the time each");
    assert.equal((await run(of, await target("127.0.0.3", "127.0.0.2")).done).failure, "timeout");
    await eventually(() => silent.every((socket) => socket.destroyed));
  });

  it("dials no other address once a byte of the call was sent", async () => {
    let calls = 0;
    const port = await serve((_request, response) => ((calls += 1), response.end("here")));
    const first = await at("127.0.0.2", port, (socket) => socket.once("data", () => socket.resetAndDestroy()));
    const target = await targetOf(`http://many.invalid:${port}/`, "127.0.0.2", "127.0.0.1");
    assert.equal((await run(upstreams(), target).done).failure, "failed");
    assert.equal(first.length, 1);
    assert.equal(calls, 0);
  });

  it("tries no address after it was closed", async () => {
    const of = upstreams();
    let closing: Promise<void> | undefined;
    const port = await saying("", () => undefined);
    const first = await at("127.0.0.2", port, () => (closing ??= of.close()));
    const second = await at("127.0.0.3", port, () => undefined);
    const call = run(of, await targetOf(`https://many.invalid:${port}/`, "127.0.0.2", "127.0.0.3"));
    assert.equal((await call.done).failure, "failed");
    await closing;
    await eventually(() => first[0]?.destroyed === true);
    const ours = connect(port, "127.0.0.3");
    await eventually(() => second.length > 0);
    assert.equal(second[0]?.remotePort, ours.localPort, "nobody came before");
    ours.destroy();
  });

  it("does not mix the addresses of one name", async () => {
    const port = await serve((_request, response) => response.end("here"));
    const of = upstreams();
    assert.equal((await run(of, await targetOf(`http://moved.invalid:${port}/`)).done).body, "here");
    const elsewhere = await run(of, await targetOf(`http://moved.invalid:${port}/`, "127.0.0.2")).done;
    assert.equal(elsewhere.failure, "failed", "no connection to the first address was used");
  });

  it("lets a client's streams take its share, a zone's its own, and leaves others the rest", async () => {
    const port = await serve((_request, response) => void response.write("open"));
    const of = upstreams(8);
    const target = await targetOf(`http://127.0.0.1:${port}/`);
    const open: ReturnType<typeof run>[] = [];
    const opens = async (zone: string, client: string): Promise<void> => {
      const call = run(of, target, zone, client);
      open.push(call);
      await eventually(() => call.result.body === "open");
    };
    const refused = async (zone: string, client: string) => (await run(of, target, zone, client).done).failure;
    for (let at = 0; at < 4; at += 1) await opens("a", "greedy");
    assert.equal(await refused("a", "greedy"), "client");
    await opens("a", "second");
    await opens("a", "third");
    assert.equal(await refused("a", "fourth"), "zone");
    await opens("b", "greedy");
    await opens("c", "one");
    assert.equal(await refused("d", "one"), "process");
    const elsewhere = await targetOf(`http://localhost:${port}/`);
    const other = run(of, elsewhere, "a", "greedy");
    await eventually(() => other.result.body === "open"); // another upstream has a bound of its own
    open[0]?.abort();
    await open[0]?.done;
    await opens("a", "greedy");
    assert.equal(await refused("a", "greedy"), "client");
  });

  it("holds a place from the moment it is given, until it is given back or its call has ended", async () => {
    const port = await serve((_request, response) => response.end("here"));
    const of = upstreams(2);
    const target = await targetOf(`http://127.0.0.1:${port}/`);
    const place = of.place(target, "zone", "client");
    assert.ok(place.ok);
    assert.equal((await run(of, target).done).failure, "client");
    place.release();
    place.release();
    assert.equal((await run(of, target).done).body, "here");
    const first = of.place(target, "zone", "client");
    assert.ok(first.ok);
    const call = { method: "GET", path: "/", headers: [], body: null };
    const silent = { onInformation() {}, onHeaders() {}, onData: () => true, onEnd() {}, onError() {} };
    const ended = new Promise<void>((resolve) => first.call(call, { ...silent, onEnd: () => resolve() }));
    first.release();
    assert.equal((await run(of, target).done).failure, "client", "a call goes by it");
    assert.throws(() => first.call(call, silent), "it serves one call");
    assert.throws(() => place.call(call, silent), "it was given back");
    await ended;
    assert.equal((await run(of, target).done).body, "here");
  });

  it("is not kept idle for longer than it wants to be, however long the upstream would have it", async () => {
    let open = 0;
    const port = await serve((_request, response) => {
      response.writeHead(200, { "keep-alive": "timeout=600", connection: "keep-alive" }).end("kept");
    });
    servers.at(-1)?.on("connection", (socket: Socket) => {
      open += 1;
      socket.once("close", () => (open -= 1));
    });
    (servers.at(-1) as Server).keepAliveTimeout = 600_000;
    const pool = upstreams(8, 100);
    const target = await targetOf(`http://127.0.0.1:${port}`);
    assert.equal((await run(pool, target).done).body, "kept");
    await eventually(() => open === 0, { timeout_ms: 20_000 });
  });

  it("counts a name's calls over all addresses that it had, and forgets what has ended", async () => {
    const port = await serve((_request, response) => void response.write("open"));
    const of = upstreams(2);
    const open = run(of, await targetOf(`http://moving.invalid:${port}/`, "127.0.0.1"));
    await eventually(() => open.result.body === "open");
    const moved = await targetOf(`http://moving.invalid:${port}/`, "127.0.0.2", "127.0.0.1");
    assert.equal((await run(of, moved).done).failure, "client");
    open.abort();
    await open.done;
    for (let at = 0; at < 5; at += 1) {
      const call = run(of, moved);
      await eventually(() => call.result.body === "open");
      call.abort();
      await call.done;
    }
  });

  it("tells a call that was aborted, and one that nobody answers", async () => {
    let closed = false;
    const port = await serve((_request, response) => void response.on("close", () => (closed = true)));
    const of = upstreams();
    const call = run(of, await targetOf(`http://127.0.0.1:${port}/`));
    await eventually(() => new Promise((done) => servers[0]?.getConnections((_error, count) => done(count === 1))));
    call.abort();
    assert.equal((await call.done).failure, "aborted");
    await eventually(() => closed);
    assert.equal((await run(of, await targetOf("http://127.0.0.1:1/")).done).failure, "failed");
  });

  it("ends what is running when it closes", async () => {
    const port = await serve((_request, response) => void response.write("open"));
    const of = upstreams();
    const call = run(of, await targetOf(`http://127.0.0.1:${port}/`));
    await eventually(() => call.result.body === "open");
    await of.close();
    assert.equal((await call.done).failure, "failed");
    assert.equal((await run(of, await targetOf(`http://127.0.0.1:${port}/`)).done).failure, "process");
  });

  const HEAD = "HTTP/1.1 200 OK\r\n";
  const WHOLE: Readonly<Record<string, string | readonly string[]>> = {
    "has a length and closes": `${HEAD}Connection: close\r\nContent-Length: 5\r\n\r\nhello`,
    "has a length and keeps alive": `${HEAD}Content-Length: 5\r\n\r\nhello`,
    "has chunks and closes": `${HEAD}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`,
    "has chunks and keeps alive": `${HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n`,
    "ends with its connection": `${HEAD}\r\nhello`,
    "is of HTTP/1.0": "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
  };
  const CUT: Readonly<Record<string, string>> = {
    "has a length": `${HEAD}Connection: close\r\nContent-Length: 50\r\n\r\nhello`,
    "has chunks": `${HEAD}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n`,
  };
  const paused = async (port: number, over: "http" | "https", pause_ms: number): Promise<Result> =>
    runPaused(upstreams(), await targetOf(`${over}://127.0.0.1:${port}/`), pause_ms);

  for (const over of ["http", "https"] as const) {
    for (const [what, text] of Object.entries(WHOLE)) {
      it(`takes an answer that ${what} as a whole, though its caller paused when the upstream closed (${over})`, async () => {
        const port = await saying(text, (socket) => socket.end(), over);
        assert.deepEqual(await paused(port, over, 150), { body: "hello" });
      });
    }

    it(`takes an abort for one in the moment in which the upstream's connection ends (${over})`, async () => {
      const port = await saying(`${HEAD}\r\nhello`, (socket) => socket.end(), over);
      const target = await targetOf(`${over}://127.0.0.1:${port}/`);
      const result = await runPaused(upstreams(), target, 150, (call) => call.abort());
      assert.deepEqual(result, { body: "hello", failure: "aborted" });
    });

    it(`leaves what a paused caller does not take to the network, and gives all of it in the end (${over})`, async () => {
      const much = "x".repeat(8 * 1024 * 1024);
      const port = await saying([`${HEAD}Connection: close\r\n\r\n`, much], (socket) => socket.end(), over);
      const result = await paused(port, over, 150);
      assert.equal(result.failure, undefined);
      assert.equal(result.body.length, much.length);
    });

    for (const pause_ms of [1, 150]) {
      for (const [what, text] of Object.entries(CUT)) {
        it(`tells an answer that ${what} and ends early from a whole one (${over}, caller pauses ${pause_ms} ms)`, async () => {
          const cut = { body: "hello", failure: "failed" };
          const ended = await saying(text, (socket) => socket.end(), over);
          assert.deepEqual(await paused(ended, over, pause_ms), cut);
          const reset = await saying(text, (socket) => resetOf(socket), over);
          assert.deepEqual(await paused(reset, over, pause_ms), cut);
        });
      }

      it(`takes no reset for the end of an answer that ends with its connection (${over}, caller pauses ${pause_ms} ms)`, async () => {
        const port = await saying(`${HEAD}\r\nhello`, (socket) => resetOf(socket), over);
        assert.deepEqual(await paused(port, over, pause_ms), { body: "hello", failure: "failed" });
      });
    }
  }
});
