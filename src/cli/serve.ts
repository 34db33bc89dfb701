import { Command } from "commander";
import { type Config, type Env, isDev, loadConfig } from "../config/index.ts";
import { isRoleName, ROLE_NAMES, type RoleName } from "../domain/role-name.ts";
import { type DataDir, openDataDir } from "../embedded/data-dir.ts";
import { QUICKSTART_FILE, startDemo } from "../demo/index.ts";
import { type Binding, bindRole, readyFaults } from "../http/server.ts";
import type { Role } from "../http/role.ts";
import { uuidv7 } from "../kernel/ids.ts";
import { createLog, type Log } from "../kernel/log.ts";
import { StartupFault } from "../kernel/problem.ts";
import { type Service, within } from "../kernel/service.ts";
import { assemble, type Parts } from "../parts.ts";
import { createRoles } from "../roles.ts";
import type { CliContext } from "./index.ts";

/** A terminal's Ctrl-C reaches npm and us, so it comes twice; only a later one is meant as "now". */
const SAME_SIGNAL_MS = 1_000;
const ISSUER_FILE = "issuer-url";

const parseRoles = (text: string): readonly RoleName[] => {
  const names = text.split(",").map((part) => part.trim());
  if (names.includes("all")) return ROLE_NAMES;
  const unknown = names.filter((name) => !isRoleName(name));
  if (unknown.length > 0)
    throw new StartupFault(`--role: "${unknown.join(",").slice(0, 80)}" is none of all, ${ROLE_NAMES.join(", ")}`);
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

/** Told to stop before the start was over: what was made by then is closed, and the rest of the start ends with the process. */
class Stopped extends Error {
  readonly stop: Stop;
  constructor(stop: Stop) {
    super(`stopped by ${stop.why} while starting`);
    this.stop = stop;
  }
}

type StopSignal = { readonly stopped: Promise<Stop>; readonly abort: AbortSignal; fail(error: unknown): void };

/** Resolves with the first reason to stop. A second signal, if it is no echo of the first, ends the drain at once. */
const stopSignal = (log: Log): StopSignal => {
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
      log.error({ err: error }, "a part of the process failed for good");
      stop({ code: 1, why: "failure" });
    },
  };
};

const schemeOf = (config: Config): "http" | "https" => (config.TLS_CERT_FILE === undefined ? "http" : "https");

const addressOf = (config: Config, binding: Binding): string => {
  const host = binding.host === "0.0.0.0" || binding.host === "::" ? "localhost" : binding.host;
  return `${schemeOf(config)}://${host.includes(":") ? `[${host}]` : host}:${binding.port}`;
};

/** `iss` is what tokens were signed with: in dev the first start's address is kept, so that they outlive a change of port. */
const issuerUrl = (config: Config, data_dir: DataDir | undefined, sts: Binding | undefined): string => {
  const configured = config.ISSUER_URL ?? config.STS_URL;
  if (configured !== undefined) return configured;
  const kept = data_dir?.read(ISSUER_FILE)?.trim();
  if (kept !== undefined) return kept;
  const own = sts === undefined ? "http://localhost" : addressOf(config, sts);
  data_dir?.write(ISSUER_FILE, `${own}\n`);
  return own;
};

const bindAll = async (config: Config, log: Log): Promise<ReadonlyMap<RoleName, Binding>> => {
  const tls =
    config.TLS_CERT_FILE === undefined || config.TLS_KEY_FILE === undefined
      ? undefined
      : { cert_file: config.TLS_CERT_FILE, key_file: config.TLS_KEY_FILE };
  const bindings = new Map<RoleName, Binding>();
  try {
    for (const name of config.roles) {
      const upper = name.toUpperCase() as Uppercase<RoleName>;
      bindings.set(
        name,
        await bindRole({ name, host: config[`${upper}_HOST`], port: config[`${upper}_PORT`], tls, log }),
      );
    }
  } catch (error) {
    await Promise.all([...bindings.values()].map((binding) => binding.close(0)));
    throw error;
  }
  return bindings;
};

const startServices = async (
  services: readonly Service[],
  fail: (error: unknown) => void,
  started: Service[],
): Promise<void> => {
  for (const service of services) {
    await service.start(fail);
    started.push(service);
  }
};

