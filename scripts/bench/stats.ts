/** Several runs of one measurement: the median, and how far they lie apart. */
export type Runs = {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly runs: readonly number[];
};

export const runsOf = (values: readonly number[]): Runs => {
  const sorted = values.toSorted((a, b) => a - b);
  return {
    median: percentile(sorted, 0.5),
    min: sorted[0] ?? Number.NaN,
    max: sorted.at(-1) ?? Number.NaN,
    runs: values,
  };
};

/** The `q`-quantile of ascending values, between neighbours where it falls between; NaN of none. */
export const percentile = (sorted: readonly number[], q: number): number => {
  const at = (sorted.length - 1) * q;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
};

/** In milliseconds. */
export type Latency = { readonly p50: number; readonly p99: number; readonly n: number };

export const latencyOf = (values_ms: readonly number[]): Latency => {
  const sorted = values_ms.toSorted((a, b) => a - b);
  return { p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99), n: sorted.length };
};
