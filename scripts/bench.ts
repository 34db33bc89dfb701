/**
 * `npm run bench`: what the program costs on this machine, against the bare parts that it can't be faster than.
 *
 *   npm run bench -- [--quick] [--profile] [--json FILE] [--only throughput,exchange,latency,revocation]
 *   npm run bench -- --hostile [--json FILE]: how much longer an innocent zone waits under each attack of test/hostile
 *
 * Everything is private and on loopback: PostgreSQL, Redis (appendonly, synced every second), the upstream, the load. The
 * measurements alternate in short rounds, so that what else the machine does meets all of them: a machine that is shared may be
 * twice as fast in the next minute. Figures are medians of the rounds, and ratios medians of each round's own ratio.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { resolve } from "node:path";
import { createPostgres } from "../src/adapters/postgres/index.ts";
import { startPostgresServer, startRedisServer } from "../test/support/provision.ts";
import { cpuOf } from "./bench/cpu.ts";
import type { ExchangeLoad } from "./bench/exchange-load.ts";
import type { InProcess, InProcessResult } from "./bench/exchange-in-process.ts";
import { harmReport, measureHarm } from "./bench/hostile.ts";
import { type Instance, type Layout, MEMORY_FLAGS, type Shared, startInstance } from "./bench/instance.ts";
import { LOAD_PROGRAM, measureLoad } from "./bench/load.ts";
import type { OpenLoop } from "./bench/open-loop.ts";
import { type Part, startOwnPart } from "./bench/parts.ts";
import {
  type Calls,
  type Exchanges,
  exchangesOf,
  type FixedRate,
  LOADS,
  missedBy,
  ratiosOf,
  reportOf,
  type Results,
  throughputOf,
  type Way,
  WAYS,
} from "./bench/results.ts";
import { measureRevocations, type RevocationTimes } from "./bench/revocations.ts";
import { type Latency, runsOf } from "./bench/stats.ts";

/** What runs in a process of its own, started by `startOwnPart`. */
const PARTS: Readonly<Record<string, () => Promise<{ run(): void | Promise<void> }>>> = {
  upstream: () => import("./bench/upstream.ts"),
  "bare-proxy": () => import("./bench/bare-proxy.ts"),
  floor: () => import("./bench/floor.ts"),
  "open-loop": () => import("./bench/open-loop.ts"),
  "exchange-load": () => import("./bench/exchange-load.ts"),
  "exchange-in-process": () => import("./bench/exchange-in-process.ts"),
};

const MEASUREMENTS = ["throughput", "exchange", "latency", "revocation"] as const;
type Measurement = (typeof MEASUREMENTS)[number];

type Options = {
  readonly rounds: number;
  readonly seconds: number;
  /** What runs for the first time is compiled for some seconds. */
  readonly warm_seconds: number;
  readonly revocations: number;
  readonly profile_dir: string | undefined;
  readonly json: string | undefined;
  readonly only: readonly Measurement[];
  readonly hostile: boolean;
};

/** Exchanges under way at once, and callers while the program warms up. */
const AT_ONCE = 64;
const FIXED_PER_S = 1_000;
const PART_MS = 120_000;

const say = (line: string): void => void process.stderr.write(`${line}\n`);

const valueOf = (args: readonly string[], name: string): string | undefined => {
  const at = args.indexOf(name);
  const value = at < 0 ? undefined : args[at + 1];
  if (at >= 0 && value === undefined) throw new Error(`${name} needs a value`);
  return value;
};

const KNOWN = new Set(["--hostile", "--quick", "--profile", "--json", "--only"]);

