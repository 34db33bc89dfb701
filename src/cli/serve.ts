import { Command } from "commander";
import { type Config, type Env, isDev, readConfig } from "../config/index.ts";
import { unreadVariables } from "../config/unread.ts";
import { isRoleName, ROLE_NAMES, type RoleName } from "../domain/role-name.ts";
import { type DataDir, openDataDir } from "../embedded/data-dir.ts";
import { QUICKSTART_FILE } from "../demo/quickstart.ts";
import { uuidv7 } from "../kernel/ids.ts";
import { createLog, type Log, standardOutput } from "../kernel/log.ts";
import { UsageFault } from "../kernel/problem.ts";
import { type Service, within } from "../kernel/service.ts";
import { layOut } from "../process/roles.ts";
import { createElsewhere } from "../process/thread/elsewhere.ts";
import { createHere, type HereThread } from "../process/here.ts";
import { allNotReady, bindAll, faultsOf, shutDown, startAll, type Threads } from "../process/phases.ts";
import type { Address } from "../process/role-thread.ts";
import type { CliContext } from "./context.ts";

/** A terminal's Ctrl-C reaches npm and this process, so it comes twice. Only a later one means "now". */
const SAME_SIGNAL_MS = 1_000;
const ISSUER_FILE = "issuer-url";

const parseRoles = (text: string): readonly RoleName[] => {
  const names = text.split(",").map((part) => part.trim());
  if (names.includes("all")) return ROLE_NAMES;
  const unknown = names.filter((name) => !isRoleName(name));
  if (unknown.length > 0)
    throw new UsageFault(`--role: "${unknown.join(",").slice(0, 80)}" is none of all, ${ROLE_NAMES.join(", ")}`);
  return ROLE_NAMES.filter((name) => names.includes(name));
};

/** `caracal [serve] --role=…`: serves until a signal or a failure; every other command ends by itself. */
export const serveCommand = (context: CliContext): Command =>
  new Command("serve")
    .description("Serve one role, several, or all (the default command).")
    .requiredOption("--role <roles>", `all, or a list of ${ROLE_NAMES.join(", ")}`)
    .action(async (options: { role: string }) => {
      context.exit(await serve(parseRoles(options.role), context));
    });

type Stop = { readonly code: number; readonly why: string };

/** The process must stop before its start is over. What was made is closed; the rest of the start ends with the process. */
class Stopped extends Error {
  readonly stop: Stop;
  constructor(stop: Stop) {
    super(`stopped by ${stop.why} while starting`);
    this.stop = stop;
  }
}

type StopSignal = { readonly stopped: Promise<Stop>; readonly abort: AbortSignal; fail(error: unknown): void };

/** Resolves with the first reason to stop. A second signal ends the drain at once, unless it is an echo of the first. */
const stopSignal = (log: () => Log): StopSignal => {
  const abort = new AbortController();
  let stop: (reason: Stop) => void = () => {};
  const stopped = new Promise<Stop>((resolve) => {
    stop = resolve;
  });
  let first_ms: number | undefined;
  const onSignal = (signal: string): void => {
    const now_ms = performance.now();
    if (first_ms === undefined) {
      first_ms = now_ms;
      stop({ code: 0, why: signal });
    } else if (now_ms - first_ms > SAME_SIGNAL_MS) {
      abort.abort();
    }
  };
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => onSignal(signal));
  return {
    stopped,
    abort: abort.signal,
    fail(error) {
      log().error({ err: error }, "a part of the process failed for good");
      stop({ code: 1, why: "failure" });
    },
  };
};

const schemeOf = (config: Config): "http" | "https" => (config.TLS_CERT_FILE === undefined ? "http" : "https");

const urlOf = (config: Config, address: Address): string => {
  const host = address.host === "0.0.0.0" || address.host === "::" ? "localhost" : address.host;
  return `${schemeOf(config)}://${host.includes(":") ? `[${host}]` : host}:${address.port}`;
};

