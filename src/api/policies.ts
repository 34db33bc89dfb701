import { createHash } from "node:crypto";
import type { policyEndpoints } from "../contracts/api-policies.ts";
import type { Cancellation } from "../kernel/cancel.ts";
import { uuidv7 } from "../kernel/ids.ts";
import { type Issue, Problem, requestAborted } from "../kernel/problem.ts";
import type { CompiledPolicy } from "../ports/policy.ts";
import { missing } from "./faults.ts";
import { requireHeldZone } from "./held-zone.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { boundOf, requireRoom } from "./quotas.ts";
import { findPolicyVersion, insertPolicyVersion, listPolicyVersions } from "./store/policies.ts";
import { findThing, lockThing } from "./store/things.ts";

const MAX_ISSUES = 32;

type PolicyOperation = Extract<
  keyof typeof policyEndpoints,
  `${string}PolicyVersion${"" | "s"}` | "listPolicyTemplates" | "testPolicy"
>;

const invalidRego = (issues: readonly Issue[]): Problem =>
  new Problem(422, "invalid_rego", "The source is not a policy that can be used; see issues.", {
    issues: issues.slice(0, MAX_ISSUES),
  });

const countOf = (tests: readonly { readonly result: string }[], ...results: readonly string[]): number =>
  tests.filter(({ result }) => results.includes(result)).length;

export const policyVerbs = (parts: Parts): Pick<ControlPlane, PolicyOperation> => {
  const { db, change, compiler, rehearsal, templates } = parts;

  /** What the version answers by itself on each input, and what that costs. */
  const evaluationsOf = (zone_id: string, { wasm }: CompiledPolicy, inputs: readonly object[], signal?: Cancellation) =>
    rehearsal.take(zone_id, signal, async (stage) => {
      const members = await stage.load([{ version_id: "fresh", wasm }]);
      const evaluations = [];
      for (const input of inputs) {
        const rehearsed = await stage.evaluate(members, input);
        if (rehearsed === undefined) break;
        const { decision, evaluation_status } = rehearsed.verdict;
        evaluations.push({ evaluation_status, decision, units: rehearsed.units });
      }
      return evaluations;
    });

  /** What a compile may take of the zone's time, as the quota is now. */
  const termsOf = async (zone_id: string, signal: Cancellation | undefined) => ({
    signal,
    seconds_per_minute: await boundOf(db.sql, zone_id, "compile_seconds_per_minute"),
  });

  return {
    listPolicyTemplates: async () => ({ items: [...(await templates())] }),

    testPolicy: async ({ params: { zone_id }, body: { source, tests }, signal }) => {
      const ran = await compiler.test(source, tests, zone_id, await termsOf(zone_id, signal));
      if (!ran.ok) throw invalidRego(ran.issues);
      return {
        passed: countOf(ran.tests, "pass"),
        failed: countOf(ran.tests, "fail", "error"),
        skipped: countOf(ran.tests, "skip"),
        tests: [...ran.tests],
      };
    },

    listPolicyVersions: async ({ params: { zone_id, id }, query }) => {
      if ((await findThing(db.sql, "policy", zone_id, id)) === undefined) throw missing("policy");
      return listPolicyVersions(db.sql, zone_id, id, query);
    },

    /**
     * Compiles and evaluates before the transaction begins: a compiler takes its time, and no lock waits for it. Where the
     * client is gone by then nothing is written: it has nobody who knows of it, and was perhaps sent again.
     */
    createPolicyVersion: async ({ caller, params: { zone_id, id }, body: { source, test_inputs }, signal }) => {
      if ((await findThing(db.sql, "policy", zone_id, id)) === undefined) throw missing("policy");
      const compiled = await compiler.compile(source, zone_id, await termsOf(zone_id, signal));
      if (!compiled.ok) throw invalidRego(compiled.issues);
      const evaluations =
        test_inputs === undefined ? undefined : await evaluationsOf(zone_id, compiled.policy, test_inputs, signal);
      const source_sha256 = createHash("sha256").update(source).digest("hex");
      return change(caller, async (tx) => {
        await requireHeldZone(tx, zone_id);
        if ((await lockThing(tx, "policy", zone_id, id)) === undefined) throw missing("policy");
        await requireRoom(tx, zone_id, "policy_versions");
        const row = { zone_id, id: uuidv7(), policy_id: id, source, source_sha256 };
        const version = await insertPolicyVersion(tx, row, compiled.policy);
        if (signal?.aborted === true) throw requestAborted();
        const detail = { policy_id: id, version: version.version, source_sha256, wasm_sha256: version.wasm_sha256 };
        return {
          result: { ...version, ...(evaluations === undefined ? {} : { evaluations }) },
          entry: { action: "policy_version.create", zone_id, object_id: version.id, detail },
        };
      });
    },

    getPolicyVersion: async ({ params: { zone_id, id, version_id } }) => {
      const version = await findPolicyVersion(db.sql, zone_id, id, version_id);
      if (version === undefined) throw missing("policy version");
      return version;
    },
  };
};
