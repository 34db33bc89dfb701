import { once } from "node:events";
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { after, afterEach, describe, it } from "node:test";
import type { Limits } from "../../src/http/connections.ts";
import type { Role } from "../../src/http/role.ts";
import { type Binding, bindRole } from "../../src/http/server.ts";
import { createLog } from "../../src/kernel/log.ts";
import { createMetrics } from "../../src/kernel/metrics.ts";
import { StartupFault } from "../../src/kernel/problem.ts";
import { makeCertificates } from "../support/certificates.ts";
import { eventually } from "../support/eventually.ts";

const log = createLog({ level: "silent" });
const bound: Binding[] = [];
afterEach(async () => {
  await Promise.all(bound.splice(0).map((binding) => binding.close(0)));
});

const bind = async (limits: Partial<Limits> = {}): Promise<Binding> => {
  const binding = await bindRole({ name: "api", host: "127.0.0.1", port: 0, tls: undefined, log, limits });
  bound.push(binding);
  return binding;
};

const certificates = makeCertificates();
after(() => certificates.close());
const bindTls = async (limits: Partial<Limits> = {}): Promise<Binding> => {
  const tls = { cert_file: certificates.cert_file, key_file: certificates.key_file };
  const binding = await bindRole({ name: "api", host: "127.0.0.1", port: 0, tls, log, limits });
  bound.push(binding);
  return binding;
};

/** Opens a connection and says no word. */
const silent = async (binding: Binding, host = "127.0.0.1"): Promise<Socket> => {
  const socket = connect({ port: binding.port, host: "127.0.0.1", localAddress: host });
  socket.on("error", () => undefined); // a reset is an end
  socket.resume();
  await once(socket, "connect");
  return socket;
};

const role = (over: Partial<Role> = {}): Role => ({
  name: "api",
  handle: (_request: IncomingMessage, response: ServerResponse) => void response.end("the role's own"),
  services: [],
  ready: [],
  metrics: createMetrics(),
  ...over,
});

const get = (binding: Binding, path: string, init?: RequestInit): Promise<Response> =>
  fetch(`http://127.0.0.1:${binding.port}${path}`, init);

/** Everything that the server says to these bytes, until it closes. */
const raw = async (binding: Binding, bytes: string): Promise<string> => {
  const socket = connect(binding.port, "127.0.0.1");
  let said = "";
  socket.setEncoding("utf8").on("data", (text: string) => (said += text));
  socket.on("error", () => undefined); // a reset is an end
  socket.write(bytes);
  await closed(socket);
  return said;
};

const closed = (socket: Socket): Promise<void> => new Promise((resolve) => socket.once("close", () => resolve()));

/** The server's end of both halves: what is sent then comes back as a reset. This side never ends its own. */
const endedByServer = async (socket: Socket): Promise<void> => {
  socket.on("error", () => undefined);
  await new Promise<void>((resolve) => socket.once("end", () => resolve()).once("close", () => resolve()));
  await eventually(() => {
    if (!socket.destroyed) socket.write("x");
    return socket.destroyed;
  });
};

