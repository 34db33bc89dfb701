import { Pool } from "undici";
import type { Instance } from "./instance.ts";
import { type Latency, latencyOf } from "./stats.ts";

/** From the API's answer to the first refusal, and to the break of an answer that was streaming; in milliseconds. */
export type RevocationTimes = { readonly refused: Latency; readonly cut: Latency };

const LIMIT_MS = 10_000;

/** One agent that calls and reads a stream, until its session is revoked. */
const once = async (
  instance: Instance,
  pool: Pool,
): Promise<{ readonly refused_ms: number; readonly cut_ms: number }> => {
  const agent = await instance.agent();
  const headers = instance.headers(agent);
  const call = async (): Promise<number> => {
    const answer = await pool.request({ method: "GET", path: "/", headers });
    await answer.body.dump();
    return answer.statusCode;
  };
  if ((await call()) !== 200) throw new Error("an agent was refused before its session was revoked");
  const stream = await pool.request({ method: "GET", path: "/stream", headers });
  const began = new Promise<void>((resolve) => stream.body.once("data", () => resolve()));
  const broken = new Promise<number>((resolve, reject) => {
    stream.body.on("error", () => resolve(performance.now()));
    stream.body.on("end", () => reject(new Error("a cut answer looked complete")));
  });
  stream.body.resume();
  await began;
  await instance.api.revokeSession(agent.session_id);
  const revoked_at = performance.now();
  let status = 200;
  while (status === 200 && performance.now() - revoked_at < LIMIT_MS) status = await call();
  if (status !== 401) throw new Error(`a revoked session was answered with ${status}`);
  const refused_ms = performance.now() - revoked_at;
  return { refused_ms, cut_ms: Math.max(0, (await broken) - revoked_at) };
};

export const measureRevocations = async (instance: Instance, n: number): Promise<RevocationTimes> => {
  const pool = new Pool(instance.gateway_url, { connections: 4, pipelining: 1 });
  const refused_ms: number[] = [];
  const cut_ms: number[] = [];
  try {
    for (let i = 0; i < n; i += 1) {
      const times = await once(instance, pool);
      refused_ms.push(times.refused_ms);
      cut_ms.push(times.cut_ms);
    }
  } finally {
    await pool.destroy();
  }
  return { refused: latencyOf(refused_ms), cut: latencyOf(cut_ms) };
};
