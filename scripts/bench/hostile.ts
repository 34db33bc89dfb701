import { AGENT_ATTACKS } from "../../test/hostile/agent.ts";
import type { Attack } from "../../test/hostile/attack.ts";
import { startRig } from "../../test/hostile/rig.ts";
import { UPSTREAM_ATTACKS } from "../../test/hostile/upstream.ts";
import { ZONE_ADMIN_ATTACKS } from "../../test/hostile/zone-admin.ts";
import { createTemplate, SERVER_VARIABLE, TEMPLATE_VARIABLE } from "../../test/support/postgres.ts";
import { millis, ratio, table, whole } from "./report.ts";
import { type Latency, latencyOf } from "./stats.ts";

/** What one attack does to an innocent zone: its requests' times just before it, and during it. */
export type Harm = {
  readonly attack: string;
  readonly before: Latency;
  readonly during: Latency;
  /** The innocent's requests without a proper answer. */
  readonly failed: number;
  readonly peak_mib: number;
};

const PEACE_MS = 5_000;
const ATTACKS: readonly Attack[] = [...ZONE_ADMIN_ATTACKS, ...AGENT_ATTACKS, ...UPSTREAM_ATTACKS];

/** Every attack of the tests, one after the other, on one program. `postgres_url`: a server on which databases may be made. */
export const measureHarm = async (postgres_url: string, say: (line: string) => void): Promise<readonly Harm[]> => {
  process.env[SERVER_VARIABLE] = postgres_url;
  process.env[TEMPLATE_VARIABLE] = await createTemplate(postgres_url);
  const rig = await startRig({ storage: "servers" });
  try {
    const harms: Harm[] = [];
    for (const attack of ATTACKS) {
      if (rig.impossible(attack) !== undefined) continue;
      const before = latencyOf((await rig.inPeace(PEACE_MS)).times_ms);
      try {
        const { observed, peak_mib } = await rig.suffer(attack);
        const during = latencyOf(observed.times_ms);
        harms.push({ attack: attack.name, before, during, failed: observed.faults.length, peak_mib });
        say(`  ${attack.name}: ${JSON.stringify(harms.at(-1))}`);
      } catch (error) {
        say(`  ${attack.name}: could not be made: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    return harms;
  } finally {
    await rig.close();
  }
};

/** The harms as a table: milliseconds before and during, and how many times longer. */
export const harmReport = (harms: readonly Harm[]): string =>
  table([
    ["attack", "p50 before", "p50 during", "ratio", "p99 before", "p99 during", "ratio", "failed", "MiB"],
    ...harms.map(({ attack, before, during, failed, peak_mib }) => [
      attack,
      millis(before.p50),
      millis(during.p50),
      ratio(during.p50 / before.p50),
      millis(before.p99),
      millis(during.p99),
      ratio(during.p99 / before.p99),
      whole(failed),
      whole(peak_mib),
    ]),
  ]);