describe("a role's server", () => {
  it("is alive but not ready until the role is behind it", async () => {
    const binding = await bind();
    assert.equal((await get(binding, "/health")).status, 200);
    assert.equal((await get(binding, "/ready")).status, 503);
    const early = await get(binding, "/v1/zones");
    assert.deepEqual([early.status, early.headers.get("retry-after")], [503, "1"]);
    binding.serve(role());
    assert.equal((await get(binding, "/ready")).status, 200);
    assert.equal(await (await get(binding, "/v1/zones")).text(), "the role's own");
  });

  it("gives each refusal of its own one id: in the header, the body and the log, the caller's where it can be read", async () => {
    const lines: string[] = [];
    const noted = createLog({ level: "debug", destination: { write: (line: string) => void lines.push(line) } });
    const binding = await bindRole({ name: "api", host: "127.0.0.1", port: 0, tls: undefined, log: noted });
    bound.push(binding);
    const end = "Connection: close\r\n\r\n";
    const mine = `X-Request-Id: mine.1\r\n${end}`;
    const refused: readonly (readonly [string, string | undefined])[] = [
      [`GET /v1 HTTP/1.1\r\nHost: a\r\n${mine}`, "mine.1"],
      [`GET /v1 HTTP/1.1\r\nHost: a\r\n${end}`, undefined],
      [`POST /health HTTP/1.1\r\nHost: a\r\n${mine}`, "mine.1"],
      [`GET /health HTTP/1.1\r\n${mine}`, "mine.1"],
      [`GET /health HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n${mine}`, "mine.1"],
      [`CONNECT a:1 HTTP/1.1\r\nHost: a\r\n${mine}`, "mine.1"],
      [`GET / HTTP/1.1\r\nHost: a\r\nno header\r\n${mine}`, undefined],
    ];
    for (const [bytes, given] of refused) {
      lines.length = 0;
      const said = await raw(binding, bytes);
      const in_header = /^x-request-id: (.*)\r$/im.exec(said)?.[1];
      const in_body = /"requestId":"([^"]*)"/.exec(said)?.[1];
      const in_log = lines.map((line) => (JSON.parse(line) as { request_id?: string }).request_id);
      assert.ok(in_header !== undefined && in_header.length > 0, said);
      assert.deepEqual([in_body, in_log], [in_header, [in_header]], bytes);
      if (given !== undefined) assert.equal(in_header, given);
    }
  });

  it("names the condition that keeps it from being ready, also one that hangs or throws", async () => {
    const binding = await bind();
    binding.serve(
      role({
        ready: [
          { name: "database", fault: async () => "can't be reached" },
          { name: "hanging", fault: () => new Promise(() => {}) },
          { name: "throwing", fault: () => Promise.reject(new Error("secret detail")) },
          { name: "fine", fault: () => undefined },
        ],
      }),
    );
    const answer = await get(binding, "/ready");
    assert.equal(answer.status, 503);
    const { faults } = (await answer.json()) as { faults: { check: string; fault: string }[] };
    assert.deepEqual(
      faults.map(({ check }) => check),
      ["database", "hanging", "throwing"],
    );
    assert.ok(!JSON.stringify(faults).includes("secret detail"));
  });

  it("leaves its own pages to the role where the role says so", async () => {
    const binding = await bind();
    binding.serve(role({ owns: (request) => request.headers["x-caracal-resource"] !== undefined }));
    assert.equal(
      await (await get(binding, "/metrics", { headers: { "x-caracal-resource": "resource://demo" } })).text(),
      "the role's own",
    );
    assert.notEqual(await (await get(binding, "/metrics")).text(), "the role's own");
    assert.equal((await get(binding, "/health", { method: "POST" })).status, 405);
  });

  it("answers what is no HTTP with a 400 in JSON and closes, without a stack", async () => {
    const binding = await bind();
    binding.serve(role());
    for (const bytes of [
      "nonsense\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]) {
      const said = await raw(binding, bytes);
      assert.match(said, /^HTTP\/1\.1 400 /);
      assert.match(said, /"error":"invalid_request"/);
      assert.ok(!said.includes("at "));
    }
    assert.match(
      await raw(binding, `GET / HTTP/1.1\r\nHost: a\r\nX-Long: ${"x".repeat(40_000)}\r\n\r\n`),
      /^HTTP\/1\.1 431 /,
    );
  });

  describe("closes a connection of a client that", () => {
    const SOON: Partial<Limits> = { headers_ms: 60, request_ms: 120, check_ms: 20, silent_ms: 300, unread_ms: 60 };
    const head = "POST /x HTTP/1.1\r\nHost: a\r\n";
    /** A role that answers at once, one that waits for the whole body, and one whose answer nobody can hold in a buffer. */
    const AT_ONCE: Partial<Role> = {};
    const WHOLE: Partial<Role> = {
      handle: (request, response) => void request.resume().on("end", () => response.end("whole")),
    };
    const MUCH: Partial<Role> = { handle: (_request, response) => void response.end(Buffer.alloc(16 * 1024 * 1024)) };
    const cases: readonly {
      readonly name: string;
      readonly bytes: string;
      readonly over: Partial<Role>;
      readonly says: RegExp;
    }[] = [
      { name: "says nothing", bytes: "", over: AT_ONCE, says: /^HTTP\/1\.1 408 .*"request_timeout"/s },
      {
        name: "does not end its headers",
        bytes: "GET / HTTP/1.1\r\nHost: a\r\nX-",
        over: AT_ONCE,
        says: /^HTTP\/1\.1 408 .*"request_timeout"/s,
      },
      {
        name: "does not end the body that is waited for",
        bytes: `${head}Content-Length: 9\r\n\r\nabc`,
        over: WHOLE,
        says: /^HTTP\/1\.1 408 .*"request_timeout"/s,
      },
      {
        name: "does not end a chunked body",
        bytes: `${head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n`,
        over: WHOLE,
        says: /^HTTP\/1\.1 408 /s,
      },
      {
        name: "does not send the body behind an answer",
        bytes: `${head}Content-Length: 9\r\n\r\nabc`,
        over: AT_ONCE,
        says: /^HTTP\/1\.1 200 .*the role's own$/s,
      },
      {
        name: "keeps its half open behind a refusal",
        bytes: "nonsense\r\n\r\n",
        over: AT_ONCE,
        says: /^HTTP\/1\.1 400 .*}$/s,
      },
      {
        name: "keeps its half open behind CONNECT",
        bytes: "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        over: AT_ONCE,
        says: /^HTTP\/1\.1 405 .*}$/s,
      },
    ];
    for (const { name, bytes, over, says } of cases) {
      it(name, async () => {
        const binding = await bind(SOON);
        binding.serve(role(over));
        const socket = connect({ port: binding.port, host: "127.0.0.1", allowHalfOpen: true }); // it never ends its own half
        let said = "";
        socket.setEncoding("utf8").on("data", (text: string) => (said += text));
        socket.write(bytes);
        await endedByServer(socket);
        assert.match(said, says);
      });
    }

    it("does not read an answer", async () => {
      const binding = await bind(SOON);
      let response: ServerResponse | undefined;
      binding.serve(role({ handle: (request, answer) => ((response = answer), MUCH.handle?.(request, answer)) }));
      const socket = connect(binding.port, "127.0.0.1").on("error", () => undefined);
      socket.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
      await eventually(() => response !== undefined);
      await eventually(() => response?.destroyed === true);
      socket.destroy();
    });

    it("asks for more at once than it reads answers of", async () => {
      const binding = await bind({ unanswered: 8 });
      let calls = 0;
      binding.serve(role({ handle: () => void (calls += 1) }));
      const said = await raw(binding, "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1_000));
      assert.deepEqual([said, calls], ["", 8]);
    });
  });

  describe("does not keep a connection for a client that", () => {
    it("begins a TLS handshake and does not finish it, even where a byte comes now and then", async () => {
      const binding = await bindTls({ handshake_ms: 200 });
      const sockets = await Promise.all([silent(binding), silent(binding)]);
      const hello = Buffer.from([0x16, 3, 1, 0x40, 0]); // a record of 16 KiB that never comes
      sockets[1]?.write(hello);
      const drip = setInterval(() => sockets[1]?.write(Buffer.alloc(1, 1)), 20);
      await Promise.all(sockets.map((socket) => closed(socket)));
      clearInterval(drip);
    });

    for (const over of ["http", "https"] as const) {
      it(`says nothing, while others come: the oldest of such goes, whose request came stays (${over})`, async () => {
        const limits = { newcomers: 8, newcomers_of_one: 4 };
        const binding = await (over === "http" ? bind(limits) : bindTls(limits));
        binding.serve(role());
        const first = await silent(binding, "127.0.0.9");
        const raw_socket = await silent(binding);
        const kept =
          over === "http" ? raw_socket : connectTls({ socket: raw_socket, ca: certificates.ca, host: "127.0.0.1" });
        kept.on("error", () => undefined);
        let said = "";
        kept.on("data", (chunk: Buffer) => (said += chunk.toString()));
        const ask = async (times: number): Promise<void> => {
          kept.write("GET /x HTTP/1.1\r\nHost: x\r\n\r\n");
          await eventually(() => said.split("the role's own").length - 1 === times);
        };
        await ask(1);
        const quiet: Socket[] = [];
        for (let at = 0; at < 6; at += 1) quiet.push(await silent(binding));
        await eventually(() => quiet.filter((socket) => socket.destroyed).length === 2);
        assert.deepEqual(
          quiet.map((socket) => socket.destroyed),
          [true, true, false, false, false, false],
          "four of one address may be silent, the newest of them",
        );
        assert.equal(first.destroyed, false, "another address is not concerned");
        for (const host of ["127.0.0.3", "127.0.0.4"])
          for (let at = 0; at < 2; at += 1) quiet.push(await silent(binding, host));
        await eventually(() => first.destroyed); // eight in all
        assert.equal(quiet.filter((socket) => socket.destroyed).length, 2);
        await ask(2);
        for (const socket of [...quiet, kept]) socket.destroy();
      });
    }
  });

  it("serves what is pipelined, in its order, and a silent stream of a role that watches over its own", async () => {
    const binding = await bind({ silent_ms: 50, unanswered: 8 });
    let open: ServerResponse | undefined;
    const handle: Role["handle"] = (request, response) => {
      if (request.url === "/stream") (open = response).flushHeaders();
      else response.end(request.url);
    };
    binding.serve(role({ long_answers: true, handle }));
    const gets = Array.from(
      { length: 64 },
      (_, at) => `GET /${at} HTTP/1.1\r\nHost: a\r\n${at === 63 ? "Connection: close\r\n" : ""}\r\n`,
    );
    const socket = connect(binding.port, "127.0.0.1");
    let said = "";
    socket.setEncoding("utf8").on("data", (text: string) => (said += text));
    for (let at = 0; at < 64; at += 8) {
      socket.write(gets.slice(at, at + 8).join(""));
      await eventually(() => (said.match(/HTTP\/1\.1 200/g) ?? []).length === at + 8);
    }
    assert.deepEqual(
      said.match(/\/\d+$|\/\d+(?=HTTP)/g),
      gets.map((_, at) => `/${at}`),
    );
    const stream = connect(binding.port, "127.0.0.1");
    stream.write("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    await eventually(() => open !== undefined);
    const began = performance.now();
    await eventually(() => performance.now() - began > 200); // four times its patience
    assert.equal(open?.destroyed, false);
    stream.destroy();
  });

  it("watches over its own pages also where the role watches over its answers", async () => {
    const binding = await bind({ silent_ms: 50 });
    const metrics = { ...createMetrics(), text: async () => "x".repeat(16 * 1024 * 1024) };
    let served: Socket | undefined;
    binding.serve(role({ long_answers: true, metrics, owns: (request) => ((served = request.socket), false) }));
    const socket = connect(binding.port, "127.0.0.1").on("error", () => undefined);
    socket.write("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"); // and reads nothing
    await eventually(() => served?.destroyed === true);
    socket.destroy();
  });

  it("answers nothing in another answer's place when what follows can't be read", async () => {
    const binding = await bind({ unread_ms: 100 });
    const waiting: ServerResponse[] = [];
    const handle: Role["handle"] = (request, response) => {
      if (request.url === "/waits") waiting.push(response);
      else response.end("answered");
    };
    binding.serve(role({ handle }));
    const head = "HTTP/1.1\r\nHost: a\r\n";
    const body = `${head}Transfer-Encoding: chunked\r\n\r\n`;
    assert.equal(await raw(binding, `GET /waits ${head}\r\nnonsense\r\n\r\n`), "", "the answer is still due");
    assert.match(
      await raw(binding, `GET / ${head}\r\nnonsense\r\n\r\n`),
      /^(?!.*HTTP\/1\.1 400.*answered)/s,
      "none in front",
    );
    const answered = await raw(binding, `POST / ${body}nonsense\r\n\r\n`);
    assert.equal(answered.match(/HTTP\/1\.1 /g)?.length, 1, "one request, one answer");
    assert.match(answered, /answered$/);
    assert.match(
      await raw(binding, `POST /waits ${body}nonsense\r\n\r\n`),
      /^HTTP\/1\.1 400 /,
      "it is this one that can't be read",
    );
    assert.equal(waiting.length, 2);
  });

  it("gives a client that sends all before it reads the time to read why it was refused", async () => {
    const binding = await bind();
    binding.serve(role());
    const socket = connect(binding.port, "127.0.0.1").pause();
    socket.on("error", () => undefined);
    socket.write("GET /");
    for (let piece = 0; piece < 64; piece += 1) {
      await new Promise<void>((resolve) => socket.write("x".repeat(64 * 1024), () => resolve()));
    }
    let said = "";
    socket.setEncoding("utf8").on("data", (text: string) => (said += text));
    await closed(socket.resume());
    assert.match(said, /^HTTP\/1\.1 431 .*"invalid_request"/s);
  });

  it("refuses a version that it does not speak", async () => {
    const binding = await bind();
    binding.serve(role());
    for (const version of ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/3.0"]) {
      assert.match(
        await raw(binding, `GET / ${version}\r\nHost: a\r\n\r\n`),
        /^HTTP\/1\.1 400 .*"invalid_request"/s,
        version,
      );
    }
  });

  it("refuses more headers than it reads, and an expectation that it can't meet", async () => {
    const binding = await bind();
    binding.serve(role());
    const many = Array.from({ length: 200 }, (_, at) => `X-${at}: 1\r\n`).join("");
    assert.match(
      await raw(binding, `GET / HTTP/1.1\r\nHost: a\r\n${many}\r\n`),
      /^HTTP\/1\.1 431 .*"invalid_request"/s,
    );
    assert.match(
      await raw(binding, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: a miracle\r\n\r\n"),
      /^HTTP\/1\.1 417 .*"invalid_request"/s,
    );
  });

  it("survives a client that asks for a tunnel and resets", async () => {
    const binding = await bind();
    binding.serve(role());
    for (let at = 0; at < 20; at += 1) {
      const socket = connect(binding.port, "127.0.0.1");
      socket.on("error", () => undefined);
      await once(socket, "connect");
      socket.write("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n");
      socket.resetAndDestroy();
    }
    assert.equal((await get(binding, "/health")).status, 200);
  });

  it("breaks the connection off, and writes nothing into it, when what follows an answer in hand is no HTTP", async () => {
    const binding = await bind();
    binding.serve(
      role({
        handle: (request, response) => {
          request.resume();
          response.write("the first part");
        },
      }),
    );
    const socket = connect(binding.port, "127.0.0.1");
    let said = "";
    socket.setEncoding("utf8").on("data", (text: string) => (said += text));
    socket.on("error", () => undefined);
    socket.write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    while (!said.includes("the first part")) await once(socket, "data");
    socket.write("nonsense\r\n\r\n");
    await once(socket, "close");
    assert.ok(!said.includes("HTTP/1.1 400"));
    assert.ok(!said.endsWith("0\r\n\r\n"), "the cut answer does not look whole");
  });

  it("breaks the connection off where a tunnel is asked for behind a call, whether its answer has begun or not", async () => {
    const binding = await bind();
    const handle: Role["handle"] = (request, response) => {
      if (request.url === "/begun") response.write("the first part");
    };
    binding.serve(role({ handle }));
    const tunnel = "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n";
    assert.match(await raw(binding, tunnel), /^HTTP\/1\.1 405 .*"method_not_allowed"/s, "alone it is answered");
    assert.equal(await raw(binding, `GET /waits HTTP/1.1\r\nHost: a\r\n\r\n${tunnel}`), "");
    const socket = connect(binding.port, "127.0.0.1");
    let said = "";
    socket.setEncoding("utf8").on("data", (text: string) => (said += text));
    socket.on("error", () => undefined);
    socket.write("GET /begun HTTP/1.1\r\nHost: a\r\n\r\n");
    while (!said.includes("the first part")) await once(socket, "data");
    socket.write(tunnel);
    await closed(socket);
    assert.doesNotMatch(said, /405/);
    assert.ok(!said.endsWith("0\r\n\r\n"), "the cut answer does not look whole");
  });

  it("ends the connection behind a request for another protocol, since what came with that is lost", async () => {
    const binding = await bind();
    binding.serve(role({ handle: (request, response) => void response.end(`answer to ${request.url};`) }));
    const upgrade = "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    const said = await raw(binding, `${upgrade}GET /lost HTTP/1.1\r\nHost: a\r\n\r\n`);
    assert.match(said, /^HTTP\/1\.1 200 .*Connection: close\r\n.*answer to \/upgrade;$/is);
    const expecting = upgrade.replace("Host", "Expect: a miracle\r\nHost");
    assert.match(await raw(binding, `${expecting}GET /lost HTTP/1.1\r\nHost: a\r\n\r\n`), /^HTTP\/1\.1 417 /);
  });

  it("drains: says not ready, lets the call in hand finish, then closes", async () => {
    const binding = await bind();
    let finish: () => void = () => {};
    let entered: () => void = () => {};
    const inside = new Promise<void>((resolve) => (entered = resolve));
    binding.serve(
      role({
        handle: (_request, response) => {
          finish = () => void response.end("finished");
          entered();
        },
      }),
    );
    const call = get(binding, "/slow");
    await inside;
    binding.notReady();
    assert.equal((await get(binding, "/ready")).status, 503);
    const closed = binding.close(10_000);
    finish();
    assert.equal(await (await call).text(), "finished");
    await closed;
    await assert.rejects(get(binding, "/health"));
  });

  it("cuts what does not finish within the deadline", async () => {
    const binding = await bind();
    let entered: () => void = () => {};
    const inside = new Promise<void>((resolve) => (entered = resolve));
    binding.serve(role({ handle: () => entered() }));
    const call = get(binding, "/never").catch(() => "cut");
    await inside;
    await binding.close(10);
    assert.equal(await call, "cut");
  });

  it("says which variable to change when a port is taken or a certificate is none", async () => {
    const first = await bind();
    const fault = (options: { port: number; tls?: { cert_file: string; key_file: string } }): Promise<string> =>
      bindRole({ name: "gateway", host: "127.0.0.1", tls: undefined, log, ...options }).then(
        () => assert.fail("it was bound"),
        (error: unknown) => (error instanceof StartupFault ? error.message : assert.fail(String(error))),
      );
    assert.match(
      await fault({ port: first.port }),
      /^GATEWAY_PORT: 127\.0\.0\.1:\d+ is taken by another process; stop it or set GATEWAY_PORT/,
    );
    const dir = mkdtempSync(join(tmpdir(), "caracal-tls-"));
    writeFileSync(join(dir, "x.pem"), "no certificate");
    assert.match(
      await fault({ port: 0, tls: { cert_file: join(dir, "x.pem"), key_file: join(dir, "x.pem") } }),
      /^TLS_CERT_FILE and TLS_KEY_FILE/,
    );
    assert.match(
      await fault({ port: 0, tls: { cert_file: join(dir, "none"), key_file: join(dir, "none") } }),
      /^TLS_CERT_FILE: .* can't be read \(ENOENT\)/,
    );
    rmSync(dir, { recursive: true });
  });
});
