import { readFileSync } from "node:fs";
import * as v from "valibot";
import type { RoleName } from "../domain/role-name.ts";
import { scrub } from "../kernel/log.ts";
import { UsageFault } from "../kernel/problem.ts";
import { refusals } from "./refusals.ts";
import { type Config, type Env, type Values, type Variable, type VariableName, VARIABLES } from "./variables.ts";

export type { Config, Env } from "./variables.ts";

/** The variable's text: from itself, or from the file that `NAME_FILE` names (secrets only; a last line feed is cut). */
const textOf = (env: Env, name: VariableName, variable: Variable, faults: string[]): string | undefined => {
  const own = env[name];
  const file = variable.secret === true ? env[`${name}_FILE`] : undefined;
  if (file === undefined || file === "") return own === "" ? undefined : own;
  if (own !== undefined && own !== "") {
    faults.push(`${name}: is set beside ${name}_FILE; set one of them`);
    return undefined;
  }
  try {
    return readFileSync(file, "utf8").replace(/\r?\n$/, "");
  } catch (cause) {
    const why = cause instanceof Error && "code" in cause ? String(cause.code) : "unreadable";
    faults.push(`${name}_FILE: ${file} can't be read (${why})`);
    return undefined;
  }
};

/** The configuration, and the texts that it was read from. */
export type Read = {
  readonly config: Config;
  /**
   * The texts of the variables that these roles read while they serve, and of no others: `loadConfig` makes the roles' own
   * configuration of them. Files are not read a second time: what they say may have changed.
   */
  readonly textsOf: (roles: readonly RoleName[]) => Env;
};

/** The schema's owner is for `caracal migrate`; no role reaches the database with it. */
const NEVER_SERVED_WITH: readonly string[] = ["MIGRATE_DATABASE_URL"];

/** Reads what the roles need from `env`, over `defaults` (what a dev folder brings). Throws as `loadConfig` does. */
export const readConfig = (env: Env, roles: readonly RoleName[], defaults: Env = {}): Read => {
  const faults: string[] = [];
  const texts: Record<string, string> = {};
  const dev = isDev(env);
  const values: Record<string, unknown> = {};
  for (const [name, variable] of Object.entries(VARIABLES) as [VariableName, Variable][]) {
    if (!variable.roles.some((role) => roles.includes(role))) continue;
    const fallback = defaults[name] ?? (dev ? variable.dev_default : undefined) ?? variable.default;
    const text = textOf(env, name, variable, faults) ?? fallback;
    if (text === undefined) continue;
    texts[name] = text;
    const parsed = v.safeParse(variable.schema, text);
    if (parsed.success) {
      values[name] = parsed.output;
      continue;
    }
    const shown = variable.secret === true ? "" : ` ("${String(scrub(text.slice(0, 60)))}")`;
    faults.push(`${name}: ${parsed.issues[0].message}${shown}`);
  }
  // Every other rule hangs on it: what they say of a misspelt one leads away from the fault.
  const environment = faults.find((fault) => fault.startsWith("CARACAL_ENV:"));
  if (environment !== undefined) throw new UsageFault(environment);
  const config = {
    ...(values as Values),
    roles,
    production: values["CARACAL_ENV"] === "production",
    embedded_database: dev && !hasDatabase(env),
    embedded_redis: dev && values["REDIS_URL"] === undefined,
  };
  const found = [...faults, ...refusals(config, new Set(faults.map((fault) => fault.split(":", 1)[0] ?? "")))];
  if (found.length > 0) throw new UsageFault(...found);
  return { config: Object.freeze(config), textsOf: (some) => textsOf(texts, some) };
};

/**
 * The program's configuration, as `roles` need it. Throws one `UsageFault` with every fault, each a line that names the
 * variable and the way out. A secret's value is never in a message.
 */
export const loadConfig = (env: Env, roles: readonly RoleName[], defaults: Env = {}): Config =>
  readConfig(env, roles, defaults).config;

const textsOf = (texts: Env, roles: readonly RoleName[]): Env => {
  const left_out = new Set(NEVER_SERVED_WITH);
  // Who has a database user of its own has no business with the common one.
  if (roles.every((role) => texts[`DATABASE_URL_${role.toUpperCase()}`] !== undefined)) left_out.add("DATABASE_URL");
  const isRead = ([name, variable]: [string, Variable]): boolean =>
    !left_out.has(name) && variable.roles.some((role) => roles.includes(role));
  return Object.fromEntries(
    Object.entries<Variable>(VARIABLES)
      .filter(isRead)
      .map(([name]) => [name, texts[name]]),
  );
};

/** What of an environment is not this program's: neither a variable of its own nor the file of one. */
export const foreignTo = (env: Env): Env =>
  Object.fromEntries(Object.entries(env).filter(([name]) => !isOurs(name) && !isOurs(name.replace(/_FILE$/, ""))));

const isOurs = (name: string): boolean => Object.hasOwn(VARIABLES, name);

/**
 * One variable by itself, for a command that needs no role's whole configuration: from `NAME` or, a secret, `NAME_FILE`.
 * undefined where it is not set and has no default. Throws `UsageFault`.
 */
export const readVariable = <N extends VariableName>(
  env: Env,
  name: N,
): v.InferOutput<(typeof VARIABLES)[N]["schema"]> | undefined => {
  const variable: Variable = VARIABLES[name];
  const faults: string[] = [];
  const text = textOf(env, name, variable, faults) ?? variable.default;
  if (faults.length > 0) throw new UsageFault(...faults);
  if (text === undefined) return undefined;
  const parsed = v.safeParse(variable.schema, text);
  if (!parsed.success) throw new UsageFault(`${name}: ${parsed.issues[0].message}`);
  return parsed.output as v.InferOutput<(typeof VARIABLES)[N]["schema"]>;
};

/** Whether the environment asks for development; another spelling than `dev` is refused with the rest. */
export const isDev = (env: Env): boolean => env["CARACAL_ENV"] === "dev";

const hasDatabase = (env: Env): boolean =>
  Object.keys(env).some(
    (name) =>
      /^DATABASE_URL(_(STS|COORDINATOR|API|AUDIT))?(_FILE)?$/.test(name) && env[name] !== "" && env[name] !== undefined,
  );

/** The URL with which a role reaches the database, its own before the common one. */
export const databaseUrlOf = (config: Config, role: Exclude<RoleName, "gateway">): string | undefined =>
  config[`DATABASE_URL_${role.toUpperCase() as Uppercase<typeof role>}`] ?? config.DATABASE_URL;
