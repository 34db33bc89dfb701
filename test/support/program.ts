import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { eventually } from "./eventually.ts";

/** The program as a user has it: a process, seen from outside through its addresses, its output and its exit code. */

const here = fileURLToPath(import.meta.url);
/** The entry beside this build: compiled with the compiled tests, as it is with the tests as they are. */
export const MAIN = join(here, "..", "..", "..", "src", `main${extname(here)}`);

export const ROLES = ["gateway", "sts", "api", "coordinator", "audit"] as const;

/** `quickstart.json`, as a dev start writes it. */
export type Quickstart = {
  readonly gateway_url: string;
  readonly sts_url: string;
  readonly api_url: string;
  readonly coordinator_url: string;
  readonly audit_url: string;
  readonly zone_id: string;
  readonly application_id: string;
  readonly client_secret: string;
  readonly resource: string;
  readonly denied_resource: string;
  readonly upstream_url: string;
  readonly admin_token: string;
};

export type Exit = { readonly code: number | null; readonly signal: NodeJS.Signals | null };

export type ProgramOptions = {
  /** Over the clean environment: `PATH` and `HOME`, dev, the data folder, every port free. */
  readonly env?: Readonly<Record<string, string>>;
  /** A fresh folder by default, which `close` removes. */
  readonly data_dir?: string;
  readonly ready_within_ms?: number;
  /** Another way of starting the same: `npm start`. In a process group of its own, so that a signal can go to all. */
  readonly command?: { readonly file: string; readonly args: readonly string[]; readonly cwd: string };
};

export type Program = {
  /** Of the last start. */
  readonly quickstart: Quickstart;
  readonly data_dir: string;
  readonly pid: number;
  /** From the spawn until every role was ready, in milliseconds; of the last start. */
  readonly ready_in_ms: number;
  stdout(): string;
  stderr(): string;
  signal(signal: NodeJS.Signals): void;
  /** To every process of the program's group, as a terminal does. */
  signalGroup(signal: NodeJS.Signals): void;
  exited(): Promise<Exit>;
  /** SIGTERM; resolves with how it ended. */
  stop(): Promise<Exit>;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** Starts it again on the same folder, after `stop` or `kill`. */
  start(): Promise<void>;
  /** Ends it however it stands, and removes the folder. */
  close(): Promise<void>;
};

const READY_WITHIN_MS = 60_000;
const STOP_WITHIN_MS = 30_000;

/** Nothing of the machine's own but what a process needs to find programs and its home; coverage where it is measured. */
export const cleanEnvironment = (env: Readonly<Record<string, string>> = {}): Record<string, string> => {
  const kept = ["PATH", "HOME", "NODE_V8_COVERAGE"].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return { ...Object.fromEntries(kept), ...env };
};

/** Ports that are free, in the environment's form. */
export const FREE_PORTS: Readonly<Record<string, string>> = Object.fromEntries(
  ROLES.map((role) => [`${role.toUpperCase()}_PORT`, "0"]),
);

/**
 * A shell that reads from a pipe of ours: when this process is gone, however it went, the pipe ends and the shell kills
 * what we started.
 */
const leash = (pid: number): { release(): void } => {
  const shell = spawn("/bin/sh", ["-c", 'cat >/dev/null; kill -9 -- "-$1" "$1" 2>/dev/null', "leash", String(pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  shell.unref();
  (shell.stdin as unknown as { unref?(): void } | null)?.unref?.();
  return { release: () => void shell.kill("SIGKILL") };
};

/** One run of a command, with its output kept. */
export type Run = {
  readonly child: ChildProcess;
  readonly pid: number;
  stdout(): string;
  stderr(): string;
  readonly exited: Promise<Exit>;
  ended(): Exit | undefined;
};

const MAX_OUTPUT = 4 * 1024 * 1024;

/** Starts a command in a process group of its own, on a leash that ends it with us. */
export const launch = (file: string, args: readonly string[], env: Record<string, string>, cwd?: string): Run => {
  const child = spawn(file, args, {
    env,
    stdio: ["ignore", "pipe", "pipe"],
    detached: true, // a group of its own: a signal to the tests' group is not the program's
    ...(cwd === undefined ? {} : { cwd }),
  });
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (text: string) => {
      output[name] = (output[name] + text).slice(-MAX_OUTPUT);
    });
  }
  let end: Exit | undefined;
  const tether = child.pid === undefined ? undefined : leash(child.pid);
  const exited = new Promise<Exit>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      tether?.release();
      end = { code, signal };
      resolve(end);
    });
  });
  exited.catch(() => undefined);
  return {
    child,
    pid: child.pid ?? 0,
    stdout: () => output.stdout,
    stderr: () => output.stderr,
    exited,
    ended: () => end,
  };
};

