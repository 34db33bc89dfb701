import { createHash } from "node:crypto";
import { type Activation, NO_ACTIVATION, type policyEndpoints } from "../contracts/api-policies.ts";
import { STREAMS } from "../contracts/streams.ts";
import { lengthPrefixed } from "../kernel/canonical.ts";
import { uuidv7 } from "../kernel/ids.ts";
import { type Issue, Problem } from "../kernel/problem.ts";
import { missing, unusable } from "./faults.ts";
import { requireHeldZone } from "./held-zone.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { requireRoom, requireWithin } from "./quotas.ts";
import { activationWarnings } from "./simulations.ts";
import {
  activate,
  archivedMembers,
  findActivation,
  findPolicySetVersion,
  insertPolicySetVersion,
  listReplicas,
  lockActivation,
  listPolicySetVersions,
  usablePolicyVersions,
} from "./store/policy-sets.ts";
import { findThing, lockThing } from "./store/things.ts";
import { requireSeen } from "./things.ts";

type SetOperation = Extract<
  keyof typeof policyEndpoints,
  `${string}PolicySetVersion${"" | "s"}` | "activatePolicySet" | "getActivation"
>;

/** SHA-256 over each member's version id and the hash of its source, in order: what the ledger names a decision's policy by. */
const manifestSha = (members: readonly { readonly id: string; readonly source_sha256: string }[]): string =>
  createHash("sha256")
    .update(lengthPrefixed(members.flatMap((member) => [member.id, member.source_sha256])))
    .digest("hex");

/** What decides in the zone, as whoever activates something else may say that they saw it. */
const revisionOf = (active: Activation | undefined): string => active?.version_id ?? NO_ACTIVATION;

export const policySetVerbs = ({ db, change, rehearsal, log }: Parts): Pick<ControlPlane, SetOperation> => ({
  listPolicySetVersions: async ({ params: { zone_id, id }, query }) => {
    if ((await findThing(db.sql, "policy_set", zone_id, id)) === undefined) throw missing("policy set");
    return listPolicySetVersions(db.sql, zone_id, id, query);
  },

  createPolicySetVersion: ({ caller, params: { zone_id, id }, body: { entries } }) =>
    change(caller, async (tx) => {
      await requireHeldZone(tx, zone_id);
      if ((await lockThing(tx, "policy_set", zone_id, id)) === undefined) throw missing("policy set");
      await requireRoom(tx, zone_id, "policy_set_versions");
      await requireWithin(tx, zone_id, "policy_set_members", entries.length);
      const ids = entries.map((entry) => entry.policy_version_id);
      const usable = await usablePolicyVersions(tx, zone_id, ids);
      const members = ids.map((version_id) => ({
        id: version_id,
        source_sha256: usable.get(version_id)?.source_sha256,
      }));
      const issues = members.flatMap(({ source_sha256 }, i): Issue[] =>
        source_sha256 === undefined
          ? [
              {
                path: `entries.${i}.policy_version_id`,
                message: "names no version of a policy of this zone that is not archived",
              },
            ]
          : [],
      );
      if (issues.length > 0) {
        throw new Problem(400, "invalid_body", "The request's body is not what this operation takes; see issues.", {
          issues,
        });
      }
      const wasm_bytes = [...usable.values()].reduce((sum, member) => sum + member.wasm_bytes, 0);
      await requireWithin(tx, zone_id, "policy_set_wasm_bytes", wasm_bytes);
      const manifest_sha = manifestSha(members as readonly { id: string; source_sha256: string }[]);
      const version = await insertPolicySetVersion(tx, { zone_id, id: uuidv7(), policy_set_id: id, manifest_sha }, ids);
      const detail = { policy_set_id: id, version: version.version, manifest_sha };
      return {
        result: version,
        entry: { action: "policy_set_version.create", zone_id, object_id: version.id, detail },
      };
    }),

  getPolicySetVersion: async ({ params: { zone_id, id, version_id } }) => {
    const version = await findPolicySetVersion(db.sql, zone_id, id, version_id);
    if (version === undefined) throw missing("policy set version");
    return version;
  },

  activatePolicySet: async ({ caller, params: { zone_id, id }, if_match, body: { version_id } }) => {
    const warnings = await activationWarnings({ db, rehearsal }, zone_id, version_id);
    const activated = await change(caller, async (tx) => {
      await requireHeldZone(tx, zone_id);
      await lockActivation(tx, zone_id);
      const before = await findActivation(tx, zone_id);
      requireSeen(if_match, { revision: revisionOf(before) });
      if ((await lockThing(tx, "policy_set", zone_id, id)) === undefined) throw missing("policy set");
      const archived = await archivedMembers(tx, zone_id, id, version_id);
      if (archived === undefined) throw unusable("version_id", "names no version of this policy set");
      if (archived.length > 0) {
        throw new Problem(
          409,
          "policy_archived",
          `A policy of this version is archived (${archived[0]}); make a version without it.`,
        );
      }
      const activation = await activate(tx, zone_id, id, version_id);
      const codes = warnings.map(({ code }) => code);
      const detail = { before: before ?? null, after: activation, warnings: codes };
      return {
        result: activation,
        entry: { action: "policy_set.activate", zone_id, object_id: id, detail },
        announce: [{ stream: STREAMS.policy, zone_id, kind: "activation", id: version_id }],
      };
    });
    for (const { code, message } of warnings) log.warn({ zone_id, policy_set_id: id, version_id, code }, message);
    return { ...activated, revision: revisionOf(activated), warnings };
  },

  getActivation: async ({ params: { zone_id, id } }) => {
    if ((await findThing(db.sql, "policy_set", zone_id, id)) === undefined) throw missing("policy set");
    const [active, replicas] = await Promise.all([findActivation(db.sql, zone_id), listReplicas(db.sql, zone_id)]);
    return { revision: revisionOf(active), active: active?.policy_set_id === id ? active : null, replicas };
  },
});
