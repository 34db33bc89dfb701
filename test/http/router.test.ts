import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, it } from "node:test";
import * as v from "valibot";
import { contractRoutes } from "../../src/http/contract-routes.ts";
import { createRouter, type Route } from "../../src/http/router.ts";
import type { Cancellation } from "../../src/kernel/cancel.ts";
import { createLog } from "../../src/kernel/log.ts";
import { Problem } from "../../src/kernel/problem.ts";
import { Unavailable } from "../../src/ports/streams.ts";
import { eventually } from "../support/eventually.ts";
import { openRaw, rawRequest, requestText } from "../support/raw-http.ts";

const NOTHING = v.strictObject({});

describe("a table of paths", () => {
  let server: Server;
  let url: string;
  const statuses: number[] = [];
  const admitted: string[] = [];
  let waiting: Cancellation | undefined;

  const said: Route["answer"] = async ({ search, request_id }) => ({ status: 200, body: { search, request_id } });
  const slow = {
    method: "POST",
    path: "/slow",
    summary: "",
    params: NOTHING,
    query: NOTHING,
    status: 204,
  } as const;
  const routes: readonly Route[] = [
    { method: "POST", path: "/direct", answer: said, direct: true },
    { method: "POST", path: "/plain", answer: said },
    { method: "GET", path: "/things/{id}", answer: async ({ params }) => ({ status: 200, body: params }) },
    { method: "GET", path: "/none", answer: async () => ({ status: 304 }) },
    {
      method: "POST",
      path: "/closed",
      admit: async ({ request_id }) => {
        admitted.push(request_id);
        throw new Problem(403, "forbidden", "Not you.");
      },
      answer: said,
    },
    {
      method: "GET",
      path: "/broken",
      answer: async () => {
        throw new Error("a secret that is not to be told");
      },
    },
    ...contractRoutes({
      endpoints: { slow },
      handlers: {
        slow: ({ signal }) =>
          new Promise<undefined>((resolve) => {
            waiting = signal;
            signal?.addEventListener("abort", () => resolve(undefined));
          }),
      },
      admit: async () => undefined,
      max_body_bytes: 100,
    }),
  ];

  before(async () => {
    const log = createLog({ level: "silent" });
    server = createServer(createRouter({ routes, log, onAnswer: (status) => statuses.push(status) }));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(() => {
    server.closeAllConnections();
    server.close();
  });

  const headers = { Host: "a", "X-Request-Id": "one", "Content-Length": "0", Connection: "close" };
  const ask = async (method: string, target: string) => {
    const { status, headers: got, body } = (await rawRequest(url, requestText(method, target, headers))) ?? {};
    return { status, headers: got ?? {}, body };
  };

  it("answers alike whether a path of every call is found directly or not, however it is spelt", async () => {
    const spellings = (name: string): readonly string[] => [
      `/${name}`,
      `http://a/${name}`,
      `/x/../${name}`,
      `/%${name.charCodeAt(0).toString(16)}${name.slice(1)}`,
    ];
    const { headers: of_plain, body, status } = await ask("POST", "/plain");
    assert.deepEqual([status, body], [200, '{"search":"","request_id":"one"}']);
    for (const target of [...spellings("direct"), ...spellings("plain")]) {
      const answer = await ask("POST", target);
      assert.deepEqual([answer.status, answer.body], [200, body], target);
      assert.deepEqual(Object.keys(answer.headers).sort(), Object.keys(of_plain).sort(), target);
    }
    assert.equal((await ask("POST", "/direct?a=%20")).body, '{"search":"?a=%20","request_id":"one"}');
  });

  it("tells other paths and other methods apart, and takes HEAD where it takes GET", async () => {
    for (const target of ["/", "/direct/", "/Direct", "/things", "/things/a/b"])
      assert.equal((await ask("GET", target)).status, 404, target);
    assert.deepEqual(
      [(await ask("GET", "/direct")).status, (await ask("GET", "/direct")).headers["allow"]],
      [405, "POST"],
    );
    assert.equal((await ask("DELETE", "/things/a")).headers["allow"], "GET, HEAD");
    assert.equal((await ask("GET", "/things/a%2Fb")).body, '{"id":"a/b"}');
    const head = await fetch(`${url}/things/a`, { method: "HEAD" });
    assert.deepEqual([head.status, head.headers.get("content-length"), await head.text()], [200, "10", ""]);
    assert.equal((await ask("GET", "/none")).status, 304);
    assert.equal((await ask("GET", "*")).status, 400, "no target of a path");
  });

  it("admits before it answers, and tells nothing of what it did not foresee", async () => {
    const closed = await ask("POST", "/closed");
    assert.deepEqual([closed.status, closed.headers["x-request-id"], admitted], [403, "one", ["one"]]);
    const broken = await ask("GET", "/broken");
    assert.equal(broken.status, 500);
    assert.doesNotMatch(broken.body ?? "", /secret/);
    assert.deepEqual(statuses.slice(-2), [403, 500]);
  });

  it("logs a part that is away once a second, however often it is asked for, and says how often it was not logged", async () => {
    const lines: { readonly not_logged: number }[] = [];
    const log = createLog({ level: "warn", destination: { write: (line) => void lines.push(JSON.parse(line)) } });
    const away: Route = {
      method: "GET",
      path: "/away",
      answer: async () => {
        throw new Unavailable("a part");
      },
    };
    const other = createServer(createRouter({ routes: [away], log }));
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const address = `http://127.0.0.1:${(other.address() as AddressInfo).port}/away`;
    let asked = 0;
    try {
      await eventually(async () => {
        asked += 1;
        assert.equal((await fetch(address)).status, 503);
        return lines.length === 2; // the second comes with the next second
      });
      assert.deepEqual(
        lines.map(({ not_logged }) => not_logged),
        [0, asked - 2],
      );
    } finally {
      other.closeAllConnections();
      other.close();
    }
  });

  it("tells a verb that its client is gone", async () => {
    const connection = await openRaw(url);
    connection.write(requestText("POST", "/slow", { Host: "a", "Content-Length": "0" }));
    await eventually(() => assert.ok(waiting !== undefined && !waiting.aborted));
    connection.destroy();
    await eventually(() => assert.equal(waiting?.aborted, true));
  });

  it("answers before a body that it does not take has come", async () => {
    const connection = await openRaw(url);
    connection.write(requestText("POST", "/slow", { Host: "a", "Content-Length": "101" }));
    assert.equal((await connection.answer())?.status, 413);
    connection.destroy();
  });
});
