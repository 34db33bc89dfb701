/** Prometheus text of a role's page → the sum of a metric's samples that have these labels; 0 where there is none yet. */
export const readMetric = (text: string, name: string, labels: Readonly<Record<string, string>> = {}): number => {
  let sum = 0;
  for (const line of text.split("\n")) {
    const [, sample, given = "", value] = /^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (sample !== name) continue;
    if (Object.entries(labels).some(([label, wanted]) => !given.includes(`${label}="${wanted}"`))) continue;
    sum += Number(value);
  }
  return sum;
};

/** A role's page, as it is now. */
export const metricsPage = async (url: string): Promise<string> => {
  const answer = await fetch(`${url}/metrics`, { signal: AbortSignal.timeout(5_000) });
  if (answer.status !== 200) throw new Error(`${url}/metrics answered ${answer.status}`);
  return answer.text();
};

/** One metric of a role, as it is now. */
export const metricAt = async (
  url: string,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): Promise<number> => readMetric(await metricsPage(url), name, labels);
