import { Counter, Gauge, Histogram, Registry } from "prom-client";

/** A role's own metrics, under exactly the names that it gives them. */
export type Metrics = {
  counter(name: string, help: string): { inc(by?: number): void };
  counterBy<const L extends string>(name: string, help: string, label: L): { inc(value: string, by?: number): void };
  gauge(name: string, help: string, read?: () => number): { set(value: number): void };
  gaugeBy<const L extends string>(name: string, help: string, label: L): { set(value: string, to: number): void };
  /** Seconds, by step or outcome. */
  histogram(name: string, help: string, buckets: readonly number[]): { observe(value: number): void };
  /** Prometheus text of these metrics and of every one that was included. */
  text(): Promise<string>;
  readonly registry: Registry;
};

const positive = (by: number): number => {
  if (!(by >= 0)) throw new RangeError(`a counter does not count by ${by}`);
  return by;
};

/**
 * Counters are added up here, and handed to prom-client when somebody reads them. It hashes labels at each count, and a call
 * counts several times. `include`: metrics of the whole process, such as round trips and statements, shown on
 * every role's page.
 */
export const createMetrics = (...include: readonly Metrics[]): Metrics => {
  const registry = new Registry();
  const all = [registry, ...include.map((other) => other.registry)];
  const registers = [registry];
  return {
    registry,
    counter(name, help) {
      let counted = 0;
      const counter = new Counter({
        name,
        help,
        registers,
        collect() {
          counter.inc(counted);
          counted = 0;
        },
      });
      return {
        inc(by = 1) {
          counted += positive(by);
        },
      };
    },
    counterBy(name, help, label) {
      const counted = new Map<string, number>();
      const counter = new Counter({
        name,
        help,
        labelNames: [label],
        registers,
        collect() {
          for (const [value, by] of counted) counter.labels(value).inc(by);
          counted.clear();
        },
      });
      return { inc: (value, by = 1) => void counted.set(value, (counted.get(value) ?? 0) + positive(by)) };
    },
    gauge: (name, help, read) =>
      new Gauge({
        name,
        help,
        registers,
        ...(read === undefined
          ? {}
          : {
              collect() {
                this.set(read());
              },
            }),
      }),
    gaugeBy: (name, help, label) => {
      const gauge = new Gauge({ name, help, labelNames: [label], registers });
      return { set: (value, to) => gauge.labels(value).set(to) };
    },
    histogram: (name, help, buckets) => new Histogram({ name, help, buckets: [...buckets], registers }),
    text: async () => (await Promise.all(all.map((one) => one.metrics()))).join(""),
  };
};
