import { parentPort, threadId, workerData } from "node:worker_threads";
import type { MessagePort } from "node:worker_threads";
import { StartupFault } from "../../src/kernel/problem.ts";
import { answerCalls } from "../../src/process/thread/answer.ts";
import { errorByValue, type ThreadData } from "../../src/process/thread/messages.ts";

/** A thread that does as `TEST_THREAD` says in a phase: `phase:deed`. Otherwise it goes through every phase and says so. */

const port = parentPort as MessagePort;
const { env } = workerData as ThreadData;
const [at = "", deed = ""] = (env["TEST_THREAD"] ?? "").split(":");
const done: string[] = [];

const DEEDS: Readonly<Record<string, () => unknown>> = {
  fault: () => {
    throw new StartupFault("AUDIT_PORT: is taken");
  },
  error: () => {
    throw Object.assign(new TypeError("no way", { cause: new Error("behind it") }), { code: "E_NONE" });
  },
  throw: () => {
    setImmediate(() => JSON.parse("no JSON"));
    return new Promise(() => {});
  },
  reject: () => {
    void Promise.reject(new Error("nobody listens"));
    return new Promise(() => {});
  },
  exit: () => process.exit(0),
  hang: () => new Promise(() => {}),
  spin: () => {
    for (;;);
  },
  report: () => port.postMessage({ failed: errorByValue(new Error("a service of it")) }),
  environment: () => port.postMessage({ line: JSON.stringify({ own: env, process: { ...process.env } }) }),
};

const phase =
  <T>(name: string, value: T) =>
  async (...given: readonly unknown[]): Promise<T> => {
    done.push(name);
    port.postMessage({ line: `${name} ${JSON.stringify(given)}\n` });
    if (name === at) await DEEDS[deed]?.();
    return value;
  };

answerCalls(port, {
  bind: phase("bind", { audit: { host: "127.0.0.1", port: threadId } }),
  make: phase("make", undefined),
  start: phase("start", undefined),
  faults: phase("faults", ["ledger is away"]),
  notReady: phase("notReady", undefined),
  drain: phase("drain", undefined),
  stop: phase("stop", undefined),
});