/** The work's answer, or an error that names the work where it takes longer. */
export const bounded = async <T>(what: string, timeout_ms: number, work: Promise<T>): Promise<T> => {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took more than ${timeout_ms} ms`)), timeout_ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
};

/** A run of the program to its end, for starts that are refused and for subcommands. */
export const runToEnd = async (
  args: readonly string[],
  options: {
    readonly env?: Readonly<Record<string, string>>;
    readonly cwd?: string;
    readonly timeout_ms?: number;
  } = {},
): Promise<Exit & { readonly stdout: string; readonly stderr: string }> => {
  const run = launch(process.execPath, [MAIN, ...args], cleanEnvironment(options.env), options.cwd);
  try {
    const end = await bounded(`caracal ${args.join(" ")}`, options.timeout_ms ?? 30_000, run.exited);
    return { ...end, stdout: run.stdout(), stderr: run.stderr() };
  } catch (error) {
    killGroup(run.pid, "SIGKILL");
    throw new Error(`${String(error)}\n${run.stdout()}\n${run.stderr()}`, { cause: error });
  }
};

/** A signal to the process group that `launch` made; nothing where it is gone. */
export const killGroup = (pid: number, signal: NodeJS.Signals): void => {
  if (pid === 0) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // It is gone already.
  }
};

/** What tells one writing of a file from the next. */
const stampOf = (file: string): string | undefined => {
  try {
    const { ino, mtimeNs } = statSync(file, { bigint: true });
    return `${ino}:${mtimeNs}`;
  } catch {
    return undefined;
  }
};

/** One role's `/ready` says 200; rejects with what it says instead. */
export const isReady = async (url: string): Promise<true> => {
  const answer = await fetch(`${url}/ready`, { signal: AbortSignal.timeout(2_000) });
  const body = await answer.text();
  if (answer.status !== 200) throw new Error(`${url}/ready says ${answer.status}: ${body}`);
  return true;
};

/** Every role's `/ready` says 200. */
export const allReady = async (urls: Pick<Quickstart, `${(typeof ROLES)[number]}_url`>): Promise<void> => {
  await Promise.all(ROLES.map((role) => isReady(urls[`${role}_url`])));
};

/** Starts the program with every role, and resolves when each is ready. Rejects with its output where it is not. */
export const startProgram = async (options: ProgramOptions = {}): Promise<Program> => {
  const own_folder = options.data_dir === undefined ? mkdtempSync(join(tmpdir(), "caracal-")) : undefined;
  // The program makes its folder itself.
  const data_dir = options.data_dir ?? join(own_folder ?? "", "data");
  const file = join(data_dir, "quickstart.json");
  const env = cleanEnvironment({ CARACAL_ENV: "dev", CARACAL_DATA_DIR: data_dir, ...FREE_PORTS, ...options.env });

  let run: Run | undefined;
  let quickstart: Quickstart | undefined;
  let ready_in_ms = 0;

  const current = (): Run => {
    if (run === undefined) throw new Error("the program was not started");
    return run;
  };

  const start = async (): Promise<void> => {
    const before = stampOf(file);
    const began = performance.now();
    const started =
      options.command === undefined
        ? launch(process.execPath, [MAIN, "--role=all"], env)
        : launch(options.command.file, options.command.args, env, options.command.cwd);
    run = started;
    const probe = async (): Promise<boolean> => {
      if (started.ended() !== undefined) return true;
      const stamp = stampOf(file);
      if (stamp === undefined || stamp === before) throw new Error("quickstart.json was not written");
      quickstart = JSON.parse(readFileSync(file, "utf8")) as Quickstart;
      await allReady(quickstart);
      return true;
    };
    const said = (): string => `stdout:\n${started.stdout()}\nstderr:\n${started.stderr()}`;
    try {
      await eventually(probe, { timeout_ms: options.ready_within_ms ?? READY_WITHIN_MS, every_ms: 20 });
    } catch (error) {
      killGroup(started.pid, "SIGKILL");
      const cause = error instanceof Error ? error.cause : undefined;
      throw new Error(`the program did not become ready: ${String(cause ?? error)}\n${said()}`, { cause: error });
    }
    const end = started.ended();
    if (end !== undefined) throw new Error(`the program ended with ${end.code ?? end.signal} at its start\n${said()}`);
    ready_in_ms = performance.now() - began;
  };

  const removeFolder = (): void => {
    if (own_folder !== undefined) rmSync(own_folder, { recursive: true, force: true });
  };

  const program: Program = {
    get quickstart() {
      if (quickstart === undefined) throw new Error("the program was not ready yet");
      return quickstart;
    },
    data_dir,
    get pid() {
      return current().pid;
    },
    get ready_in_ms() {
      return ready_in_ms;
    },
    stdout: () => current().stdout(),
    stderr: () => current().stderr(),
    signal: (signal) => void current().child.kill(signal),
    signalGroup: (signal) => killGroup(current().pid, signal),
    exited: () => bounded("the program's end", STOP_WITHIN_MS, current().exited),
    stop() {
      current().child.kill("SIGTERM");
      return program.exited();
    },
    async kill() {
      killGroup(current().pid, "SIGKILL");
      await program.exited();
    },
    start,
    async close() {
      if (run !== undefined && run.ended() === undefined) {
        run.child.kill("SIGTERM");
        await bounded("the program's end", STOP_WITHIN_MS, run.exited).catch(() => {
          killGroup(run?.pid ?? 0, "SIGKILL");
          return run?.exited;
        });
      }
      removeFolder();
    },
  };
  try {
    await start();
  } catch (error) {
    await program.close();
    throw error;
  }
  return program;
};
