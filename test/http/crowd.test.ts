import assert from "node:assert/strict";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { after, afterEach, describe, it } from "node:test";
import type { Limits } from "../../src/http/connections.ts";
import type { Role } from "../../src/http/role.ts";
import { type Binding, bindRole } from "../../src/http/server.ts";
import { createLog } from "../../src/kernel/log.ts";
import { createMetrics } from "../../src/kernel/metrics.ts";
import { makeCertificates } from "../support/certificates.ts";
import { eventually } from "../support/eventually.ts";

const certificates = makeCertificates();
after(() => certificates.close());
const bound: Binding[] = [];
const opened: Socket[] = [];
afterEach(async () => {
  for (const socket of opened.splice(0)) socket.destroy();
  await Promise.all(bound.splice(0).map((binding) => binding.close(0)));
});

/** `/held` is never answered, `/body` once the whole body came, all else at once. */
const serve = async (limits: Partial<Limits>, over: "http" | "https" = "http") => {
  const log = createLog({ level: "silent" });
  const tls = over === "http" ? undefined : { cert_file: certificates.cert_file, key_file: certificates.key_file };
  const held: ServerResponse[] = [];
  const handle: Role["handle"] = (request, response) => {
    if (request.url === "/held") held.push(response);
    else if (request.url === "/body") request.resume().on("end", () => response.end("whole"));
    else response.end("answered");
  };
  const binding = await bindRole({ name: "api", host: "127.0.0.1", port: 0, tls, log, limits });
  binding.serve({ name: "api", handle, services: [], ready: [], metrics: createMetrics() });
  bound.push(binding);

  /** A connection from `host` that has sent `bytes`; `said`: what came back. */
  const open = async (host: string, bytes: string) => {
    const bare = connect({ port: binding.port, host: "127.0.0.1", localAddress: host });
    bare.on("error", () => undefined);
    await once(bare, "connect");
    const socket = over === "http" ? bare : connectTls({ socket: bare, ca: certificates.ca, host: "127.0.0.1" });
    socket.on("error", () => undefined); // a reset is an end
    opened.push(socket);
    let said = "";
    socket.on("data", (chunk: Buffer) => (said += chunk.toString()));
    const write = (more: string): void => void socket.write(more);
    write(bytes);
    return { write, said: () => said, gone: () => socket.destroyed };
  };
  /** A connection that was answered once, and stays. */
  const idle = async (host: string) => {
    const one = await open(host, ASK);
    await eventually(() => one.said().endsWith("answered"));
    return one;
  };
  return { open, idle, held };
};

const ASK = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
const HELD = "GET /held HTTP/1.1\r\nHost: a\r\n\r\n";
const A = "127.0.0.1";
const B = "127.0.0.2";

describe("whoever holds connections open without need", () => {
  for (const over of ["http", "https"] as const) {
    it(`from one address gives up those that have waited longest, and takes no other's (${over})`, async () => {
      const { idle } = await serve({ connections: 16, connections_of_one: 3 }, over);
      const other = await idle(B);
      const [first, second, third] = [await idle(A), await idle(A), await idle(A)];
      first.write(ASK); // so it is not the one that has waited longest
      await eventually(() => first.said().split("answered").length === 3);
      const fourth = await idle(A);
      await eventually(() => second.gone());
      assert.deepEqual(
        [other, first, third, fourth].map((one) => one.gone()),
        [false, false, false, false],
      );
    });
  }

  it("from many gives way to a new one: of the address that has most of them waiting, the one that waits longest", async () => {
    const { idle } = await serve({ connections: 5, connections_of_one: 4 });
    const of_b = [await idle(B), await idle(B)];
    const of_a = [await idle(A), await idle(A), await idle(A)];
    const newest = await idle("127.0.0.3");
    await eventually(() => of_a[0]?.gone() === true);
    assert.deepEqual(
      [...of_b, ...of_a.slice(1), newest].map((one) => one.gone()),
      [false, false, false, false, false],
    );
  });

  it("by a body that does not come gives way too; what is due an answer is never closed, and then the new one is", async () => {
    const { open, idle, held } = await serve({ connections: 3, connections_of_one: 3 });
    const slow = await open(A, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    const due = [await open(A, HELD), await open(A, HELD)];
    await eventually(() => held.length === 2);
    const served = await idle(B);
    await eventually(() => slow.gone());

    const third = await open(B, HELD);
    await eventually(() => held.length === 3 && served.gone());
    const refused = await open(B, ASK);
    await eventually(() => refused.gone());
    assert.equal(refused.said(), "");
    assert.deepEqual(
      [...due, third].map((one) => one.gone()),
      [false, false, false],
    );
  });
});