/** In-flight calls first, then what works in the background, then what both stand on. */
const shutDown = async (
  bindings: ReadonlyMap<RoleName, Binding>,
  started: readonly Service[],
  parts: Parts | undefined,
  timeout_ms: number,
  log: Log,
): Promise<void> => {
  const until_ms = performance.now() + timeout_ms;
  const left_ms = (): number => Math.max(0, until_ms - performance.now());
  await Promise.all([...bindings.values()].map((binding) => binding.close(left_ms())));
  for (const service of started.toReversed()) {
    await service
      .stop(Math.max(left_ms(), 1_000))
      .catch((error: unknown) => log.error({ err: error, service: service.name }, "a service did not stop cleanly"));
  }
  await parts?.close().catch((error: unknown) => log.error({ err: error }, "a connection did not close cleanly"));
};

/** Serves the roles of `--role` until the process is told to stop. Resolves to the exit code. */
const serve = async (roles: readonly RoleName[], context: CliContext): Promise<number> => {
  const dev = isDev(context.env);
  if (dev) process.umask(0o077); // the embedded database's own files, too, are for this user alone
  const data_dir = dev ? await openDataDir(context.env["CARACAL_DATA_DIR"] || ".caracal", context.env) : undefined;
  data_dir?.remove(QUICKSTART_FILE); // a former start's: it would send programs to ports where nobody is
  const started: Service[] = [];
  let bindings: ReadonlyMap<RoleName, Binding> = new Map();
  let parts: Parts | undefined;
  let timeout_ms = 0;
  let log = createLog({ level: "warn" });
  const startUp = async (config: Config, stop: StopSignal): Promise<void> => {
    bindings = await bindAll(config, log);
    const issuer_url = issuerUrl(config, data_dir, bindings.get("sts"));
    const assembled = await assemble({ config, data_dir, issuer_url, instance_id: uuidv7(), log, onFatal: stop.fail });
    parts = assembled;
    const made = createRoles(assembled);
    await startServices([...assembled.services, ...made.services], stop.fail, started);
    for (const role of made.roles) await serveOne(role, bindings, stop.fail, started);
    const address = (name: RoleName): string => {
      const binding = bindings.get(name);
      return binding === undefined ? "" : addressOf(config, binding);
    };
    if (
      dev &&
      data_dir !== undefined &&
      made.control_plane !== undefined &&
      config.roles.length === ROLE_NAMES.length
    ) {
      const faults = async (): Promise<readonly string[]> => {
        const found = await Promise.all(made.roles.map(readyFaults));
        return found.flat().map(({ check, fault }) => `${check} ${fault}`);
      };
      const demo = await startDemo({
        control_plane: made.control_plane,
        data_dir,
        issuer_url,
        address,
        faults,
        out: context.out,
      });
      started.push(demo);
    }
    log.info(
      { roles, issuer_url, addresses: Object.fromEntries(roles.map((name) => [name, address(name)])) },
      "serving",
    );
  };
  try {
    const config = loadConfig(context.env, roles, devDefaults(context.env, data_dir));
    timeout_ms = config.SHUTDOWN_TIMEOUT;
    log = createLog({ level: config.LOG_LEVEL });
    const stop = stopSignal(log);
    const starting = startUp(config, stop);
    starting.catch(() => undefined); // told below, unless the process was told to stop first
    const first = await Promise.race([starting.then(() => undefined), stop.stopped]);
    if (first !== undefined) throw new Stopped(first);

    const { code, why } = await stop.stopped;
    log.info({ why }, "draining");
    for (const binding of bindings.values()) binding.notReady();
    const aborted = new Promise<void>((resolve) => stop.abort.addEventListener("abort", () => resolve()));
    await Promise.race([shutDown(bindings, started, parts, timeout_ms, log), aborted]);
    return code;
  } catch (error) {
    await within(2_000, shutDown(bindings, started, parts, 1_000, log));
    if (error instanceof Stopped) return error.stop.code;
    throw error;
  } finally {
    await data_dir?.release();
  }
};

const serveOne = async (
  role: Role,
  bindings: ReadonlyMap<RoleName, Binding>,
  fail: (error: unknown) => void,
  started: Service[],
): Promise<void> => {
  await startServices(role.services, fail, started);
  bindings.get(role.name)?.serve(role);
};

/** Dev's folder brings the secrets; the folder itself is where the process found it. */
const devDefaults = (env: Env, data_dir: DataDir | undefined): Env =>
  data_dir === undefined
    ? {}
    : { ...data_dir.secrets, ...(env["CARACAL_DATA_DIR"] === undefined ? { CARACAL_DATA_DIR: data_dir.path } : {}) };
