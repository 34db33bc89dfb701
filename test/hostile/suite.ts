import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { Attack } from "./attack.ts";
import { type Rig, type RigOptions, startRig } from "./rig.ts";

/** The contract's bound: no call of an innocent zone is later than this, whatever another does. */
const LATEST_MS = 2_000;
/** Enough for everything that the program (and the database in it) holds by design, and far below what an unbounded queue reaches in seconds. */
const MOST_MIB = { servers: 1_024, embedded: 1_536 };
/** At 50 calls a second for the length of an attack; less, and the observer did not observe. */
const FEWEST = 50;

/** Each attack of the table, while the innocent zone works. */
export const describeAttacks = (title: string, options: RigOptions, attacks: readonly Attack[]): void => {
  describe(title, { timeout: 25 * 60_000 }, () => {
    let rig: Rig;
    before(async () => {
      rig = await startRig(options);
    });
    after(() => rig?.close());

    for (const attack of attacks) {
      it(`an innocent zone is served while there are ${attack.name}`, { timeout: 150_000 }, async (t) => {
        const why = rig.impossible(attack);
        if (why !== undefined) return t.skip(why);
        const { observed, lives, peak_mib, got, unmet } = await rig.suffer(attack);
        const latest = Math.round(Math.max(0, ...observed.times_ms));
        const said = `${observed.times_ms.length} requests, latest ${latest} ms, peak ${Math.round(peak_mib)} MiB; attacker: ${JSON.stringify(got)}`;
        t.diagnostic(said);
        assert.ok(lives, "the process has ended");
        assert.deepEqual(observed.faults.slice(0, 5), [], `${observed.faults.length} not answered properly; ${said}`);
        assert.ok(latest <= LATEST_MS, said);
        assert.ok(peak_mib <= MOST_MIB[options.storage], said);
        if (unmet !== undefined) throw unmet;
        assert.ok(observed.times_ms.length >= FEWEST, said);
      });
    }
  });
};
