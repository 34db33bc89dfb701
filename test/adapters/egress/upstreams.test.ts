import assert from "node:assert/strict";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, it } from "node:test";
import { createEgress, createUpstreams } from "../../../src/adapters/egress/index.ts";
import { systemClock } from "../../../src/kernel/clock.ts";
import type { EgressTarget, RunningUpstreamCall, UpstreamFailure, Upstreams } from "../../../src/ports/egress.ts";
import { eventually } from "../../support/eventually.ts";

const servers: Server[] = [];
const pools: Upstreams[] = [];
const serve = async (listener: RequestListener): Promise<number> => {
  const server = createServer(listener);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
};
const upstreams = (max_connections = 8): Upstreams => {
  const made = createUpstreams({ connect_timeout_ms: 1_000, max_connections });
  pools.push(made);
  return made;
};
/** A target under a name that only this guard knows. */
const targetOf = async (url: string, address = "127.0.0.1"): Promise<EgressTarget> => {
  const egress = createEgress({
    allow_private: false,
    allow_loopback: true,
    allowlist: [],
    production: false,
    clock: systemClock,
    resolver: async () => [address],
  });
  const target = await egress.check(new URL(url));
  assert.ok(!("refused" in target));
  return target;
};

type Result = { status?: number; headers?: readonly string[]; body: string; failure?: UpstreamFailure };
const run = (of: Upstreams, target: EgressTarget, path = "/") => {
  const result: Result = { body: "" };
  let call: RunningUpstreamCall | undefined;
  const done = new Promise<Result>((resolve) => {
    call = of.call(
      target,
      { method: "GET", path, headers: [], body: null },
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

afterEach(async () => {
  for (const pool of pools.splice(0)) await pool.close();
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

  it("does not mix the addresses of one name", async () => {
    const port = await serve((_request, response) => response.end("here"));
    const of = upstreams();
    assert.equal((await run(of, await targetOf(`http://moved.invalid:${port}/`)).done).body, "here");
    const elsewhere = await run(of, await targetOf(`http://moved.invalid:${port}/`, "127.0.0.2")).done;
    assert.equal(elsewhere.failure, "failed", "no connection to the first address was used");
  });

  it("holds no call up behind an open stream, and tells when too many wait", async () => {
    const port = await serve((_request, response) => void response.write("open"));
    const of = upstreams(2);
    const target = await targetOf(`http://127.0.0.1:${port}/`);
    const open = [run(of, target), run(of, target)];
    await eventually(() => open.every((one) => one.result.body === "open"));
    const waiting = Array.from({ length: 1_024 }, () => run(of, target));
    assert.equal((await run(of, target).done).failure, "busy");
    for (const one of waiting) one.abort();
    assert.deepEqual(
      new Set((await Promise.all(waiting.map((one) => one.done))).map((one) => one.failure)),
      new Set(["aborted"]),
    );
    assert.equal(
      (await run(of, target).done).failure,
      "busy",
      "calls that were given up still hold their place in the line",
    );
    open[0]?.abort();
    const next = run(of, target);
    await eventually(() => next.result.body === "open");
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
    assert.equal((await run(of, await targetOf(`http://127.0.0.1:${port}/`)).done).failure, "busy");
  });
});
