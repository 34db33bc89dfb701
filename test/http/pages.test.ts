import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { type Binding, bindRole } from "../../src/http/server.ts";
import { createLog } from "../../src/kernel/log.ts";
import { createMetrics } from "../../src/kernel/metrics.ts";
import type { Role } from "../../src/http/role.ts";
import { openRaw, rawRequest } from "../support/raw-http.ts";

const bound: Binding[] = [];
afterEach(async () => {
  await Promise.all(bound.splice(0).map((binding) => binding.close(0)));
});

const serve = async (over: Partial<Role>): Promise<string> => {
  const log = createLog({ level: "silent" });
  const binding = await bindRole({ name: "api", host: "127.0.0.1", port: 0, tls: undefined, log });
  bound.push(binding);
  const handle: Role["handle"] = (_request, response) => void response.end("the role's own");
  binding.serve({ name: "api", handle, services: [], ready: [], metrics: createMetrics(), ...over });
  return `http://127.0.0.1:${binding.port}`;
};

const pageOf = (path: string, host = "a"): string => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`;
/** As many as one connection may have unanswered. */
const AT_ONCE = 32;

describe("a page that anybody may ask for", () => {
  it("asks the parts once for all that ask for it at the same time, and always after it was asked for", async () => {
    let asked = 0;
    let fault: string | undefined;
    const fault_now = async (): Promise<string | undefined> => {
      asked += 1;
      return fault;
    };
    const url = await serve({ ready: [{ name: "database", fault: fault_now }] });
    const connection = await openRaw(url);
    connection.write(pageOf("/ready").repeat(AT_ONCE));
    for (let at = 0; at < AT_ONCE; at += 1) assert.equal((await connection.answer())?.status, 200);
    connection.destroy();
    assert.ok(asked <= 2, `the database was asked ${asked} times`);

    fault = "can't be reached";
    assert.equal((await rawRequest(url, pageOf("/ready")))?.status, 503, "an answer of before does not stand");
    fault = undefined;
    assert.equal((await rawRequest(url, pageOf("/ready")))?.status, 200);
  });

  it("makes the metrics once for all that ask for them at the same time", async () => {
    let made = 0;
    const text = async (): Promise<string> => {
      made += 1;
      return `made ${made}\n`;
    };
    const url = await serve({ metrics: { ...createMetrics(), text } });
    const connection = await openRaw(url);
    connection.write(pageOf("/metrics").repeat(AT_ONCE));
    for (let at = 0; at < AT_ONCE; at += 1) assert.match((await connection.answer())?.body ?? "", /^made [12]\n$/);
    connection.destroy();
    assert.equal((await rawRequest(url, pageOf("/metrics")))?.body, `made ${made}\n`);
  });
});

describe("a Host header", () => {
  it("that names no host is refused before any role sees it", async () => {
    const url = await serve({});
    for (const host of ["a b", "a/b", "user@a", "a\\b", "a:80:80", "a:port", "[::1", "<script>", 'a"b', "a?b", "a#b"]) {
      const answer = await rawRequest(url, pageOf("/x", host));
      assert.equal(answer?.status, 400, host);
      assert.match(answer?.body ?? "", /Host header/, host);
    }
    for (const host of ["", "a", "A.example:8443", "127.0.0.1:80", "[::1]:80", "under_score.internal", "a:"]) {
      assert.equal((await rawRequest(url, pageOf("/x", host)))?.body, "the role's own", host);
    }
  });
});
