import assert from "node:assert/strict";
import { createServer as createTcpServer, type AddressInfo, type Socket } from "node:net";
import { after, before, describe, it } from "node:test";
import { createRig, openRaw, requestText, RESOURCE, RESOURCE_ID, type Rig, ZONE } from "./rig.ts";
import { eventually } from "../support/eventually.ts";

const headersOf = (rig: Rig, more: Readonly<Record<string, string>> = {}) => ({
  Authorization: `Bearer ${rig.ambient()}`,
  "X-Caracal-Resource": RESOURCE,
  ...more,
});

/** A Gateway before an upstream that says whatever it likes, and what ends both. */
const withRawUpstream = async (answer: (socket: Socket) => void, run: (rig: Rig) => Promise<void>): Promise<void> => {
  const sockets = new Set<Socket>();
  const server = createTcpServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("data", () => answer(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const rig = await createRig({ upstream_url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` });
  try {
    await run(rig);
  } finally {
    await rig.close();
    for (const socket of sockets) socket.destroy();
    server.close();
  }
};

const OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const INTERIM = "HTTP/1.1 102 Processing\r\n\r\n";
const HINT = `HTTP/1.1 103 Early Hints\r\nX-Fill: ${"a".repeat(9_000)}\r\n\r\n`;

describe("interim answers of an upstream", () => {
  it("are passed on up to four of them", () =>
    withRawUpstream(
      (socket) => void socket.write(INTERIM.repeat(4) + OK),
      async (rig) => {
        const raw = await openRaw(rig.port);
        raw.write(requestText("GET /", headersOf(rig)));
        const text = await raw.until(/ok$/);
        assert.equal(text.split("102 Processing").length - 1, 4);
        raw.destroy();
      },
    ));

  for (const [what, interim] of [
    ["more than four", INTERIM.repeat(5)],
    ["more than 16 KiB", HINT.repeat(2)],
  ] as const) {
    it(`end the call where there are ${what} of them, and the next call passes`, async () => {
      let text = interim + OK;
      await withRawUpstream(
        (socket) => void socket.write(text),
        async (rig) => {
          const refused = await rig.call("/");
          assert.equal(refused.status, 502);
          assert.equal(((await refused.json()) as { reason: string }).reason, "upstream_interim_excess");
          text = OK;
          assert.equal(await (await rig.call("/")).text(), "ok");
        },
      );
    });
  }
});

describe("an answer that has no body by its status", () => {
  for (const [status, head, length] of [
    [304, 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: "x"\r\n\r\n', /Content-Length: 5/],
    [204, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", /^(?![^]*Content-Length: 5)/],
  ] as const) {
    it(`leaves the client's connection as it was: ${status} with a length`, () =>
      withRawUpstream(
        (socket) => void socket.write(head),
        async (rig) => {
          const raw = await openRaw(rig.port);
          for (let count = 1; count <= 2; count += 1) {
            raw.write(requestText("GET /", headersOf(rig)));
            await eventually(
              () => raw.text().split(`HTTP/1.1 ${status}`).length - 1 === count && raw.text().endsWith("\r\n\r\n"),
            );
            await eventually(() => rig.outcomes().length === count);
          }
          assert.match(raw.text(), length);
          assert.equal(raw.closed(), "no");
          assert.deepEqual(
            rig.outcomes().map(({ cut }) => cut),
            [false, false],
          );
          raw.destroy();
        },
      ));
  }
});

describe("many small chunks", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig();
  });
  after(() => rig.close());

  const MANY = 3_000;
  const chunks = (count: number): string => "1\r\nx\r\n".repeat(count);

  it("of a request reach the upstream as few, whole and in order", async () => {
    let events = 0;
    rig.upstream((request, response) => {
      let text = "";
      request.on("data", (data: Buffer) => {
        events += 1;
        text += data.toString();
      });
      request.on("end", () => response.end(`got ${text.length} ${text === "x".repeat(text.length)}`));
    });
    const raw = await openRaw(rig.port);
    raw.write(requestText("POST /", headersOf(rig, { "Transfer-Encoding": "chunked" }), chunks(1)));
    await eventually(() => rig.seen.length > 0); // else all of it is here before it goes on, and goes in one piece
    raw.write(`${chunks(MANY - 1)}0\r\n\r\n`);
    await raw.until(/got 3000 true/);
    assert.ok(events < MANY / 10, `${events} chunks`);
    raw.destroy();
  });

  it("of an answer reach the client as few, whole and in order", () =>
    withRawUpstream(
      (socket) => void socket.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunks(MANY)}0\r\n\r\n`),
      async (other) => {
        const raw = await openRaw(other.port);
        raw.write(requestText("GET /", headersOf(other)));
        const body = (await raw.until(/\r\n0\r\n\r\n$/)).split("\r\n\r\n").slice(1).join("\r\n\r\n");
        const lines = body.split("\r\n");
        const said = lines.filter((line) => /^x+$/.test(line));
        assert.equal(said.join("").length, MANY);
        assert.ok(said.length < MANY / 10, `${said.length} chunks`);
        raw.destroy();
      },
    ));

  it("of an event stream come at once, without more to push them", async () => {
    let send: (text: string) => void = () => assert.fail("no stream");
    rig.upstream((_request, response) => {
      response.writeHead(200, { "Content-Type": "text/event-stream" });
      response.flushHeaders();
      send = (text) => void response.write(text);
    });
    const raw = await openRaw(rig.port);
    raw.write(requestText("GET /", headersOf(rig)));
    await raw.until(/text\/event-stream/);
    for (const event of ["one", "two", "three"]) {
      send(`data: ${event}\n\n`);
      await raw.until(new RegExp(`data: ${event}\n\n`));
    }
    raw.destroy();
  });
});

describe("what belongs to a resource alone", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig();
    rig.upstream((_request, response) => {
      response.setHeader("Set-Cookie", ["a=1; Path=/; Domain=gateway.test; HttpOnly", "b=2;domain = x ; path"]);
      for (const name of ["X-Accel-Redirect", "X-Accel-Buffering", "X-Sendfile", "X-Reproxy-URL"])
        response.setHeader(name, "/etc/passwd");
      response.end("hello");
    });
  });
  after(() => rig.close());

  const lastCookie = (): string | undefined => {
    const headers = rig.seen.at(-1)?.headers ?? [];
    const at = headers.findIndex((name, index) => index % 2 === 0 && name.toLowerCase() === "cookie");
    return at === -1 ? undefined : headers[at + 1];
  };

  it("cookies do not pass by header form, in either direction", async () => {
    const answer = await rig.call("/", { headers: { cookie: "a=1" } });
    assert.deepEqual(answer.headers.getSetCookie(), []);
    assert.equal(lastCookie(), undefined);
  });

  it("cookies belong to the path form's prefix, whatever the upstream says", async () => {
    const prefix = `/r/${ZONE}/${RESOURCE_ID}`;
    const answer = await fetch(`${rig.url}${prefix}/x`, {
      headers: { authorization: `Bearer ${rig.ambient()}`, cookie: "a=1" },
    });
    assert.deepEqual(answer.headers.getSetCookie(), [`a=1; HttpOnly; Path=${prefix}`, `b=2; Path=${prefix}`]);
    assert.equal(lastCookie(), "a=1");
  });

  it("a cookie named __Host- does not pass: with a Path of its own it would be none", async () => {
    const prefix = `/r/${ZONE}/${RESOURCE_ID}`;
    const names = ["__Host-sid=1", "__hOST-sid=2", "=__Host-sid=3", "__Host-sid", " __Host-sid=5"];
    rig.upstream((_request, response) => {
      response.setHeader("set-cookie", [...names.map((name) => `${name}; Secure; Path=/`), "__Secure-sid=6; Secure"]);
      response.end();
    });
    const answer = await fetch(`${rig.url}${prefix}/x`, { headers: { authorization: `Bearer ${rig.ambient()}` } });
    assert.deepEqual(answer.headers.getSetCookie(), [`__Secure-sid=6; Secure; Path=${prefix}`]);
  });

  it("orders to a front proxy do not pass", async () => {
    const answer = await rig.call("/");
    for (const name of answer.headers.keys()) assert.doesNotMatch(name, /^x-(?:accel|sendfile|reproxy)/);
  });
});

describe("a mandate for one call", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig();
  });
  after(() => rig.close());

  it("passes for its method and path, whatever the query", async () => {
    const token = rig.mandate({ htm: "GET", htp: "/a" });
    assert.equal((await rig.call("/a?q=1", { token })).status, 200);
  });

  for (const [what, path, method] of [
    ["path", "/b", "GET"],
    ["method", "/a", "DELETE"],
  ] as const) {
    it(`is refused for another ${what}, and not burnt by it`, async () => {
      const token = rig.mandate({ htm: "GET", htp: "/a" });
      const counted = await rig.metric("denials_bound_call");
      const answer = await rig.call(path, { token, method });
      assert.equal(answer.status, 403);
      assert.equal(((await answer.json()) as { reason: string }).reason, "mandate_for_another_call");
      assert.equal(await rig.metric("denials_bound_call"), counted + 1);
      assert.equal((await rig.call("/a", { token })).status, 200);
    });
  }

  it("is refused where a header names another agent session or delegation than its own, and not burnt by it", async () => {
    const own = { agent_session_id: "a-1", delegation_edge_id: "e-1" };
    for (const [claims, headers] of [
      [own, { "x-caracal-agent-session": "a-2" }],
      [own, { "x-caracal-delegation-edge": "e-2" }],
      [{}, { "x-caracal-agent-session": "a-1" }],
      [{}, { "x-caracal-delegation-edge": "e-1" }],
    ] as const) {
      const token = rig.mandate(claims);
      const answer = await rig.call("/", { token, headers });
      assert.equal(answer.status, 403);
      assert.equal(((await answer.json()) as { reason: string }).reason, "mandate_for_another_call");
      const named = "agent_session_id" in claims;
      const same = named ? { "x-caracal-agent-session": "a-1", "x-caracal-delegation-edge": "e-1" } : {};
      assert.equal((await rig.call("/", { token, headers: same })).status, 200);
    }
  });

  it("is not burnt by a ledger that takes nothing", async () => {
    const token = rig.mandate();
    rig.ledger(new Error("away"));
    assert.equal((await rig.call("/", { token })).status, 503);
    rig.ledger(undefined);
    assert.equal((await rig.call("/", { token })).status, 200);
  });

  it("that is played back leaves no row of a call that passed", async () => {
    const token = rig.mandate();
    await rig.call("/", { token });
    const allowed = (): number => rig.drafts.filter(({ decision }) => decision === "allow").length;
    const before_rows = allowed();
    assert.equal((await rig.call("/", { token })).status, 401);
    assert.equal(allowed(), before_rows);
  });

  it("that comes many times at once leaves one row of a call that passed", async () => {
    const token = rig.mandate();
    const allowed = (): number => rig.drafts.filter(({ decision }) => decision === "allow").length;
    const before_rows = allowed();
    const answers = await Promise.all(Array.from({ length: 5 }, () => rig.call("/", { token })));
    assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 401, 401, 401, 401]);
    assert.equal(allowed(), before_rows + 1);
  });

  it("that can't be marked is a failure of a part, and no replay", async () => {
    const broken = await createRig({
      marks: { once: () => Promise.reject(new Error("Redis is down")), prime: async () => undefined },
    });
    try {
      assert.equal((await broken.call("/", { token: broken.mandate() })).status, 503);
      assert.equal(await broken.metric("denials_jti_replay"), 0);
      assert.equal(await broken.metric("marks_errors"), 1);
    } finally {
      await broken.close();
    }
  });
});

describe("a call that fails unexpectedly", () => {
  it("is answered under the request id that the STS had", async () => {
    const rig = await createRig({ upstreams: { place: () => assert.fail("broken"), close: async () => undefined } });
    try {
      const answer = await rig.call("/");
      assert.equal(answer.status, 500);
      const { requestId } = (await answer.json()) as { requestId: string };
      assert.equal(requestId, rig.sts.exchanges[0]?.request_id);
    } finally {
      await rig.close();
    }
  });
});

describe("calls under way", () => {
  it("are bounded for a client and a zone, with the bound's name, and end when their answers do", async () => {
    const rig = await createRig({ max_calls: 4 });
    const open: (() => void)[] = [];
    rig.upstream((_request, response) => {
      response.flushHeaders();
      open.push(() => response.end());
    });
    try {
      const of = (client_id: string) => rig.call("/", { token: rig.ambient({ client_id }) });
      const [one] = [await of("a"), await of("a")];
      const over = await of("a");
      assert.equal(over.status, 429);
      assert.ok(Number(over.headers.get("retry-after")) >= 1);
      assert.match(await over.text(), /"error":"RateLimited","message":"The client has as many/);
      await of("b");
      assert.match(await (await of("c")).text(), /The zone has as many/);
      assert.equal(await rig.metric("denials_calls"), 2);
      open[0]?.();
      await one?.text();
      await eventually(async () => (await of("a")).status === 200);
    } finally {
      await rig.close();
    }
  });
});
