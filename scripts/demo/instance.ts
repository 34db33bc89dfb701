import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import * as v from "valibot";
import { QUICKSTART_FILE, type Quickstart } from "../../src/demo/quickstart.ts";
import { ROLE_NAMES } from "../../src/domain/role-name.ts";
import { NotAsTold, type Stage } from "./stage.ts";

/** The program that the story is played against. */
export type Instance = {
  readonly quickstart: Quickstart;
  readonly data_dir: string;
  /** Only of an instance of our own: ends it, so that its ledger can be opened without it. */
  readonly stop: (() => Promise<void>) | undefined;
  close(): Promise<void>;
};

const START_WITHIN_MS = 60_000;
const STOP_WITHIN_MS = 20_000;
const POLL_MS = 50;
const MAX_SAID = 4_096;
/** The entry beside this build: compiled where this file is, else as it is. */
const MAIN = fileURLToPath(new URL(`../../src/main${extname(import.meta.url)}`, import.meta.url));

const text = v.pipe(v.string(), v.minLength(1));
const QuickstartSchema: v.GenericSchema<unknown, Quickstart> = v.object({
  gateway_url: text,
  sts_url: text,
  api_url: text,
  coordinator_url: text,
  audit_url: text,
  zone_id: text,
  application_id: text,
  client_secret: text,
  resource: text,
  denied_resource: text,
  upstream_url: text,
  admin_token: text,
});

/** undefined where the file is not there (yet). */
const readQuickstart = (data_dir: string): Quickstart | undefined => {
  const file = join(data_dir, QUICKSTART_FILE);
  let content: string;
  try {
    content = readFileSync(file, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new NotAsTold(`${file} can't be read (${code})`);
  }
  try {
    return v.parse(QuickstartSchema, JSON.parse(content));
  } catch {
    throw new NotAsTold(`${file} is not what a dev start writes; start the program again`);
  }
};

/** A program that is running: `quickstart.json` is there while it does. */
export const attach = async (folder: string): Promise<Instance> => {
  const data_dir = resolve(folder);
  const quickstart = readQuickstart(data_dir);
  if (quickstart === undefined) {
    throw new NotAsTold(`no instance serves from ${data_dir}; start one with npm start, or name its data folder`);
  }
  const ready = await fetch(`${quickstart.gateway_url}/ready`, { signal: AbortSignal.timeout(5_000) }).catch(
    () => null,
  );
  await ready?.body?.cancel();
  if (ready?.status !== 200) {
    throw new NotAsTold(
      `the instance of ${data_dir} is not ready at ${quickstart.gateway_url}; start it with npm start`,
    );
  }
  return { quickstart, data_dir, stop: undefined, close: async () => undefined };
};

/** The program's own environment: what it needs to find programs, a folder of its own, and any free ports. */
const environmentOf = (data_dir: string): Record<string, string> => ({
  ...Object.fromEntries(
    ["PATH", "HOME", "OPA_PATH"].flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value] as const];
    }),
  ),
  ...Object.fromEntries(ROLE_NAMES.map((role) => [`${role.toUpperCase()}_PORT`, "0"])),
  CARACAL_ENV: "dev",
  CARACAL_DATA_DIR: data_dir,
});

/** Starts the program on a fresh folder; resolves when every role is ready. */
export const startOwn = async (stage: Stage, interrupted: AbortSignal): Promise<Instance> => {
  const folder = mkdtempSync(join(tmpdir(), "caracal-demo-"));
  const data_dir = join(folder, "data");
  stage.heading("An instance of its own");
  stage.says("starting every role in one process, with an embedded database …");
  const child = spawn(process.execPath, [MAIN, "serve", "--role=all"], {
    env: environmentOf(data_dir),
    stdio: ["ignore", "ignore", "pipe"],
    detached: true, // a Ctrl-C is ours to pass on, once the story has ended
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (words: string) => {
    said = (said + words).slice(-MAX_SAID);
  });
  let ended = false;
  const exited = new Promise<number | null>((done) => {
    child.once("error", () => done(null));
    child.once("close", done);
  });
  void exited.then(() => {
    ended = true;
  });

  const stop = async (): Promise<void> => {
    if (!ended) child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), STOP_WITHIN_MS);
    const code = await exited;
    clearTimeout(late);
    if (code !== 0) throw new NotAsTold(`the instance ended with ${code ?? "a signal"}`, ...said.trimEnd().split("\n"));
  };
  const close = async (): Promise<void> => {
    await stop().catch(() => undefined);
    rmSync(folder, { recursive: true, force: true });
  };

  const began_ms = performance.now();
  try {
    for (;;) {
      interrupted.throwIfAborted();
      const quickstart = readQuickstart(data_dir);
      if (quickstart !== undefined) {
        stage.says(`ready after ${((performance.now() - began_ms) / 1000).toFixed(1)} s`);
        return { quickstart, data_dir, stop, close };
      }
      if (ended) throw new NotAsTold("the instance did not start", ...said.trimEnd().split("\n"));
      if (performance.now() - began_ms > START_WITHIN_MS) {
        throw new NotAsTold(`the instance was not ready within ${START_WITHIN_MS / 1000} s`);
      }
      await pause(POLL_MS);
    }
  } catch (error) {
    await close();
    throw error;
  }
};
