/**
 * `npm run bench`: what the program costs on this machine, against the bare parts that it can't be faster than.
 *
 *   npm run bench -- [--quick] [--profile] [--json FILE] [--only throughput,exchange,latency,revocation]
 *
 * Everything is private and on loopback: PostgreSQL, Redis (appendonly, synced every second), the upstream, the load. The
 * measurements alternate, so that what else the machine does meets all of them; figures are medians of the runs.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { resolve } from "node:path";
import { createPostgres } from "../src/adapters/postgres/index.ts";
import { startPostgresServer, startRedisServer } from "../test/support/provision.ts";
import { cpuOf } from "./bench/cpu.ts";
import type { ExchangeLoad } from "./bench/exchange-load.ts";
import type { InProcess, InProcessResult } from "./bench/exchange-in-process.ts";
import { type Instance, type Layout, MEMORY_FLAGS, startInstance } from "./bench/instance.ts";
import { LOAD_PROGRAM, measureLoad } from "./bench/load.ts";
import type { OpenLoop } from "./bench/open-loop.ts";
import { type Part, startOwnPart } from "./bench/parts.ts";
import { millis, ratio, table, whole } from "./bench/report.ts";
import { measureRevocations, type RevocationTimes } from "./bench/revocations.ts";
import { type Latency, type Runs, runsOf } from "./bench/stats.ts";

/** What runs in a process of its own, started by `startOwnPart`. */
const PARTS: Readonly<Record<string, () => Promise<{ run(): void | Promise<void> }>>> = {
  upstream: () => import("./bench/upstream.ts"),
  "bare-proxy": () => import("./bench/bare-proxy.ts"),
  "open-loop": () => import("./bench/open-loop.ts"),
  "exchange-load": () => import("./bench/exchange-load.ts"),
  "exchange-in-process": () => import("./bench/exchange-in-process.ts"),
};

const MEASUREMENTS = ["throughput", "exchange", "latency", "revocation"] as const;
type Measurement = (typeof MEASUREMENTS)[number];

type Options = {
  readonly rounds: number;
  readonly seconds: number;
  readonly revocations: number;
  readonly profile_dir: string | undefined;
  readonly json: string | undefined;
  readonly only: readonly Measurement[];
};

const CONNECTIONS = 64;
const FIXED_PER_S = 1_000;
const PART_MS = 120_000;

const say = (line: string): void => void process.stderr.write(`${line}\n`);

const valueOf = (args: readonly string[], name: string): string | undefined => {
  const at = args.indexOf(name);
  const value = at < 0 ? undefined : args[at + 1];
  if (at >= 0 && value === undefined) throw new Error(`${name} needs a value`);
  return value;
};

const KNOWN = new Set(["--quick", "--profile", "--json", "--only"]);

const readOptions = (args: readonly string[]): Options => {
  const unknown = args.find((arg) => arg.startsWith("-") && !KNOWN.has(arg));
  if (unknown !== undefined) throw new Error(`${unknown} is unknown; there are ${[...KNOWN].join(", ")}`);
  const quick = args.includes("--quick");
  const only = valueOf(args, "--only")?.split(",") ?? MEASUREMENTS;
  const wrong = only.find((one) => !MEASUREMENTS.some((known) => known === one));
  if (wrong !== undefined) throw new Error(`--only: ${wrong} is none of ${MEASUREMENTS.join(", ")}`);
  return {
    rounds: quick ? 3 : 5,
    seconds: quick ? 3 : 8,
    revocations: quick ? 50 : 100,
    profile_dir: args.includes("--profile") ? resolve("bench-profile") : undefined,
    json: valueOf(args, "--json"),
    only: MEASUREMENTS.filter((one) => only.includes(one)),
  };
};

/** What is measured, with everything that has to be stopped again. */
type Bench = {
  readonly options: Options;
  readonly upstream_url: string;
  readonly proxy_url: string;
  /** Who works for a call on its way, by what it is. */
  readonly pids: Readonly<Record<Way, Readonly<Record<string, number>>>>;
  readonly instances: Readonly<Record<Layout, Instance>>;
};

