import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { parentPort, workerData } from "node:worker_threads";
import { trustCa } from "../support/trust.ts";
import type { InnocentTarget, Observed } from "./innocent.ts";

/**
 * The innocent zone's agent and its upstream, on a thread of their own: what the attacker's code costs the test's main
 * thread must not look like the program's slowness.
 */

const CALLS_PER_S = 50;
/** Of the calls, each so-many-th has one of these beside it. */
const TOKEN_EACH = 25;
const HEALTH_EACH = 10;
const UNANSWERED_MS = 10_000;

const ca = workerData as string | undefined;
if (ca !== undefined) trustCa(ca);

/** `/open` never ends: an attacker's zone may name this upstream, too. */
const upstream = createServer((request, response) => {
  request.resume();
  response.writeHead(200, { "content-type": "text/plain" });
  if (request.url?.startsWith("/open") === true) response.write("open\n");
  else response.end("innocent");
});

const open = async (target: InnocentTarget): Promise<{ stop(): Promise<Observed> }> => {
  const observed = { times_ms: [] as number[], faults: [] as string[] };
  const under_way = new Set<Promise<void>>();

  const ask = async (what: string, url: string, init: RequestInit): Promise<string> => {
    const began = performance.now();
    try {
      const answer = await fetch(url, { ...init, signal: AbortSignal.timeout(UNANSWERED_MS) });
      const text = await answer.text();
      const took_ms = performance.now() - began;
      observed.times_ms.push(took_ms);
      if (answer.status !== 200) observed.faults.push(`${what}: ${answer.status} ${text.slice(0, 200)}`);
      return text;
    } catch (error) {
      observed.times_ms.push(performance.now() - began);
      const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : "";
      observed.faults.push(`${what}: ${String(error)}${cause}`);
      return "";
    }
  };
  const { gateway_url, sts_url, resource, token_form } = target;
  const askToken = (): Promise<string> =>
    ask("token", `${sts_url}/oauth/2/token`, { method: "POST", body: new URLSearchParams(token_form) });
  const tokenOf = (text: string): string | undefined =>
    text.startsWith("{") ? (JSON.parse(text) as { readonly access_token?: string }).access_token : undefined;

  let token = tokenOf(await askToken()) ?? "";
  const call = async (): Promise<void> => {
    const headers = { authorization: `Bearer ${token}`, "x-caracal-resource": resource };
    const text = await ask("call", `${gateway_url}/work`, { headers });
    if (text !== "" && text !== "innocent" && !text.startsWith("{"))
      observed.faults.push(`call: another's body ${text}`);
  };
  const renew = async (): Promise<void> => {
    token = tokenOf(await askToken()) ?? token;
  };
  const health = async (): Promise<void> => {
    await ask("health", `${gateway_url}/health`, {});
  };
  const start = (work: Promise<void>): void => {
    under_way.add(work);
    void work.finally(() => under_way.delete(work));
  };

  let sent = 0;
  const began = performance.now();
  const timer = setInterval(() => {
    const due = Math.floor(((performance.now() - began) * CALLS_PER_S) / 1_000);
    for (; sent < due; sent += 1) {
      start(call());
      if (sent % TOKEN_EACH === 0) start(renew());
      if (sent % HEALTH_EACH === 0) start(health());
    }
  }, 5);
  return {
    async stop() {
      clearInterval(timer);
      await Promise.all(under_way);
      return observed;
    },
  };
};

upstream.listen({ host: "127.0.0.1", port: 0 }, () => {
  parentPort?.postMessage({ port: (upstream.address() as AddressInfo).port });
});

let running: { stop(): Promise<Observed> } | undefined;
parentPort?.on("message", (message: InnocentTarget | "stop") => {
  const answer = async (): Promise<void> => {
    if (message !== "stop") {
      running = await open(message);
      parentPort?.postMessage("started");
      return;
    }
    parentPort?.postMessage(await running?.stop());
  };
  void answer();
});
