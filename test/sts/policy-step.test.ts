import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createPolicyAccounts } from "../../src/domain/policy-account.ts";
import type { Evaluation } from "../../src/domain/policy-module.ts";
import { Denial } from "../../src/kernel/pipeline.ts";
import { createLog } from "../../src/kernel/log.ts";
import type { Facts } from "../../src/sts/facts.ts";
import { exchangePolicy, issuePolicy, type PolicyPorts } from "../../src/sts/steps/policy.ts";

const clock = { now_ms: () => 0, monotonic_ms: () => 0 };

const portsWith = (units_per_s: number): PolicyPorts => ({
  accounts: createPolicyAccounts({ clock, units_per_s }),
  budget_units: 50_000,
  log: createLog({ level: "silent" }),
  onEvaluation: () => {},
});

/** The facts of a request of a zone whose policy has so many members, each of which comes to `evaluation`. */
const asking = (evaluation: Evaluation, members: number, resources: number, onEvaluate = () => {}) => {
  const evaluator = { evaluate: () => (onEvaluate(), evaluation) };
  const some = Array.from({ length: resources }, (_, i) => ({
    id: `r${i}`,
    identifier: `resource://${i}`,
    scopes: [],
  }));
  const facts = (zone_id: string) => ({
    request: { zone_id, method: undefined, path: undefined },
    zone: {
      zone_id,
      policy: {
        state: "active",
        members: Array.from({ length: members }, (_, i) => ({ version_id: `${i}`, evaluator })),
      },
    },
    application: { id: "app", scopes: [], traits: [] },
    credential_type: "client_secret",
    now_ms: 0,
    scopes: [],
    resource: some[0],
    resources: some,
    subject: {},
    session: { id: "s" },
  });
  return (zone_id: string) => facts(zone_id) as never;
};

const allowing = (units: number): Evaluation => ({
  status: "result",
  result: { decision: "allow", evaluation_status: "complete", determining_policies: [], diagnostics: [] },
  units,
});

describe("the policy step", () => {
  it("spends one budget on all members and resources of a request, then refuses it whole", async () => {
    let calls = 0;
    const facts = asking(allowing(1_000), 100, 16, () => (calls += 1));
    const step = issuePolicy(portsWith(50_000_000));
    const result = (await step.run(facts("z"))) as Denial | Pick<Facts, "judged" | "set_refusal">;
    assert.ok(!(result instanceof Denial));
    assert.deepEqual([calls, result.judged.length], [501, 6]);
    assert.equal(result.set_refusal?.evaluation_status, "policy_budget_exceeded");
  });

  it("takes no more of a request whose members all fail", async () => {
    let calls = 0;
    const failing: Evaluation = { status: "failed", error: "unreachable", units: 25_000 };
    await issuePolicy(portsWith(50_000_000)).run(asking(failing, 256, 16, () => (calls += 1))("z"));
    assert.equal(calls, 21);
  });

  it("gives way to others between two resources", async () => {
    const done: string[] = [];
    const facts = asking(allowing(1), 1, 3, () => done.push("evaluated"));
    setImmediate(() => done.push("other work"));
    await issuePolicy(portsWith(50_000_000)).run(facts("z"));
    assert.equal(done.indexOf("other work"), 1);
    assert.equal(done.length, 4);
  });

  it("refuses a zone that has spent its units of the second, between resources too, and no other zone", async () => {
    const ports = portsWith(100_000);
    const facts = asking(allowing(40_000), 1, 16);
    const refused = await issuePolicy(ports).run(facts("mine"));
    assert.ok(refused instanceof Denial);
    assert.deepEqual([refused.reason, refused.extra?.retry_after_s], ["policy_units_exhausted", 1]);
    const exchange = exchangePolicy(ports);
    assert.ok((await exchange.run(facts("mine"))) instanceof Denial);
    assert.ok(!((await exchange.run(facts("other"))) instanceof Denial));
  });
});
