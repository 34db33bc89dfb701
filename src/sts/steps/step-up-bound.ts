import { createHash } from "node:crypto";
import { lengthPrefixed } from "../../kernel/canonical.ts";
import { check, deny } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";
import type { BoundCall } from "../store/challenges.ts";

/** The facts that make a call the one that it is. */
export type Call = Pick<
  Facts,
  "request" | "application" | "subject" | "session" | "actor" | "agent_session" | "delegation" | "resource" | "scopes"
> & { readonly zone: ZoneSnapshot };

/** What an approval is for. Whatever else may limit a mandate has to become a member: what is not here is not approved. */
export const boundOf = (f: Call): BoundCall => ({
  application_id: f.application.id,
  subject: f.subject.sub,
  session_id: f.session.id,
  resource_id: f.resource.id,
  scopes: f.scopes.toSorted(), // they are a set: in another order they are the same call
  method: f.request.method ?? null,
  path: f.request.path ?? null,
  actor: f.actor?.sub ?? null,
  agent_session_id: f.agent_session?.id ?? null,
  delegation_edge_id: f.delegation?.last.id ?? null,
  policy_set_version_id: f.zone.policy.state === "active" ? f.zone.policy.policy_set_version_id : "",
});

/** Hex, over every member by its name, each with its length. */
export const boundSha256 = (zone_id: string, bound: BoundCall): string => {
  const members = Object.entries(bound).flatMap(([name, value]) => [
    name,
    typeof value === "object" && value !== null ? JSON.stringify(value) : value,
  ]);
  return createHash("sha256")
    .update(lengthPrefixed(["step-up", zone_id, ...members]))
    .digest("hex");
};

/** An approval is for one call. The one who holds it may not spend it on another that nobody was shown. */
export const stepUpBound = check("step_up_bound", (f: Call & Pick<Facts, "approval">) =>
  f.approval === undefined || f.approval.bound_sha256 === boundSha256(f.zone.zone_id, boundOf(f))
    ? undefined
    : deny("challenge_for_another_call", f.approval.id),
);
