/**
 * `npm test`: finds or starts the databases, then runs every test file that is no long one (`*.long.test.ts`: kills,
 * clusters, hostile tenants). `npm run test:long` (`--long`) runs the long ones. Arguments are beginnings of paths and
 * choose among all files (`npm test -- test/sts`). Other arguments with a dash go to node.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { findPostgresBin, findRedisServer, startPostgresServer } from "../test/support/provision.ts";
import { createTemplate, dropDatabase, SERVER_VARIABLE, TEMPLATE_VARIABLE } from "../test/support/postgres.ts";

const built = join(dirname(fileURLToPath(import.meta.url)), "..");
const say = (line: string): void => void process.stderr.write(`${line}\n`);

const isLong = (file: string): boolean => file.endsWith(".long.test.js");

/** The test files under `dist/test`, in the order of their paths: the long or the fast ones, or those that are named. */
const testFiles = (wanted: readonly string[], long: boolean): readonly string[] => {
  const root = join(built, "test");
  const all = readdirSync(root, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".test.js"))
    .map((path) => join(root, path))
    .sort();
  if (wanted.length === 0) return all.filter((file) => isLong(file) === long);
  const names = wanted.map((path) => path.replace(/^(\.\/)?(dist\/)?/, "").replace(/\.[jt]s$/, ""));
  return all.filter((file) => names.some((name) => relative(built, file).startsWith(name)));
};

const IMPORT = /^(?:import|export)[^"']*from\s*["'](\.[^"']+)["']|^import\s*["'](\.[^"']+)["']/gm;

/** Whether a test file leads to `module` over its imports. */
const imports = (file: string, module: string, seen = new Set<string>()): boolean => {
  if (file === module) return true;
  if (seen.has(file) || !existsSync(file)) return false;
  seen.add(file);
  return [...readFileSync(file, "utf8").matchAll(IMPORT)].some(([, from, bare]) =>
    imports(join(dirname(file), from ?? bare ?? ""), module, seen),
  );
};

const POLICY = "/usr/sbin/policy-rc.d";

/** Debian's packages start a service when they are installed; this asks them not to. */
const withoutServices = (work: () => void): void => {
  if (existsSync(POLICY)) return work();
  writeFileSync(POLICY, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    work();
  } finally {
    rmSync(POLICY, { force: true });
  }
};

/** Asks apt for what is missing, where that is possible at all. */
const install = (packages: readonly string[]): void => {
  if (packages.length === 0 || process.getuid?.() !== 0 || !existsSync("/usr/bin/apt-get")) return;
  say(`installing ${packages.join(" and ")} for the tests`);
  const apt = (...args: readonly string[]): void => {
    spawnSync("apt-get", ["-qq", "-y", ...args], {
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    });
  };
  withoutServices(() => {
    apt("update");
    // One by one: what this system does not have keeps nothing else away.
    for (const name of packages) apt("install", "--no-install-recommends", name);
  });
};

/** Some files test with these where they are there, and skip a part without them: a package, and what it brings. */
const OPTIONAL: Readonly<Record<string, string>> = { pgbouncer: "/usr/sbin/pgbouncer" };

type Databases = {
  readonly env: Readonly<Record<string, string>>;
  readonly missing: readonly ("PostgreSQL" | "Redis")[];
  close(): Promise<void>;
};

const provide = async (): Promise<Databases> => {
  const given = process.env["TEST_DATABASE_URL"];
  const needsPostgres = (): boolean => given === undefined && findPostgresBin() === undefined;
  const needsRedis = (): boolean => process.env["TEST_REDIS_URL"] === undefined && findRedisServer() === undefined;
  install([
    ...(needsPostgres() ? ["postgresql"] : []),
    ...(needsRedis() ? ["redis-server"] : []),
    ...Object.keys(OPTIONAL).filter((name) => !existsSync(OPTIONAL[name] ?? "")),
  ]);
  const missing = [...(needsPostgres() ? ["PostgreSQL" as const] : []), ...(needsRedis() ? ["Redis" as const] : [])];
  if (needsPostgres()) return { env: {}, missing, close: async () => {} };

  const server = given === undefined ? await startPostgresServer() : undefined;
  const url = given ?? `postgres://postgres@127.0.0.1:${server?.port}/postgres?sslmode=disable`;
  const template = await createTemplate(url);
  return {
    env: { [SERVER_VARIABLE]: url, [TEMPLATE_VARIABLE]: template },
    missing,
    async close() {
      if (server === undefined) await dropDatabase(url, template);
      await server?.close();
    },
  };
};

const FORWARDED = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Runs node's test runner over the files; resolves to its exit code. */
const runTests = (files: readonly string[], flags: readonly string[], env: Databases["env"]): Promise<number> =>
  new Promise((resolve, reject) => {
    const reporter = flags.some((flag) => flag.startsWith("--test-reporter")) ? [] : ["--test-reporter=spec"];
    // A long one loads the machine by itself, and says what others still get of it: it runs alone.
    const concurrency = `--test-concurrency=${files.some(isLong) ? 1 : availableParallelism()}`;
    const args = ["--enable-source-maps", "--test", concurrency, ...reporter, ...flags, ...files];
    const child = spawn(process.execPath, args, { stdio: "inherit", env: { ...process.env, ...env } });
    // A terminal's Ctrl-C reaches the child by itself; one sent to us alone must be passed on. Either way we outlive it.
    for (const signal of FORWARDED) process.on(signal, () => child.kill(signal));
    child.once("error", reject);
    child.once("exit", (code) => resolve(code ?? 1));
  });

const SUPPORT = { PostgreSQL: "test/support/postgres.js", Redis: "test/support/redis.js" } as const;

const LONG = "--long";

const main = async (): Promise<number> => {
  const args = process.argv.slice(2);
  const long = args.includes(LONG);
  const flags = args.filter((arg) => arg.startsWith("-") && arg !== LONG);
  const wanted = args.filter((arg) => !arg.startsWith("-"));
  const files = testFiles(wanted, long);
  if (files.length === 0) {
    say(`no test file's path begins with ${wanted.join(" or ")}`);
    return 1;
  }
  const databases = await provide();
  try {
    const skipped = files.filter((file) => databases.missing.some((part) => imports(file, join(built, SUPPORT[part]))));
    for (const file of skipped) say(`skipped ${relative(built, file)}: there is no ${databases.missing.join(", no ")}`);
    const run = files.filter((file) => !skipped.includes(file));
    const missing = databases.missing.length > 0;
    if (missing) say(`not tested, for want of it: ${databases.missing.join(", ")} (${skipped.length} files skipped)`);
    // Last, so that the output ends with node's summary.
    const code = run.length === 0 ? 0 : await runTests(run, flags, databases.env);
    return missing && process.env["CI"] === "true" ? 1 : code;
  } finally {
    await databases.close();
  }
};

process.exitCode = await main();
