import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeZone, serveApi, type ServedApi } from "../api/serve.ts";
import { cleanEnvironment, launch, MAIN, type Run, runToEnd } from "../support/program.ts";

/** The program's commands, run as a user runs them, against the control plane as it is served. */

type Ended = Awaited<ReturnType<typeof runToEnd>>;

export type CliRig = {
  readonly api: ServedApi;
  /** A folder for a test's files; the commands run in it. */
  readonly dir: string;
  /** Writes a file there and gives its path. */
  file(name: string, text: string): string;
  /** A fresh zone, its token in a file, and what is run with it. */
  zone(): Promise<ZoneRig>;
  /** With the global token. */
  run(...args: readonly string[]): Promise<Ended>;
  runWith(env: Readonly<Record<string, string>>, ...args: readonly string[]): Promise<Ended>;
  close(): Promise<void>;
};

export type ZoneRig = {
  readonly zone_id: string;
  readonly token: string;
  readonly env: Readonly<Record<string, string>>;
  run(...args: readonly string[]): Promise<Ended>;
  /** Runs it, and gives back what it printed as JSON; another exit code than 0 fails the test. */
  json<T = Record<string, unknown>>(...args: readonly string[]): Promise<T>;
  /** Starts it against another address. */
  start(api_url: string, ...args: readonly string[]): Run;
};

export const startRig = async (): Promise<CliRig> => {
  const api = await serveApi();
  const dir = mkdtempSync(join(tmpdir(), "caracal-cli-"));
  let tokens = 0;
  const file = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text, { mode: 0o600 });
    return join(dir, name);
  };
  const envOf = (token: string): Readonly<Record<string, string>> => {
    tokens += 1;
    return { CARACAL_API_URL: api.url, CARACAL_ADMIN_TOKEN_FILE: file(`token-${tokens}`, `${token}\n`) };
  };
  const global_env = envOf(api.global_token);
  const runWith: CliRig["runWith"] = (env, ...args) => runToEnd(args, { env, cwd: dir, timeout_ms: 60_000 });
  return {
    api,
    dir,
    file,
    async zone() {
      const { zone_id, token } = await makeZone(api);
      const env = envOf(token);
      const run: ZoneRig["run"] = (...args) => runWith(env, ...args);
      return {
        zone_id,
        token,
        env,
        run,
        async json<T>(...args: readonly string[]) {
          const ended = await run(...args);
          if (ended.code !== 0) throw new Error(`${args.join(" ")} ended with ${ended.code}: ${ended.stderr}`);
          return JSON.parse(ended.stdout) as T;
        },
        start: (api_url, ...args) =>
          launch(process.execPath, [MAIN, ...args], cleanEnvironment({ ...env, CARACAL_API_URL: api_url }), dir),
      };
    },
    run: (...args) => runWith(global_env, ...args),
    runWith,
    async close() {
      await api.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
};
