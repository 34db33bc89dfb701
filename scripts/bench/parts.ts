import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** A process that the benchmark started: it speaks in lines of JSON. */
export type Part = {
  readonly pid: number;
  /** The next line that it says; rejects with what it wrote to standard error where it ends instead. */
  next<T>(timeout_ms: number): Promise<T>;
  /** SIGTERM, and SIGKILL to one that does not go. */
  stop(): Promise<void>;
};

export type PartOptions = {
  readonly file: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Lines that are no answer are passed over. */
  readonly isAnswer?: (line: string) => boolean;
};

const STOP_MS = 15_000;
const MAX_ERRORS = 64 * 1024;

/** Stands beside a process and kills it when we are gone, however we went: nothing of a run is left behind. */
const leash = (pid: number): (() => void) => {
  const shell = spawn("/bin/sh", ["-c", 'cat >/dev/null; kill -9 "$1" 2>/dev/null', "leash", String(pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  return () => void shell.kill("SIGKILL");
};

const ended = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null;

/** Starts a process and reads its standard output line by line. */
export const startPart = (options: PartOptions): Part => {
  const child = spawn(options.file, options.args, { env: options.env, stdio: ["ignore", "pipe", "pipe"] });
  const release = child.pid === undefined ? (): void => undefined : leash(child.pid);
  const lines: string[] = [];
  let errors = "";
  let failed: Error | undefined;
  let heard = (): void => undefined;

  createInterface({ input: child.stdout }).on("line", (line) => {
    if (options.isAnswer?.(line) === false) {
      errors = `${errors}${line}\n`.slice(-MAX_ERRORS);
      return;
    }
    lines.push(line);
    heard();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors = (errors + text).slice(-MAX_ERRORS);
  });
  const exited = new Promise<void>((resolve) => {
    const end = (why: string): void => {
      release();
      failed = new Error(`${options.args.join(" ")} ${why}\n${errors}`);
      heard();
      resolve();
    };
    child.once("error", (error) => end(`could not be started: ${error.message}`));
    child.once("close", (code, signal) => end(`ended with ${code ?? signal}`));
  });

  return {
    pid: child.pid ?? 0,
    next: <T>(timeout_ms: number) =>
      new Promise<T>((resolve, reject) => {
        const settle = (): boolean => {
          const line = lines.shift();
          if (line === undefined && failed === undefined) return false;
          clearTimeout(timer);
          heard = () => undefined;
          if (line === undefined) reject(failed);
          else resolve(JSON.parse(line) as T);
          return true;
        };
        const timer = setTimeout(() => {
          heard = () => undefined;
          reject(new Error(`${options.args.join(" ")} said nothing for ${timeout_ms} ms\n${errors}`));
        }, timeout_ms);
        heard = () => void settle();
        settle();
      }),
    async stop() {
      if (!ended(child)) child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
      await exited;
      clearTimeout(late);
    },
  };
};

/** What a part of the benchmark's own (`PARTS` in bench.ts) is started with, as JSON. */
const OPTIONS_VARIABLE = "CARACAL_BENCH_OPTIONS";

/** Starts one of the benchmark's own parts. */
export const startOwnPart = (name: string, options: object, node_flags: readonly string[] = []): Part =>
  startPart({
    file: process.execPath,
    args: [...node_flags, process.argv[1] ?? "", `--part=${name}`],
    env: { PATH: process.env["PATH"] ?? "", [OPTIONS_VARIABLE]: JSON.stringify(options) },
  });

/** In a part: what it was started with. */
export const partOptions = <T>(): T => JSON.parse(process.env[OPTIONS_VARIABLE] ?? "{}") as T;

/** In a part: says a line. */
export const answer = (value: object): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