const readOptions = (args: readonly string[]): Options => {
  const unknown = args.find((arg) => arg.startsWith("-") && !KNOWN.has(arg));
  if (unknown !== undefined) throw new Error(`${unknown} is unknown; there are ${[...KNOWN].join(", ")}`);
  const quick = args.includes("--quick");
  const only = valueOf(args, "--only")?.split(",") ?? MEASUREMENTS;
  const wrong = only.find((one) => !MEASUREMENTS.some((known) => known === one));
  if (wrong !== undefined) throw new Error(`--only: ${wrong} is none of ${MEASUREMENTS.join(", ")}`);
  return {
    rounds: quick ? 3 : 9,
    seconds: quick ? 2 : 3,
    warm_seconds: quick ? 4 : 10,
    revocations: quick ? 50 : 100,
    profile_dir: args.includes("--profile") ? resolve("bench-profile") : undefined,
    json: valueOf(args, "--json"),
    only: MEASUREMENTS.filter((one) => only.includes(one)),
    hostile: args.includes("--hostile"),
  };
};

/** What is measured, with everything that has to be stopped again. */
type Bench = {
  readonly options: Options;
  readonly upstream_url: string;
  readonly proxy_url: string;
  readonly floor_url: string;
  /** Who works for a call on its way, by what it is. */
  readonly pids: Readonly<Record<Way, Readonly<Record<string, number>>>>;
  readonly instances: Readonly<Record<Layout, Instance>>;
};

type Target = { readonly url: string; readonly headers: Readonly<Record<string, string>> };

const targetsOf = async (bench: Bench): Promise<Readonly<Record<Way, Target>>> => {
  const through = async (instance: Instance): Promise<Target> => ({
    url: `${instance.gateway_url}/`,
    headers: instance.headers(await instance.agent()),
  });
  const { all, split } = bench.instances;
  const through_all = await through(all);
  // The bare ways are sent as many bytes.
  const bare = (url: string): Target => ({ url: `${url}/`, headers: through_all.headers });
  return {
    direct: bare(bench.upstream_url),
    proxy: bare(bench.proxy_url),
    floor: bare(bench.floor_url),
    all: through_all,
    split: await through(split),
  };
};

const rounds = async <K extends string, T>(
  names: readonly K[],
  count: number,
  measure: (name: K) => Promise<T>,
): Promise<Readonly<Record<K, readonly T[]>>> => {
  const results = Object.fromEntries(names.map((name) => [name, [] as T[]])) as Record<K, T[]>;
  for (let round = 0; round < count; round += 1) {
    for (const name of names) {
      const result = await measure(name);
      results[name].push(result);
      say(`  ${round + 1}/${count} ${name}: ${JSON.stringify(result)}`);
    }
  }
  return results;
};

const mapValues = <K extends string, A, B>(record: Readonly<Record<K, A>>, map: (value: A) => B): Record<K, B> =>
  Object.fromEntries(Object.entries<A>(record).map(([name, value]) => [name, map(value)])) as Record<K, B>;

const countCpu = async (pids: Readonly<Record<string, number>>, work: () => Promise<number>): Promise<Calls> => {
  const before = mapValues(pids, cpuOf);
  const began = performance.now();
  const per_s = await work();
  const calls = per_s * ((performance.now() - began) / 1_000);
  const cpu_us = Object.fromEntries(
    Object.entries(pids).map(([name, pid]) => [name, Math.round(((cpuOf(pid) - (before[name] ?? 0)) * 1_000) / calls)]),
  );
  return { per_s, cpu_us };
};

const throughput = async (bench: Bench): Promise<NonNullable<Results["throughput"]>> => {
  const targets = await targetsOf(bench);
  const { seconds, warm_seconds } = bench.options;
  for (const way of WAYS) await measureLoad({ ...targets[way], connections: AT_ONCE, seconds: warm_seconds });
  const under = async (connections: number) => {
    say(`calls per second, ${connections} callers in a closed loop (${LOAD_PROGRAM})`);
    const results = await rounds(WAYS, bench.options.rounds, (way) =>
      countCpu(bench.pids[way], async () => {
        const { per_s } = await measureLoad({ ...targets[way], connections, seconds });
        return per_s;
      }),
    );
    return mapValues(results, (runs) => throughputOf(runs, results.proxy));
  };
  const [few, many] = LOADS;
  return { [few]: await under(few), [many]: await under(many) } as NonNullable<Results["throughput"]>;
};

