import type { policyEndpoints } from "../contracts/api-policies.ts";
import { Problem } from "../kernel/problem.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { activeSetWith } from "./store/policies.ts";
import { findActivation } from "./store/policy-sets.ts";
import { thingVerbs } from "./things.ts";

type Named = Extract<keyof typeof policyEndpoints, `${string}Polic${"y" | "ies"}` | `${string}PolicySet${"" | "s"}`>;
type NamedOperation = Exclude<Named, "activatePolicySet" | "simulatePolicySet" | "testPolicy">;

/** Policies and policy sets as names that hold versions. What decides is not archived: nobody would see it any more. */
export const namedVerbs = (parts: Parts): Pick<ControlPlane, NamedOperation> => {
  const policies = thingVerbs(parts, "policy", {
    checkArchive: async (tx, { zone_id, id }) => {
      const set = await activeSetWith(tx, zone_id, id);
      if (set === undefined) return;
      throw new Problem(
        409,
        "policy_is_active",
        "The zone's active policy set has this policy as a member; activate a set without it first.",
        { diagnostics: [{ kind: "policy_set", id: set, field: "entries" }] },
      );
    },
  });
  const sets = thingVerbs(parts, "policy_set", {
    checkArchive: async (tx, { zone_id, id }) => {
      if ((await findActivation(tx, zone_id))?.policy_set_id !== id) return;
      throw new Problem(
        409,
        "policy_set_is_active",
        "This policy set is the zone's active one; activate another one first.",
        { diagnostics: [{ kind: "zone", id: zone_id, field: "active_policy_set" }] },
      );
    },
  });
  return {
    listPolicies: policies.list,
    createPolicy: policies.create,
    getPolicy: policies.get,
    updatePolicy: policies.update,
    archivePolicy: policies.archive,
    listPolicySets: sets.list,
    createPolicySet: sets.create,
    getPolicySet: sets.get,
    updatePolicySet: sets.update,
    archivePolicySet: sets.archive,
  };
};
