import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { createPolicyActivations } from "../../src/sts/workers/policy-activations.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { createLog } from "../../src/kernel/log.ts";
import { eventually } from "../support/eventually.ts";
import { type Fixture, startFixture } from "./fixture.ts";

const ALLOW = `package caracal.authz
result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["a"], "diagnostics": []}
`;

type Row = { readonly replica: string; readonly policy_set_version_id: string; readonly since_ms: number };

describe("which policy an STS runs", () => {
  let f: Fixture;
  before(async () => {
    f = await startFixture({ activations: true });
  });
  after(() => f.close());

  const rowsOf = (zone_id: string): Promise<Row[]> => f.db.sql<Row[]>`
    select replica, policy_set_version_id, extract(epoch from since)::float8 * 1000 as since_ms
    from policy_activations where zone_id = ${zone_id} order by replica`;

  it("is told by itself once it was loaded, and again with the next version", async () => {
    const zone_id = await f.newZone();
    const began_ms = Date.now();
    const first = await f.activate(zone_id, ALLOW);
    const told = await eventually(async () => {
      const [row] = await rowsOf(zone_id);
      return row?.policy_set_version_id === first ? row : null;
    });
    assert.ok(told.since_ms >= began_ms - 1_000);
    const second = await f.activate(zone_id, `${ALLOW}\n# again\n`);
    const again = await eventually(async () => {
      const rows = await rowsOf(zone_id);
      return rows.length === 1 && rows[0]?.policy_set_version_id === second ? rows[0] : null;
    });
    assert.equal(again.replica, told.replica);
    assert.ok(again.since_ms >= told.since_ms);
  });

  it("is forgotten with an STS that is dead, and said again by one that was only taken for dead", async () => {
    const zone_id = await f.newZone();
    const log = createLog({ level: "silent" });
    const make = (replica: string) => createPolicyActivations({ db: f.db, replica, clock: systemClock, log });
    const [dead, slow] = [make("dead"), make("slow")];
    for (const one of [dead, slow]) {
      one.loaded({ zone_id, policy_set_id: "set", policy_set_version_id: "version" });
      await one.tick();
    }
    assert.deepEqual(
      (await rowsOf(zone_id)).map((row) => row.replica),
      ["dead", "slow"],
    );
    await f.db.sql`update sts_replicas set seen_at = now() - interval '2 minutes' where replica in ('dead', 'slow')`;
    await slow.tick();
    assert.deepEqual(
      (await rowsOf(zone_id)).map((row) => row.replica),
      ["slow"],
    );
    await slow.stop(1_000);
    assert.equal((await rowsOf(zone_id)).length, 0, "who stops says so");
  });
});
