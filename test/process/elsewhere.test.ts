import assert from "node:assert/strict";
import { extname } from "node:path";
import { afterEach, describe, it } from "node:test";
import { StartupFault } from "../../src/kernel/problem.ts";
import { createElsewhere } from "../../src/process/thread/elsewhere.ts";
import type { RoleThread } from "../../src/process/role-thread.ts";
import { eventually } from "../support/eventually.ts";

const MODULE = new URL(`./fake-worker${extname(import.meta.url)}`, import.meta.url);
const GIVEN = { issuer_url: "http://sts", instance_id: "one" };

type Started = { readonly thread: RoleThread; readonly lines: string[]; readonly failures: unknown[] };

const started: RoleThread[] = [];
afterEach(async () => {
  await Promise.all(started.splice(0).map((thread) => thread.stop(0)));
});

/** `deed`: what the thread does in a phase; see fake-worker.ts. */
const create = (deed = "", process_env: Readonly<Record<string, string>> = {}): Started => {
  const lines: string[] = [];
  const failures: unknown[] = [];
  const thread = createElsewhere({
    role: "audit",
    env: { TEST_THREAD: deed, AUDIT_HMAC_KEY: "its own" },
    process_env,
    write: (line) => void lines.push(line),
    failed: (error) => void failures.push(error),
    module: MODULE,
  });
  started.push(thread);
  return { thread, lines, failures };
};

const run = async ({ thread }: Started): Promise<void> => {
  await thread.bind();
  await thread.make(GIVEN);
  await thread.start();
};

describe("a role elsewhere", () => {
  it("goes through its phases, each answered with what came of it, and its log comes in whole lines", async () => {
    const { thread, lines, failures } = create();
    const { audit } = await thread.bind();
    assert.equal(audit?.host, "127.0.0.1");
    assert.ok((audit?.port ?? 0) > 0, "what another thread says");
    await thread.make(GIVEN);
    await thread.start();
    assert.deepEqual(await thread.faults(), ["ledger is away"]);
    await thread.notReady();
    await thread.drain(200);
    await thread.stop(100);
    assert.deepEqual(lines, [
      "bind []\n",
      `make [${JSON.stringify(GIVEN)}]\n`,
      "start []\n",
      "faults []\n",
      "notReady []\n",
      "drain [200]\n",
      "stop [100]\n",
    ]);
    assert.deepEqual(failures, [], "an end that was asked for is no failure");
  });

  for (const phase of ["bind", "make", "start"] as const) {
    it(`that finds a fault in ${phase} rejects with the same lines, and tells it to nobody else`, async () => {
      const made = create(`${phase}:fault`);
      await assert.rejects(run(made), (error) => {
        assert.ok(error instanceof StartupFault);
        assert.deepEqual(error.faults, ["AUDIT_PORT: is taken"]);
        return true;
      });
      assert.deepEqual(made.failures, []);
    });

    for (const deed of ["throw", "reject", "exit"]) {
      it(`that dies in ${phase} (${deed}) rejects, and tells it to nobody else`, async () => {
        const made = create(`${phase}:${deed}`);
        await assert.rejects(run(made), /no JSON|not valid JSON|nobody listens|the audit thread ended with code 0/);
        await assert.rejects(made.thread.faults(), "and so does whatever is asked later");
        assert.deepEqual(made.failures, []);
      });
    }
  }

  it("keeps an error's name, code, stack and causes", async () => {
    const { thread } = create("bind:error");
    await assert.rejects(thread.bind(), (error) => {
      assert.ok(error instanceof Error && error.cause instanceof Error);
      assert.deepEqual([error.name, error.message, error.cause.message], ["TypeError", "no way", "behind it"]);
      assert.equal((error as NodeJS.ErrnoException).code, "E_NONE");
      assert.match(error.stack ?? "", /fake-worker/);
      return true;
    });
  });

  for (const deed of ["throw", "reject", "exit"]) {
    it(`that dies while it serves (${deed}) is told of once, and its end is waited for by nobody`, async () => {
      const made = create(`notReady:${deed}`);
      await run(made);
      await made.thread.notReady();
      await eventually(() => made.failures.length > 0);
      const began_ms = performance.now();
      await made.thread.drain(10_000);
      await made.thread.stop(10_000);
      assert.ok(performance.now() - began_ms < 2_000);
      assert.equal(made.failures.length, 1, String(made.failures));
    });
  }

  it("whose service fails for good is told of, and can still be drained", async () => {
    const made = create("start:report");
    await run(made);
    assert.equal((made.failures[0] as Error).message, "a service of it");
    await made.thread.drain(1_000);
    await made.thread.stop(1_000);
    assert.ok(made.lines.includes("stop [1000]\n"));
  });

  for (const [phase, deed] of [
    ["drain", "hang"],
    ["stop", "hang"],
    ["stop", "spin"],
  ] as const) {
    it(`that does not end (${phase}: ${deed}) is given up a second after its deadline`, async () => {
      const made = create(`${phase}:${deed}`);
      await run(made);
      const began_ms = performance.now();
      await made.thread.drain(100);
      await made.thread.stop(100);
      const took_ms = performance.now() - began_ms;
      assert.ok(took_ms > 1_000 && took_ms < 4_000, `${took_ms} ms`);
    });
  }

  it("is not waited for where nothing was made in it yet", async () => {
    const { thread, lines } = create("bind:spin");
    const binding = thread.bind();
    binding.catch(() => undefined);
    await eventually(() => lines.length > 0);
    const began_ms = performance.now();
    await thread.drain(10_000);
    await thread.stop(10_000);
    assert.ok(performance.now() - began_ms < 1_000);
    await assert.rejects(binding, "and who waited for its port is told");
  });

  it("sees its own variables as they are given, and of the process's environment only what is not the program's", async () => {
    const process_env = {
      ZONE_KEK: "secret",
      ZONE_KEK_FILE: "/secret",
      TLS_CERT_FILE: "/cert",
      DATABASE_URL: "postgres://other",
      TZ: "UTC",
      PROXY_FILE: "/kept",
    };
    const { thread, lines } = create("bind:environment", process_env);
    await thread.bind();
    const seen = JSON.parse(lines[1] ?? "") as { own: object; process: object };
    assert.deepEqual(seen.own, { TEST_THREAD: "bind:environment", AUDIT_HMAC_KEY: "its own" });
    assert.deepEqual(seen.process, { TZ: "UTC", PROXY_FILE: "/kept" });
  });
});
