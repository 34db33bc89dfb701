import { execFile, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

/** A closed loop of `connections` callers for `seconds`. */
export type Load = {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly connections: number;
  readonly seconds: number;
};

/** What came back. A measurement with failures is none: `measureLoad` rejects it. */
export type LoadResult = { readonly per_s: number };

const has_wrk = spawnSync("wrk", ["--version"]).error === undefined;
export const LOAD_PROGRAM = has_wrk ? "wrk" : "autocannon";

const autocannon = fileURLToPath(import.meta.resolve("autocannon"));

const run = (file: string, args: readonly string[]): Promise<string> =>
  new Promise((resolve, reject) => {
    execFile(file, args, { maxBuffer: 1024 * 1024 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else reject(new Error(`${file}: ${error.message}\n${stderr}`));
    });
  });

const headerFlags = (load: Load): string[] =>
  Object.entries(load.headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]);

const withWrk = async (load: Load): Promise<LoadResult> => {
  const out = await run("wrk", ["-t1", `-c${load.connections}`, `-d${load.seconds}s`, ...headerFlags(load), load.url]);
  const per_s = Number(/Requests\/sec:\s+([\d.]+)/.exec(out)?.[1]);
  const failures = /Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)/.exec(out);
  if (failures !== null || !Number.isFinite(per_s)) throw new Error(`wrk ${load.url}: ${failures?.[0] ?? out}`);
  return { per_s };
};

type AutocannonResult = {
  readonly errors: number;
  readonly non2xx: number;
  readonly requests: { readonly total: number };
  readonly duration: number;
};

const withAutocannon = async (load: Load): Promise<LoadResult> => {
  const flags = ["--json", "-c", String(load.connections), "-d", String(load.seconds)];
  const out = await run(process.execPath, [autocannon, ...flags, ...headerFlags(load), load.url]);
  const result = JSON.parse(out) as AutocannonResult;
  if (result.errors > 0 || result.non2xx > 0) {
    throw new Error(`autocannon ${load.url}: ${result.errors} errors, ${result.non2xx} refusals`);
  }
  return { per_s: result.requests.total / result.duration };
};

/** Runs the load in a process of its own: wrk where it is installed, else autocannon. Rejects where a call failed. */
export const measureLoad = (load: Load): Promise<LoadResult> => (has_wrk ? withWrk(load) : withAutocannon(load));
