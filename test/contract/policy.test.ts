import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { createPolicyCompiler } from "../../src/adapters/opa/compiler.ts";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";
import type { PolicyFacts } from "../../src/domain/policy-input.ts";
import type { Evaluator } from "../../src/domain/policy-module.ts";
import { evaluateSet, requestBudget } from "../../src/domain/policy-evaluation.ts";
import { createQuarantine } from "../../src/domain/policy-quarantine.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";
import type { PolicyCompiler, PolicyEngine } from "../../src/ports/policy.ts";
import { facts, log } from "../adapters/opa-fixtures.ts";

const BUDGET = 50_000;

/** What every compiler and engine must do together: source → stored bytes → verdict. */
const holdsThePolicyContract = (title: string, compiler: PolicyCompiler, engine: PolicyEngine): void => {
  const load = async (source: string): Promise<Evaluator> => {
    const result = await compiler.compile(source, uuidv7());
    if (!result.ok) throw new Error(JSON.stringify(result.issues));
    // As it comes back from the database: other bytes in memory, the same content.
    return engine.load(Uint8Array.from(result.policy.wasm), facts.zone_id);
  };
  const shipped = async (name: string): Promise<Evaluator> =>
    load(await readFile(join(packageRoot, "config", "policies", `${name}.rego`), "utf8"));

  const judge = async (names: readonly string[], some: Partial<PolicyFacts> = {}) => {
    const members = await Promise.all(
      names.map(async (name) => ({ version_id: name, evaluator: await shipped(name) })),
    );
    const { verdict, units } = evaluateSet(
      members,
      { ...facts, ...some },
      createQuarantine(systemClock),
      requestBudget(BUDGET),
    );
    assert.equal(verdict.evaluation_status, "complete", JSON.stringify(verdict));
    assert.ok(units < (BUDGET / 10) * names.length, `${units} units`);
    return {
      decision: verdict.decision,
      policies: verdict.determining_policies,
      diagnostics: verdict.diagnostics,
    };
  };

  describe(`policies by ${title}`, () => {
    it("demo: allows the demo agent on the demo resource, and tells others why not", async () => {
      assert.deepEqual(await judge(["demo"]), { decision: "allow", policies: ["demo"], diagnostics: [] });
      const denials: readonly (readonly [Partial<PolicyFacts>, readonly string[]])[] = [
        [
          { resource: { ...facts.resource, identifier: "resource://vault" } },
          ["the demo agent may call resource://demo, not resource://vault"],
        ],
        [{ application: { id: "x", traits: ["other"] } }, ["the application lacks the trait demo-agent"]],
        [{ requested_scopes: ["demo.read", "demo.admin"] }, ["demo.admin is not a scope of resource://demo"]],
      ];
      for (const [some, diagnostics] of denials) {
        assert.deepEqual(await judge(["demo"], some), { decision: "deny", policies: ["demo"], diagnostics });
      }
    });

    it("trait-and-scope: adds up what an application's traits give, and no more", async () => {
      const tickets = {
        id: "r",
        identifier: "resource://tickets",
        scopes: ["tickets.read", "tickets.comment", "tickets.close"],
      };
      const ask = (traits: readonly string[], requested_scopes: readonly string[], resource = tickets) =>
        judge(["templates/trait-and-scope"], { application: { id: "x", traits }, resource, requested_scopes });
      assert.equal((await ask(["support-agent"], ["tickets.read", "tickets.comment"])).decision, "allow");
      assert.equal((await ask(["support-agent", "support-lead"], ["tickets.close", "tickets.read"])).decision, "allow");
      assert.deepEqual((await ask(["support-agent"], ["tickets.read", "tickets.close"])).diagnostics, [
        "not granted on resource://tickets: tickets.close",
      ]);
      assert.deepEqual((await ask([], ["tickets.read"])).diagnostics, [
        "no trait of the application gives it anything on this resource",
      ]);
      assert.equal(
        (await ask(["support-agent"], ["tickets.read"], { ...tickets, identifier: "resource://payments" })).decision,
        "deny",
      );
    });

    it("read-only-tools: objects to methods that change something, and allows nothing by itself", async () => {
      const guarded = { application: { id: "x", traits: ["demo-agent", "read-only"] } };
      assert.deepEqual(await judge(["templates/read-only-tools"], { ...guarded, method: "GET" }), {
        decision: "deny",
        policies: [],
        diagnostics: [],
      });
      assert.equal(
        (await judge(["demo", "templates/read-only-tools"], { ...guarded, method: "GET" })).decision,
        "allow",
      );
      assert.equal((await judge(["demo", "templates/read-only-tools"])).decision, "allow");
      assert.deepEqual(await judge(["demo", "templates/read-only-tools"], { ...guarded, method: "DELETE" }), {
        decision: "deny",
        policies: ["read-only-tools"],
        diagnostics: ["a read-only agent may not send DELETE"],
      });
      assert.equal(
        (await judge(["demo", "templates/read-only-tools"], { ...guarded, method: undefined, path: undefined }))
          .decision,
        "deny",
      );
    });

    it("working-hours: is open from Monday 07:00 to Friday 19:00 UTC, night by night", async () => {
      const at = async (day: number, hour: number, minute = 0) =>
        (
          await judge(["demo", "templates/working-hours"], {
            application: { id: "x", traits: ["demo-agent", "office-hours"] },
            now_ms: Date.UTC(2026, 10, day, hour, minute),
          })
        ).decision;
      assert.deepEqual(
        [await at(23, 6, 59), await at(23, 7), await at(27, 18, 59), await at(27, 19)],
        ["deny", "allow", "allow", "deny"],
      );
      assert.deepEqual([await at(28, 12), await at(29, 12)], ["deny", "deny"]);
      assert.equal(
        (await judge(["demo", "templates/working-hours"], { now_ms: Date.UTC(2026, 10, 28, 12) })).decision,
        "allow",
      ); // not guarded
    });

    it("gives bad Rego back as issues, and takes another policy after it", async () => {
      const result = await compiler.compile("package caracal.authz\n\nresult := nonsense\n", facts.zone_id);
      assert.ok(!result.ok && result.issues.every((one) => one.path === "source" && (one.row ?? 0) === 3));
      await shipped("demo");
    });

    it("keeps one caller's long path from stopping an ordinary policy for others", async () => {
      const rule = `package caracal.authz\n\nparts contains p if some p in split(input.action.path, "/")\n
result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": [], "diagnostics": []} if count(parts) > 0\n`;
      const members = [{ version_id: "split", evaluator: await load(rule) }];
      const quarantine = createQuarantine(systemClock);
      const ask = (id: string, path: string): string => {
        const application = { id, traits: [] };
        return evaluateSet(members, { ...facts, application, path }, quarantine, requestBudget(BUDGET)).verdict
          .evaluation_status;
      };
      const hostile = Array.from({ length: 4 }, () => ask("hostile", "/".repeat(4_000)));
      assert.deepEqual(hostile, [...Array.from({ length: 3 }, () => "policy_budget_exceeded"), "policy_quarantined"]);
      assert.deepEqual([ask("hostile", "/a"), ask("innocent", "/a")], ["policy_quarantined", "complete"]);
    });

    it("refuses bytes that are no module of its own", async () => {
      await assert.rejects(engine.load(new Uint8Array(), facts.zone_id));
      await assert.rejects(engine.load(Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]), facts.zone_id));
    });
  });
};

holdsThePolicyContract("OPA and its WASM", createPolicyCompiler({ log }), createPolicyEngine({ budget_units: BUDGET }));