const askOnce = async <T>(part: Part): Promise<T> => {
  try {
    return await part.next<T>(PART_MS);
  } finally {
    await part.stop();
  }
};

const exchange = async (bench: Bench): Promise<Exchanges> => {
  say("exchanges per second");
  const { split } = bench.instances;
  const { seconds } = bench.options;
  const { zone_id, resource, issuer_url, environment, gateway_key, sts_url } = split;
  const done: { readonly signing: number; readonly in_process: number; readonly over_http: number }[] = [];
  for (let round = 0; round < bench.options.rounds; round += 1) {
    const { token } = await split.agent();
    const inside = {
      environment,
      issuer_url,
      zone_id,
      token,
      resource,
      at_once: AT_ONCE,
      seconds,
    } satisfies InProcess;
    const direct = await askOnce<InProcessResult>(startOwnPart("exchange-in-process", inside, MEMORY_FLAGS));
    const outside = {
      sts_url,
      gateway_key,
      zone_id,
      token,
      resource,
      at_once: AT_ONCE,
      seconds,
    } satisfies ExchangeLoad;
    const { per_s } = await askOnce<{ readonly per_s: number }>(startOwnPart("exchange-load", outside));
    const one = { signing: direct.signatures_per_s, in_process: direct.exchanges_per_s, over_http: per_s };
    done.push(one);
    say(`  ${round + 1}/${bench.options.rounds} ${JSON.stringify(one)}`);
  }
  return exchangesOf(done);
};

const latency = async (bench: Bench): Promise<Readonly<Record<Way, FixedRate>>> => {
  say(`milliseconds at ${FIXED_PER_S} calls per second, open loop`);
  const targets = await targetsOf(bench);
  const { seconds } = bench.options;
  const results = await rounds(WAYS, bench.options.rounds, (way) =>
    askOnce<Latency>(startOwnPart("open-loop", { ...targets[way], per_s: FIXED_PER_S, seconds } satisfies OpenLoop)),
  );
  return mapValues(results, (runs) => ({
    p50: runsOf(runs.map((one) => one.p50)),
    p99: runsOf(runs.map((one) => one.p99)),
  }));
};

const revocation = async (bench: Bench): Promise<Readonly<Record<Layout, RevocationTimes>>> => {
  say(`milliseconds from a revocation's answer, ${bench.options.revocations} of them`);
  const of = async (layout: Layout): Promise<RevocationTimes> => {
    const times = await measureRevocations(bench.instances[layout], bench.options.revocations);
    say(`  ${layout}: ${JSON.stringify(times)}`);
    return times;
  };
  return { all: await of("all"), split: await of("split") };
};

