import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createLog } from "../../src/kernel/log.ts";
import { StartupFault } from "../../src/kernel/problem.ts";
import { bindAll, faultsOf, shutDown, startAll } from "../../src/process/phases.ts";
import type { RoleThread } from "../../src/process/role-thread.ts";

const log = createLog({ level: "silent" });
const GIVEN = { issuer_url: "http://sts", instance_id: "one" };
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Writes down when a phase begins and when it has ended. */
const fake = (name: string, told: string[], over: Partial<RoleThread> = {}): RoleThread => {
  const phase = (what: string) => async (): Promise<void> => {
    told.push(`${name} ${what}`);
    await turn();
    told.push(`${name} ${what}.`);
  };
  return {
    name,
    bind: async () => ({ [name]: { host: "::1", port: 1 } }),
    make: phase("make"),
    start: phase("start"),
    faults: async () => [`${name} is away`],
    notReady: phase("notReady"),
    drain: phase("drain"),
    stop: phase("stop"),
    ...over,
  };
};

describe("the threads of a process", () => {
  it("are all made before any works, and the ledger's starts before those that write to it", async () => {
    const told: string[] = [];
    const threads = [fake("sts", told), fake("audit", told)];
    assert.deepEqual(await bindAll(threads), { sts: { host: "::1", port: 1 }, audit: { host: "::1", port: 1 } });
    await startAll(threads, GIVEN);
    assert.deepEqual(told.slice(0, 2), ["sts make", "audit make"], "at the same time");
    assert.deepEqual(told.slice(4), ["audit start", "audit start.", "sts start", "sts start."]);
    assert.deepEqual(await faultsOf(threads), ["sts is away", "audit is away"]);
  });

  it("start nothing where one can't be made, and tell the first one's fault, whoever was quicker", async () => {
    const told: string[] = [];
    const late = async (): Promise<never> => {
      await turn();
      throw new StartupFault("REDIS_URL: evicts");
    };
    const soon = async (): Promise<never> => {
      throw new StartupFault("DATABASE_URL: is down");
    };
    const threads = [fake("sts", told, { make: late }), fake("audit", told, { make: soon })];
    await assert.rejects(startAll(threads, GIVEN), /evicts/);
    await assert.rejects(startAll([fake("sts", told), fake("audit", told, { make: soon })], GIVEN), /is down/);
    assert.ok(!told.some((line) => line.includes("start")), told.join(", "));
  });

  it("end their calls everywhere before any work ends, and the ledger's takes what the others flush", async () => {
    const told: string[] = [];
    const demo = {
      name: "demo",
      start: async () => {},
      stop: async () => {
        told.push("demo");
        throw new Error("not cleanly");
      },
    };
    await shutDown([fake("sts", told), fake("audit", told)], demo, 1_000, log);
    assert.deepEqual(told, [
      "sts drain",
      "audit drain",
      "sts drain.",
      "audit drain.",
      "demo",
      "sts stop",
      "sts stop.",
      "audit stop",
      "audit stop.",
    ]);
  });
});
