import { once } from "node:events";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";

/** Where the innocent zone's agent calls, and what it shows for a token. */
export type InnocentTarget = {
  readonly gateway_url: string;
  readonly sts_url: string;
  readonly resource: string;
  readonly token_form: Readonly<Record<string, string>>;
};

/** What the innocent's agent met: the time of each of its requests, and each that had no proper answer. */
export type Observed = { readonly times_ms: readonly number[]; readonly faults: readonly string[] };

export type Innocent = {
  readonly upstream_url: string;
  /** From now on it runs at its rate, until `stop` says what it met. */
  start(target: InnocentTarget): Promise<void>;
  stop(): Promise<Observed>;
  close(): Promise<void>;
};

/** Starts the thread of the innocent zone's agent and upstream. `ca`: of the certificates that the program serves with. */
export const startInnocent = async (ca: string | undefined): Promise<Innocent> => {
  const here = fileURLToPath(import.meta.url);
  const worker = new Worker(new URL(`./innocent-worker${extname(here)}`, import.meta.url), { workerData: ca });
  const next = async <T>(): Promise<T> => ((await once(worker, "message")) as [T])[0];
  const { port } = await next<{ readonly port: number }>();
  return {
    upstream_url: `http://127.0.0.1:${port}/`,
    async start(target) {
      const started = next();
      worker.postMessage(target);
      await started;
    },
    async stop() {
      const observed = next<Observed>();
      worker.postMessage("stop");
      return observed;
    },
    async close() {
      await worker.terminate();
    },
  };
};
