import { createHash } from "node:crypto";
import type { policyEndpoints } from "../contracts/api-policies.ts";
import { uuidv7 } from "../kernel/ids.ts";
import { Problem, requestAborted } from "../kernel/problem.ts";
import { missing } from "./faults.ts";
import { requireHeldZone } from "./held-zone.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { findPolicyVersion, insertPolicyVersion, listPolicyVersions } from "./store/policies.ts";
import { findThing, lockThing } from "./store/things.ts";

const MAX_ISSUES = 32;

type PolicyOperation = Extract<keyof typeof policyEndpoints, `${string}PolicyVersion${"" | "s"}`>;

export const policyVerbs = ({ db, change, compiler }: Parts): Pick<ControlPlane, PolicyOperation> => ({
  listPolicyVersions: async ({ params: { zone_id, id }, query }) => {
    if ((await findThing(db.sql, "policy", zone_id, id)) === undefined) throw missing("policy");
    return listPolicyVersions(db.sql, zone_id, id, query);
  },

  /**
   * Compiles before the transaction begins: a compiler takes its time, and no lock waits for it. Where the client is gone by
   * then nothing is written: it has nobody who knows of it, and was perhaps sent again.
   */
  createPolicyVersion: async ({ caller, params: { zone_id, id }, body: { source }, signal }) => {
    if ((await findThing(db.sql, "policy", zone_id, id)) === undefined) throw missing("policy");
    const compiled = await compiler.compile(source, zone_id, signal);
    if (!compiled.ok) {
      throw new Problem(422, "invalid_rego", "The source is not a policy that can be used; see issues.", {
        issues: compiled.issues.slice(0, MAX_ISSUES),
      });
    }
    const source_sha256 = createHash("sha256").update(source).digest("hex");
    return change(caller, async (tx) => {
      await requireHeldZone(tx, zone_id);
      if ((await lockThing(tx, "policy", zone_id, id)) === undefined) throw missing("policy");
      const row = { zone_id, id: uuidv7(), policy_id: id, source, source_sha256 };
      const version = await insertPolicyVersion(tx, row, compiled.policy);
      if (signal?.aborted === true) throw requestAborted();
      const detail = { policy_id: id, version: version.version, source_sha256, wasm_sha256: version.wasm_sha256 };
      return { result: version, entry: { action: "policy_version.create", zone_id, object_id: version.id, detail } };
    });
  },

  getPolicyVersion: async ({ params: { zone_id, id, version_id } }) => {
    const version = await findPolicyVersion(db.sql, zone_id, id, version_id);
    if (version === undefined) throw missing("policy version");
    return version;
  },
});
