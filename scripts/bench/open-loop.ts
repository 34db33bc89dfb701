import { type Dispatcher, Pool } from "undici";
import { answer, partOptions } from "./parts.ts";
import { type Latency, latencyOf } from "./stats.ts";

export type OpenLoop = {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly per_s: number;
  readonly seconds: number;
};

const WARM_MS = 1_000;
const CONNECTIONS = 128;

/** Calls at a fixed rate, whether or not the ones before were answered: a stall shows in every call that it held up. */
const measure = (options: OpenLoop): Promise<Latency> =>
  new Promise((resolve, reject) => {
    const { origin, pathname } = new URL(options.url);
    const pool = new Pool(origin, { connections: CONNECTIONS, pipelining: 1 });
    const headers = Object.entries(options.headers).flat();
    const request = { method: "GET", path: pathname, headers } satisfies Dispatcher.DispatchOptions;
    const total = Math.round((options.per_s * (WARM_MS + options.seconds * 1_000)) / 1_000);
    const times_ms: number[] = [];
    const began = performance.now();
    let sent = 0;
    let done = 0;

    const call = (): void => {
      const at = performance.now();
      let status = 0;
      pool.dispatch(request, {
        onConnect: () => undefined,
        onHeaders(code) {
          status = code;
          return true;
        },
        onData: () => true,
        onComplete() {
          if (status !== 200) reject(new Error(`${options.url} answered ${status}`));
          if (at - began >= WARM_MS) times_ms.push(performance.now() - at);
          done += 1;
          if (done === total) pool.close().then(() => resolve(latencyOf(times_ms)), reject);
        },
        onError: reject,
      });
    };
    const timer = setInterval(() => {
      const due = Math.min(total, Math.floor(((performance.now() - began) * options.per_s) / 1_000));
      for (; sent < due; sent += 1) call();
      if (sent === total) clearInterval(timer);
    }, 1);
  });

export const run = async (): Promise<void> => answer(await measure(partOptions<OpenLoop>()));