const WAYS = ["direct", "proxy", "all", "split"] as const;
type Way = (typeof WAYS)[number];
const WAY_NAMES: Readonly<Record<Way, string>> = {
  direct: "upstream, direct",
  proxy: "bare undici proxy",
  all: "Gateway, full path, all",
  split: "Gateway, full path, split",
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

/** `cpu_us`: processor time that each process spends on one call, in microseconds. */
type Calls = { readonly per_s: number; readonly cpu_us: Readonly<Record<string, number>> };

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

type Throughput = { readonly calls: Runs; readonly cpu_us: Readonly<Record<string, number>> };

const throughputOf = (runs: readonly Calls[]): Throughput => ({
  calls: runsOf(runs.map((one) => one.per_s)),
  cpu_us: Object.fromEntries(
    Object.keys(runs[0]?.cpu_us ?? {}).map((name) => [name, runsOf(runs.map((one) => one.cpu_us[name] ?? 0)).median]),
  ),
});

const throughput = async (bench: Bench): Promise<Readonly<Record<Way, Throughput>>> => {
  say(`calls per second, ${CONNECTIONS} callers in a closed loop (${LOAD_PROGRAM})`);
  const targets = await targetsOf(bench);
  const { seconds } = bench.options;
  for (const way of WAYS) await measureLoad({ ...targets[way], connections: CONNECTIONS, seconds: 2 });
  const results = await rounds(WAYS, bench.options.rounds, (way) =>
    countCpu(bench.pids[way], async () => {
      const { per_s } = await measureLoad({ ...targets[way], connections: CONNECTIONS, seconds });
      return per_s;
    }),
  );
  return mapValues(results, throughputOf);
};

const askOnce = async <T>(part: Part): Promise<T> => {
  try {
    return await part.next<T>(PART_MS);
  } finally {
    await part.stop();
  }
};

type Exchanges = { readonly signing: Runs; readonly in_process: Runs; readonly over_http: Runs };

const exchange = async (bench: Bench): Promise<Exchanges> => {
  say("exchanges per second");
  const { split } = bench.instances;
  const { seconds } = bench.options;
  const { zone_id, resource, issuer_url, environment, gateway_key, sts_url } = split;
  const signing: number[] = [];
  const in_process: number[] = [];
  const over_http: number[] = [];
  for (let round = 0; round < bench.options.rounds; round += 1) {
    const { token } = await split.agent();
    const inside = {
      environment,
      issuer_url,
      zone_id,
      token,
      resource,
      at_once: CONNECTIONS,
      seconds,
    } satisfies InProcess;
    const direct = await askOnce<InProcessResult>(startOwnPart("exchange-in-process", inside, MEMORY_FLAGS));
    signing.push(direct.signatures_per_s);
    in_process.push(direct.exchanges_per_s);
    const outside = {
      sts_url,
      gateway_key,
      zone_id,
      token,
      resource,
      at_once: CONNECTIONS,
      seconds,
    } satisfies ExchangeLoad;
    const { per_s } = await askOnce<{ readonly per_s: number }>(startOwnPart("exchange-load", outside));
    over_http.push(per_s);
    say(`  ${round + 1}/${bench.options.rounds} ${JSON.stringify({ ...direct, over_http: per_s })}`);
  }
  return { signing: runsOf(signing), in_process: runsOf(in_process), over_http: runsOf(over_http) };
};

type FixedRate = { readonly p50: Runs; readonly p99: Runs };

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

type Results = {
  readonly throughput: Readonly<Record<Way, Throughput>> | undefined;
  readonly exchange: Exchanges | undefined;
  readonly latency: Readonly<Record<Way, FixedRate>> | undefined;
  readonly revocation: Readonly<Record<Layout, RevocationTimes>> | undefined;
};

/** What the figures are to reach, by the name of the ratio. */
const TARGETS: Readonly<Record<string, { readonly at_least?: number; readonly at_most?: number }>> = {
  all_to_proxy: { at_least: 0.4 },
  split_to_proxy: { at_least: 0.25 },
  exchange_http_to_signing: { at_least: 0.25 },
  exchange_in_process_to_signing: { at_least: 0.25 },
  revocation_all_p99_ms: { at_most: 250 },
  revocation_split_p99_ms: { at_most: 250 },
};

const ratiosOf = ({
  throughput: calls,
  exchange: exchanges,
  latency: fixed,
  revocation: revoked,
}: Results): Record<string, number> => ({
  ...(calls === undefined
    ? {}
    : {
        all_to_proxy: calls.all.calls.median / calls.proxy.calls.median,
        split_to_proxy: calls.split.calls.median / calls.proxy.calls.median,
        all_to_direct: calls.all.calls.median / calls.direct.calls.median,
        split_to_direct: calls.split.calls.median / calls.direct.calls.median,
      }),
  ...(exchanges === undefined
    ? {}
    : {
        exchange_http_to_signing: exchanges.over_http.median / exchanges.signing.median,
        exchange_in_process_to_signing: exchanges.in_process.median / exchanges.signing.median,
      }),
  ...(fixed === undefined
    ? {}
    : {
        all_p50_over_direct_ms: fixed.all.p50.median - fixed.direct.p50.median,
        all_p99_over_direct_ms: fixed.all.p99.median - fixed.direct.p99.median,
        split_p50_over_direct_ms: fixed.split.p50.median - fixed.direct.p50.median,
        split_p99_over_direct_ms: fixed.split.p99.median - fixed.direct.p99.median,
      }),
  ...(revoked === undefined
    ? {}
    : {
        revocation_all_p99_ms: Math.max(revoked.all.refused.p99, revoked.all.cut.p99),
        revocation_split_p99_ms: Math.max(revoked.split.refused.p99, revoked.split.cut.p99),
      }),
});

const reportOf = (results: Results): string => {
  const sections: string[] = [];
  const { throughput: calls, exchange: exchanges, latency: fixed, revocation: revoked } = results;
  if (calls !== undefined) {
    const row = (way: Way): string[] => {
      const { median, min, max } = calls[way].calls;
      const of_proxy = way === "direct" ? undefined : median / calls.proxy.calls.median;
      return [WAY_NAMES[way], whole(median), `${whole(min)}–${whole(max)}`, ratio(of_proxy)];
    };
    sections.push(table([["calls per second", "median", "spread", "of the proxy"], ...WAYS.map(row)]));
    const spent = (way: Way): string[] => [
      WAY_NAMES[way],
      Object.entries(calls[way].cpu_us)
        .map(([name, us]) => `${name} ${us}`)
        .join(", "),
    ];
    sections.push(table([["processor time per call, µs", ""], ...WAYS.map(spent)]));
  }
  if (exchanges !== undefined) {
    const row = (name: string, { median, min, max }: Runs): string[] => [
      name,
      whole(median),
      `${whole(min)}–${whole(max)}`,
      ratio(median / exchanges.signing.median),
    ];
    sections.push(
      table([
        ["exchanges per second", "median", "spread", "of signing"],
        row("ES256 by node:crypto, alone", exchanges.signing),
        row("STS, in process", exchanges.in_process),
        row("STS, over HTTP", exchanges.over_http),
      ]),
    );
  }
  if (fixed !== undefined) {
    const row = (way: Way): string[] => {
      const { p50, p99 } = fixed[way];
      const over = (own: Runs, direct: Runs): string => (way === "direct" ? "" : millis(own.median - direct.median));
      return [
        WAY_NAMES[way],
        millis(p50.median),
        millis(p99.median),
        over(p50, fixed.direct.p50),
        over(p99, fixed.direct.p99),
        `${millis(p99.min)}–${millis(p99.max)}`,
      ];
    };
    const head = [`ms at ${FIXED_PER_S}/s`, "p50", "p99", "p50 over direct", "p99 over direct", "p99 spread"];
    sections.push(table([head, ...WAYS.map(row)]));
  }
  if (revoked !== undefined) {
    const row = (name: string, { p50, p99, n }: Latency): string[] => [name, millis(p50), millis(p99), String(n)];
    sections.push(
      table([
        ["ms from a revocation's answer", "p50", "p99", "n"],
        row("all: to the first 401", revoked.all.refused),
        row("all: to the cut of a stream", revoked.all.cut),
        row("split: to the first 401", revoked.split.refused),
        row("split: to the cut of a stream", revoked.split.cut),
      ]),
    );
  }
  return sections.join("\n\n");
};

const judge = (ratios: Readonly<Record<string, number>>): readonly string[] =>
  Object.entries(TARGETS).flatMap(([name, { at_least, at_most }]) => {
    const value = ratios[name];
    if (value === undefined) return [];
    const missed = (at_least !== undefined && value < at_least) || (at_most !== undefined && value > at_most);
    return missed ? [`${name} is ${value.toFixed(2)}; to reach: ${at_least ?? at_most}`] : [];
  });

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
  process.stdout.write(`${reportOf(results)}\n`);
  for (const line of judge(ratios)) process.stdout.write(`\nnot reached: ${line}`);
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
    if (options.profile_dir !== undefined) mkdirSync(options.profile_dir, { recursive: true });

    const redis_pids: Partial<Record<Layout, number>> = {};
    const start = async (layout: Layout): Promise<Instance> => {
      const admin = createPostgres({ url: urlOf("postgres"), name: "bench", max: 1 });
      await admin.sql.unsafe(`create database ${layout}_layout`).finally(() => admin.close());
      const redis = kept(await startRedisServer({ appendonly: true, appendfsync: "everysec" }));
      redis_pids[layout] = redis.pid();
      const shared = {
        database_url: urlOf(`${layout}_layout`),
        redis_url: `redis://127.0.0.1:${redis.port}`,
        upstream_url,
      };
      return kept(await startInstance({ layout, shared, profile_dir: options.profile_dir }));
    };
    const instances = { all: await start("all"), split: await start("split") };
    const common = { upstream: upstream.pid };
    const pidsOf = (layout: Layout): Record<string, number> => ({
      ...instances[layout].pids,
      redis: redis_pids[layout] ?? 0,
      postgres: postgres.pid(),
      ...common,
    });
    const pids = { direct: common, proxy: { proxy: proxy.pid, ...common }, all: pidsOf("all"), split: pidsOf("split") };
    await measure({ options, upstream_url, proxy_url: `http://127.0.0.1:${proxy_port}`, pids, instances });
  } finally {
    for (const close of closers.toReversed()) await close().catch((error: unknown) => say(String(error)));
  }
  if (options.profile_dir !== undefined) say(`CPU profiles: ${options.profile_dir}`);
};

const part = process.argv[2]?.match(/^--part=(.*)$/)?.[1];
if (part !== undefined) {
  await (await PARTS[part]?.())?.run();
} else {
  try {
    await run(readOptions(process.argv.slice(2)));
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  }
}
