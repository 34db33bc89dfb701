import { millis, ratio, table, whole } from "./report.ts";
import type { RevocationTimes } from "./revocations.ts";
import type { Layout } from "./instance.ts";
import { type Latency, type Runs, runsOf } from "./stats.ts";

/** What a call's way is called in the tables. `floor`: what no gateway that signs, asks policy and keeps a ledger can leave out. */
export const WAYS = ["direct", "proxy", "floor", "all", "split"] as const;
export type Way = (typeof WAYS)[number];
const WAY_NAMES: Readonly<Record<Way, string>> = {
  direct: "upstream, direct",
  proxy: "bare undici proxy",
  floor: "the same with signature, policy and ledger alone",
  all: "Gateway, full path, all",
  split: "Gateway, full path, split",
};

/** Callers at once: as many as show what a call costs, and so many that whoever works has always something to do. */
export const LOADS = [64, 256] as const;
export type Load = (typeof LOADS)[number];

/** `cpu_us`: processor time that each process spends on one call, in microseconds. */
export type Calls = { readonly per_s: number; readonly cpu_us: Readonly<Record<string, number>> };

/** One way under one load. `of_proxy`: of the bare proxy's figure in the same round. */
type Throughput = {
  readonly calls: Runs;
  readonly of_proxy: Runs;
  readonly cpu_us: Readonly<Record<string, number>>;
};

/** Figures of one round against those of the same round: what else the machine did then has met both. */
const ratiosOfRounds = (values: readonly number[], bases: readonly number[]): Runs =>
  runsOf(values.map((value, round) => value / (bases[round] ?? Number.NaN)));

export const throughputOf = (runs: readonly Calls[], proxy: readonly Calls[]): Throughput => {
  const per_s = runs.map((one) => one.per_s);
  return {
    calls: runsOf(per_s),
    of_proxy: ratiosOfRounds(
      per_s,
      proxy.map((one) => one.per_s),
    ),
    cpu_us: Object.fromEntries(
      Object.keys(runs[0]?.cpu_us ?? {}).map((name) => [name, runsOf(runs.map((one) => one.cpu_us[name] ?? 0)).median]),
    ),
  };
};

/** Exchanges per second, and of the signatures of the same round. */
export type Exchanges = {
  readonly signing: Runs;
  readonly in_process: Runs;
  readonly over_http: Runs;
  readonly in_process_of_signing: Runs;
  readonly over_http_of_signing: Runs;
};

export const exchangesOf = (
  rounds: readonly { readonly signing: number; readonly in_process: number; readonly over_http: number }[],
): Exchanges => {
  const signing = rounds.map((one) => one.signing);
  const in_process = rounds.map((one) => one.in_process);
  const over_http = rounds.map((one) => one.over_http);
  return {
    signing: runsOf(signing),
    in_process: runsOf(in_process),
    over_http: runsOf(over_http),
    in_process_of_signing: ratiosOfRounds(in_process, signing),
    over_http_of_signing: ratiosOfRounds(over_http, signing),
  };
};

export type FixedRate = { readonly p50: Runs; readonly p99: Runs };

/** What was measured; undefined: left out. */
export type Results = {
  readonly throughput: Readonly<Record<Load, Readonly<Record<Way, Throughput>>>> | undefined;
  readonly exchange: Exchanges | undefined;
  readonly latency: Readonly<Record<Way, FixedRate>> | undefined;
  readonly revocation: Readonly<Record<Layout, RevocationTimes>> | undefined;
};

/** What the figures are to reach, by the name of the ratio; those of calls under each load. */
const TARGETS: readonly { readonly name: RegExp; readonly at_least?: number; readonly at_most?: number }[] = [
  { name: /^all_to_proxy_/, at_least: 0.4 },
  { name: /^split_to_proxy_/, at_least: 0.25 },
  { name: /^exchange_.*_to_signing$/, at_least: 0.25 },
  { name: /^revocation_.*_p99_ms$/, at_most: 250 },
];

/** The ratios that a later change is judged by. */
export const ratiosOf = (results: Results): Record<string, number> => {
  const { throughput, exchange, latency, revocation } = results;
  const ratios: Record<string, number> = {};
  for (const load of LOADS) {
    const ways = throughput?.[load];
    if (ways === undefined) continue;
    for (const way of ["floor", "all", "split"] as const) ratios[`${way}_to_proxy_${load}`] = ways[way].of_proxy.median;
    ratios[`all_to_floor_${load}`] = ratiosOfRounds(ways.all.calls.runs, ways.floor.calls.runs).median;
  }
  if (exchange !== undefined) {
    ratios["exchange_in_process_to_signing"] = exchange.in_process_of_signing.median;
    ratios["exchange_http_to_signing"] = exchange.over_http_of_signing.median;
  }
  if (latency !== undefined) {
    for (const way of ["all", "split"] as const) {
      for (const part of ["p50", "p99"] as const)
        ratios[`${way}_${part}_over_direct_ms`] = latency[way][part].median - latency.direct[part].median;
    }
  }
  if (revocation !== undefined) {
    for (const layout of ["all", "split"] as const) {
      const { refused, cut } = revocation[layout];
      ratios[`revocation_${layout}_p99_ms`] = Math.max(refused.p99, cut.p99);
    }
  }
  return ratios;
};

