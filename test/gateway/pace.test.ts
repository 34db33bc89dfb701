import assert from "node:assert/strict";
import type { IncomingMessage } from "node:http";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import type { ExchangeAnswer } from "../../src/contracts/exchange.ts";
import { createPaces, type Pace } from "../../src/gateway/passage/pace.ts";
import { eventually } from "../support/eventually.ts";
import { createRig, openRaw, requestText, RESOURCE, type Rig } from "./rig.ts";

describe("the pace of small chunks", () => {
  it("is one for all calls of a client, those that come later too, and another client's is its own", () => {
    let now_ms = 1_000;
    const paces = createPaces(() => now_ms);
    const pauseOf = (pace: Pace, chunks: number): number => {
      let most = 0;
      for (let at = 0; at < chunks; at += 1) most = Math.max(most, pace.small());
      return most;
    };
    assert.equal(pauseOf(paces.of("zone", "client"), 512), 0);
    assert.equal(pauseOf(paces.of("zone", "client"), 512), 10);
    assert.equal(paces.of("zone", "client").rest_ms(), 10);
    assert.equal(paces.of("zone", "other").rest_ms(), 0);
    assert.equal(pauseOf(paces.of("zone", "other"), 512), 0);
    now_ms += 20;
    assert.equal(paces.of("zone", "client").rest_ms(), 0);
    assert.equal(pauseOf(paces.of("zone", "client"), 512), 0);
  });

  it("stops all bodies of a client when one of them comes to owe, and no other client's", () => {
    const paces = createPaces(() => 1_000);
    const stopped: string[] = [];
    const reading = (client_id: string, name: string): void =>
      void paces.of("zone", client_id).reading.add({ holdFor: () => stopped.push(name) });
    reading("client", "one");
    reading("client", "two");
    reading("other", "three");
    for (let at = 0; at < 1_023; at += 1) paces.of("zone", "client").small();
    assert.deepEqual(stopped, []);
    paces.of("zone", "client").small();
    assert.deepEqual(stopped, ["one", "two"]);
  });

  it("lets all clients together send no more than one may, whoever they are", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 30 }), (count, reads) => {
        let now_ms = 0;
        const paces = createPaces(() => now_ms);
        const clients = Array.from({ length: count }, (_, at) => paces.of("zone", `client-${at}`));
        let chunks = 0;
        const READ = 512 * reads; // what comes of one read of the socket before a pause is heeded
        for (; now_ms < 60_000; now_ms += 1) {
          for (const client of clients) {
            if (client.rest_ms() > 0) continue;
            for (let at = 0; at < READ; at += 1) client.small();
            chunks += READ;
          }
        }
        const first = count * (READ + 512); // nobody owes anything before the first read
        // A debt is shared from when it is made: clients that begin together are told apart one by one.
        const allowed = (60_000 / 10) * 512 * 1.1 + 2 * first;
        assert.ok(chunks <= allowed, `${chunks} of ${allowed}`);
      }),
      { numRuns: 30 },
    );
  });
});

const chunks = (count: number): string => "1\r\nx\r\n".repeat(count);
/** What one read of a socket holds of chunks of one byte, with room. */
const ONE_READ = 12_000;

describe("a body in chunks of one byte", () => {
  let rig: Rig;
  let last: IncomingMessage | undefined;
  before(async () => {
    rig = await createRig();
    rig.server.prependListener("request", (request: IncomingMessage) => {
      if (request.url?.startsWith("/up") === true) last = request;
    });
    rig.upstream((request, response) => {
      let bytes = 0;
      request.on("data", (data: Buffer) => (bytes += data.byteLength)).on("end", () => response.end(`got ${bytes}`));
    });
  });
  after(() => rig.close());

  const headers = () => ({
    Authorization: `Bearer ${rig.ambient()}`,
    "X-Caracal-Resource": RESOURCE,
    "Transfer-Encoding": "chunked",
  });
  /** Whatever could be read meanwhile was. */
  const others = async (): Promise<void> => {
    for (let at = 0; at < 8; at += 1) await (await rig.call("/")).text();
  };

  it("is not taken apart while the call is decided on", async () => {
    const { answer } = rig.sts;
    let decide: (() => void) | undefined;
    rig.sts.answer = (request) =>
      request.path === "/up/slow"
        ? new Promise<ExchangeAnswer>((resolve) => (decide = () => resolve(rig.allow(request))))
        : rig.allow(request);
    const raw = await openRaw(rig.port);
    raw.write(requestText("POST /up/slow", headers(), chunks(100_000)));
    await eventually(() => decide !== undefined);
    await others();
    assert.ok((last?.readableLength ?? Infinity) <= ONE_READ, `${last?.readableLength} chunks`);
    decide?.();
    rig.sts.answer = answer;
    raw.write("0\r\n\r\n");
    await raw.until(/got 100000/, 20_000);
    raw.destroy();
  });

  it("leaves its connection to the next request, whether the call passed or was refused", async () => {
    const raw = await openRaw(rig.port);
    raw.write(requestText("POST /up/1", headers(), `${chunks(3_000)}0\r\n\r\n`));
    await raw.until(/got 3000/);
    const { answer } = rig.sts;
    const body = { error: "access_denied", error_description: "", reason: "policy_denied", requestId: "r" };
    rig.sts.answer = async () => {
      await new Promise((resolve) => setImmediate(resolve)); // else it is refused before its body is seen, and closed
      return { ok: false, status: 403, body };
    };
    raw.write(requestText("POST /up/2", headers(), `${chunks(3)}0\r\n\r\n`));
    await raw.until(/AccessDenied/);
    rig.sts.answer = answer;
    raw.write(requestText("POST /up/3", headers(), `${chunks(40)}0\r\n\r\n`));
    await raw.until(/got 40/);
    raw.destroy();
  });

  it("behind a refusal is read on no further than its chunks are worth", async () => {
    const raw = await openRaw(rig.port);
    const began_ms = performance.now();
    let read = 0;
    rig.server.once("request", (request: IncomingMessage) => request.on("data", () => (read += 1)));
    raw.write(requestText("POST /up", { ...headers(), Authorization: "Bearer none" }, chunks(200_000)));
    await raw.untilClosed(10_000);
    assert.ok(read <= 8_192 + ONE_READ, `${read} chunks in ${performance.now() - began_ms} ms`);
  });
});