const measure = async (bench: Bench): Promise<void> => {
  const { options } = bench;
  const when = async <T>(name: Measurement, run: (bench: Bench) => Promise<T>): Promise<T | undefined> =>
    options.only.includes(name) ? run(bench) : undefined;
  const results: Results = {
    revocation: await when("revocation", revocation),
    throughput: await when("throughput", throughput),
    exchange: await when("exchange", exchange),
    latency: await when("latency", latency),
  };
  const ratios = ratiosOf(results);
  process.stdout.write(
    `Node ${process.versions.node}, ${availableParallelism()} cores for everything, split over plain HTTP\n\n`,
  );
  process.stdout.write(`${reportOf(results, FIXED_PER_S)}\n`);
  for (const line of missedBy(ratios)) process.stdout.write(`\nnot reached: ${line}`);
  process.stdout.write("\n");
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify({ ratios, results }, null, 2)}\n`);
};

/** Another program that runs at the same time takes its share of what is measured. */
const BUSY_LOAD = 0.5;

const run = async (options: Options): Promise<void> => {
  const [load = 0] = loadavg();
  if (load > BUSY_LOAD)
    say(`the machine is busy (load ${load.toFixed(1)}): the figures will be worse than on a quiet one`);
  const closers: (() => Promise<void>)[] = [];
  const kept = <T extends { stop(): Promise<void> } | { close(): Promise<void> }>(made: T): T => {
    closers.push(() => ("stop" in made ? made.stop() : made.close()));
    return made;
  };
  try {
    const postgres = kept(await startPostgresServer({ settings: ["fsync=on", "full_page_writes=on"] }));
    const urlOf = (database: string): string =>
      `postgres://postgres@127.0.0.1:${postgres.port}/${database}?sslmode=disable`;
    const upstream = kept(startOwnPart("upstream", {}));
    const { port } = await upstream.next<{ readonly port: number }>(PART_MS);
    const upstream_url = `http://127.0.0.1:${port}`;
    const proxy = kept(startOwnPart("bare-proxy", { upstream_url }));
    const { port: proxy_port } = await proxy.next<{ readonly port: number }>(PART_MS);
    const redis_pids: Record<string, number> = {};
    const sharedBy = async (name: string): Promise<Shared> => {
      const database = `${name}_layout`;
      const admin = createPostgres({ url: urlOf("postgres"), name: "bench", max: 1 });
      await admin.sql.unsafe(`create database ${database}`).finally(() => admin.close());
      const redis = kept(await startRedisServer({ appendonly: true, appendfsync: "everysec" }));
      redis_pids[name] = redis.pid();
      return { database_url: urlOf(database), redis_url: `redis://127.0.0.1:${redis.port}`, upstream_url };
    };
    const floor = kept(startOwnPart("floor", await sharedBy("floor"), MEMORY_FLAGS));
    const { port: floor_port } = await floor.next<{ readonly port: number }>(PART_MS);
    if (options.profile_dir !== undefined) mkdirSync(options.profile_dir, { recursive: true });

    const start = async (layout: Layout): Promise<Instance> =>
      kept(await startInstance({ layout, shared: await sharedBy(layout), profile_dir: options.profile_dir }));
    const instances = { all: await start("all"), split: await start("split") };
    const common = { upstream: upstream.pid };
    const beside = (name: Layout | "floor", pids: Readonly<Record<string, number>>): Record<string, number> => ({
      ...pids,
      redis: redis_pids[name] ?? 0,
      postgres: postgres.pid(),
      ...common,
    });
    const pids = {
      direct: common,
      proxy: { proxy: proxy.pid, ...common },
      floor: beside("floor", { floor: floor.pid }),
      all: beside("all", instances.all.pids),
      split: beside("split", instances.split.pids),
    };
    await measure({
      options,
      upstream_url,
      proxy_url: `http://127.0.0.1:${proxy_port}`,
      floor_url: `http://127.0.0.1:${floor_port}`,
      pids,
      instances,
    });
  } finally {
    for (const close of closers.toReversed()) await close().catch((error: unknown) => say(String(error)));
  }
  if (options.profile_dir !== undefined) say(`CPU profiles: ${options.profile_dir}`);
};

const runHostile = async ({ json }: Options): Promise<void> => {
  const postgres = await startPostgresServer();
  try {
    const harms = await measureHarm(`postgres://postgres@127.0.0.1:${postgres.port}/postgres?sslmode=disable`, say);
    process.stdout.write(`milliseconds of an innocent zone's requests\n\n${harmReport(harms)}\n`);
    if (json !== undefined) writeFileSync(json, `${JSON.stringify({ harms }, null, 2)}\n`);
  } finally {
    await postgres.close();
  }
};

const part = process.argv[2]?.match(/^--part=(.*)$/)?.[1];
if (part !== undefined) {
  await (await PARTS[part]?.())?.run();
} else {
  try {
    const options = readOptions(process.argv.slice(2));
    await (options.hostile ? runHostile(options) : run(options));
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  }
}