/** `iss` is what tokens were signed with: in dev the first start's address is kept, so that they outlive a change of port. */
const issuerUrl = (config: Config, data_dir: DataDir | undefined, sts: Address | undefined): string => {
  const configured = config.ISSUER_URL ?? config.STS_URL;
  if (configured !== undefined) return configured;
  const kept = data_dir?.read(ISSUER_FILE)?.trim();
  if (kept !== undefined) return kept;
  const own = sts === undefined ? "http://localhost" : urlOf(config, sts);
  data_dir?.write(ISSUER_FILE, `${own}\n`);
  return own;
};

/** Serves the roles of `--role` until a signal or a failure. Resolves to the exit code. */
const serve = async (roles: readonly RoleName[], context: CliContext): Promise<number> => {
  const lines = standardOutput();
  let log = createLog({ level: "warn", destination: lines });
  const stop = stopSignal(() => log); // first, because a signal would else end the process with things half made
  const dev = isDev(context.env);
  if (dev) process.umask(0o077); // the embedded database's own files, too, are for this user alone
  const data_dir = dev ? await openDataDir(context.env["CARACAL_DATA_DIR"] || ".caracal", context.env) : undefined;
  data_dir?.remove(QUICKSTART_FILE); // from a former start: its ports are no longer ours
  let threads: Threads = [];
  let demo: Service | undefined;
  let timeout_ms = 0;
  const startUp = async (config: Config, main: HereThread): Promise<void> => {
    const bound = await bindAll(threads);
    const issuer_url = issuerUrl(config, data_dir, bound.sts);
    await startAll(threads, { issuer_url, instance_id: uuidv7() });
    const address = (name: RoleName): string => {
      const at = bound[name];
      return at === undefined ? "" : urlOf(config, at);
    };
    const control_plane = main.made().by_name.api?.control_plane;
    if (dev && data_dir !== undefined && control_plane !== undefined && config.roles.length === ROLE_NAMES.length) {
      const { startDemo } = await import("../demo/index.ts");
      demo = await startDemo({
        control_plane,
        data_dir,
        issuer_url,
        address,
        faults: () => faultsOf(threads),
        out: context.out,
      });
    }
    log.info(
      { roles, issuer_url, addresses: Object.fromEntries(roles.map((name) => [name, address(name)])) },
      "serving",
    );
  };
  try {
    const { config, textsOf } = readConfig(context.env, roles, devDefaults(context.env, data_dir));
    timeout_ms = config.SHUTDOWN_TIMEOUT;
    log = createLog({ level: config.LOG_LEVEL, destination: lines });
    for (const line of unreadVariables(context.env)) log.warn({}, line);
    const { here, apart } = layOut(config);
    // Other threads first: all load their modules at the same time, and while ports are taken.
    const elsewhere = apart.map((role) =>
      createElsewhere({
        role,
        env: textsOf([role]),
        process_env: context.env,
        write: (line) => lines.write(line),
        failed: stop.fail,
      }),
    );
    const main = createHere({
      name: "the main thread",
      config,
      roles: here,
      data_dir,
      log,
      failed: stop.fail,
    });
    threads = [main, ...elsewhere];
    const starting = startUp(config, main);
    starting.catch(() => undefined); // reported below, unless a signal came first
    const first = await Promise.race([starting.then(() => undefined), stop.stopped]);
    if (first !== undefined) throw new Stopped(first);

    const { code, why } = await stop.stopped;
    log.info({ why }, "draining");
    allNotReady(threads);
    const aborted = new Promise<void>((resolve) => stop.abort.addEventListener("abort", () => resolve()));
    await Promise.race([shutDown(threads, demo, timeout_ms, log), aborted]);
    return code;
  } catch (error) {
    await within(2_000, shutDown(threads, demo, 1_000, log));
    if (error instanceof Stopped) return error.stop.code;
    throw error;
  } finally {
    await data_dir?.release();
  }
};

/** In dev the data folder holds the secrets. The variable that names the folder is set to where it was found. */
const devDefaults = (env: Env, data_dir: DataDir | undefined): Env =>
  data_dir === undefined
    ? {}
    : { ...data_dir.secrets, ...(env["CARACAL_DATA_DIR"] === undefined ? { CARACAL_DATA_DIR: data_dir.path } : {}) };