const spread = ({ min, max }: Runs, show: (value: number) => string): string => `${show(min)}–${show(max)}`;

const throughputTables = (throughput: NonNullable<Results["throughput"]>): readonly string[] =>
  LOADS.flatMap((load) => {
    const ways = throughput[load];
    const row = (way: Way): string[] => {
      const { calls, of_proxy } = ways[way];
      return [
        WAY_NAMES[way],
        whole(calls.median),
        spread(calls, whole),
        ratio(of_proxy.median),
        spread(of_proxy, ratio),
      ];
    };
    const spent = (way: Way): string[] => {
      const parts = Object.entries(ways[way].cpu_us);
      const sum = parts.reduce((total, [, us]) => total + us, 0);
      return [WAY_NAMES[way], `${parts.map(([name, us]) => `${name} ${whole(us)}`).join(", ")}: ${whole(sum)}`];
    };
    return [
      table([[`calls per second, ${load} callers`, "median", "spread", "of the proxy", "spread"], ...WAYS.map(row)]),
      table([[`processor time per call, µs, ${load} callers`, ""], ...WAYS.map(spent)]),
    ];
  });

const exchangeTable = (exchange: Exchanges): string => {
  const row = (name: string, runs: Runs, of_signing?: Runs): string[] => [
    name,
    whole(runs.median),
    spread(runs, whole),
    ratio(of_signing?.median),
    of_signing === undefined ? "" : spread(of_signing, ratio),
  ];
  return table([
    ["exchanges per second", "median", "spread", "of signing", "spread"],
    row("ES256 by node:crypto, alone", exchange.signing),
    row("STS, in process", exchange.in_process, exchange.in_process_of_signing),
    row("STS, over HTTP", exchange.over_http, exchange.over_http_of_signing),
  ]);
};

const latencyTable = (latency: NonNullable<Results["latency"]>, per_s: number): string => {
  const row = (way: Way): string[] => {
    const { p50, p99 } = latency[way];
    const over = (own: Runs, direct: Runs): string => (way === "direct" ? "" : millis(own.median - direct.median));
    return [
      WAY_NAMES[way],
      millis(p50.median),
      millis(p99.median),
      over(p50, latency.direct.p50),
      over(p99, latency.direct.p99),
      spread(p99, millis),
    ];
  };
  return table([
    [`ms at ${per_s}/s`, "p50", "p99", "p50 over direct", "p99 over direct", "p99 spread"],
    ...WAYS.map(row),
  ]);
};

const revocationTable = (revocation: NonNullable<Results["revocation"]>): string => {
  const row = (name: string, { p50, p99, n }: Latency): string[] => [name, millis(p50), millis(p99), String(n)];
  return table([
    ["ms from a revocation's answer", "p50", "p99", "n"],
    row("all: to the first 401", revocation.all.refused),
    row("all: to the cut of a stream", revocation.all.cut),
    row("split: to the first 401", revocation.split.refused),
    row("split: to the cut of a stream", revocation.split.cut),
  ]);
};

/** The tables, for a person. `per_s`: the fixed rate at which latency was measured. */
export const reportOf = ({ throughput, exchange, latency, revocation }: Results, per_s: number): string =>
  [
    ...(throughput === undefined ? [] : throughputTables(throughput)),
    ...(exchange === undefined ? [] : [exchangeTable(exchange)]),
    ...(latency === undefined ? [] : [latencyTable(latency, per_s)]),
    ...(revocation === undefined ? [] : [revocationTable(revocation)]),
  ].join("\n\n");

/** A line for each figure that is not what it is to be. */
export const missedBy = (ratios: Readonly<Record<string, number>>): readonly string[] =>
  Object.entries(ratios).flatMap(([name, value]) => {
    const target = TARGETS.find((one) => one.name.test(name));
    const missed =
      (target?.at_least !== undefined && value < target.at_least) ||
      (target?.at_most !== undefined && value > target.at_most);
    return missed ? [`${name} is ${value.toFixed(2)}; to reach: ${target?.at_least ?? target?.at_most}`] : [];
  });
