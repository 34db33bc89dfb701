import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { type ControlPlane, systemCaller } from "../api/index.ts";
import type { DataDir } from "../embedded/data-dir.ts";
import { packageRoot } from "../kernel/package-root.ts";
import { Problem } from "../kernel/problem.ts";

/** What the demo is made of. */
const ZONE = { slug: "demo", name: "Demo" };
const APPLICATION = { name: "demo-agent", traits: ["demo-agent"], scopes: ["tools:call"] };
export const DEMO_RESOURCE = "resource://demo";
export const DENIED_RESOURCE = "resource://denied";
const POLICY_FILE = join(packageRoot, "config", "policies", "demo.rego");
const STATE_FILE = "demo.json";
const PAGE = 200;

/** What the demo's users hold. The secrets are in the database as hashes only, so they are kept here (0600). */
const StateSchema = v.object({
  zone_id: v.string(),
  application_id: v.string(),
  client_secret: v.string(),
  admin_token: v.string(),
});
export type DemoState = v.InferOutput<typeof StateSchema>;

const caller = systemCaller("demo");

const readState = (data_dir: DataDir): DemoState | undefined => {
  const text = data_dir.read(STATE_FILE);
  if (text === undefined) return undefined;
  try {
    const parsed = v.safeParse(StateSchema, JSON.parse(text));
    return parsed.success ? parsed.output : undefined;
  } catch {
    return undefined; // damaged: new secrets are made
  }
};

const unlessMissing = async <T>(asked: Promise<T>): Promise<T | undefined> =>
  asked.catch((error: unknown) => {
    if (error instanceof Problem && error.status === 404) return undefined;
    throw error;
  });

const page = { limit: PAGE } as const;

const ensureZone = async (plane: ControlPlane): Promise<string> => {
  const { items } = await plane.listZones({ params: {}, query: page, body: undefined, caller });
  const found = items.find((zone) => zone.slug === ZONE.slug);
  return (found ?? (await plane.createZone({ params: {}, query: {}, body: ZONE, caller }))).id;
};

const ensureApplication = async (
  plane: ControlPlane,
  zone_id: string,
  kept: DemoState | undefined,
): Promise<Pick<DemoState, "application_id" | "client_secret">> => {
  if (kept?.zone_id === zone_id) {
    const params = { zone_id, id: kept.application_id };
    const found = await unlessMissing(plane.getApplication({ params, query: {}, body: undefined, caller }));
    if (found !== undefined) return kept;
  }
  const body = { ...APPLICATION, kind: "confidential", rate_limit_per_minute: null } as const;
  const made = await plane.createApplication({ params: { zone_id }, query: {}, body, caller });
  if (made.client_secret === undefined) throw new Error("a confidential application was made without a secret");
  return { application_id: made.id, client_secret: made.client_secret };
};

const PLAIN_RESOURCE = {
  scopes: ["tools:call"],
  application_id: null,
  provider_id: null,
  cost_units: 0,
  identity_header: false,
  cookies: false,
};

const ensureResources = async (plane: ControlPlane, zone_id: string, upstream_url: string): Promise<void> => {
  const { items } = await plane.listResources({ params: { zone_id }, query: page, body: undefined, caller });
  for (const [identifier, name] of [
    [DEMO_RESOURCE, "Demo MCP server"],
    [DENIED_RESOURCE, "Denied by policy"],
  ] as const) {
    const found = items.find((one) => one.identifier === identifier);
    if (found === undefined) {
      const body = { ...PLAIN_RESOURCE, identifier, name, upstream_url };
      await plane.createResource({ params: { zone_id }, query: {}, body, caller });
    } else if (found.upstream_url !== upstream_url) {
      await plane.updateResource({ params: { zone_id, id: found.id }, query: {}, body: { upstream_url }, caller });
    }
  }
};

/** The active set is the operator's once there is one: a policy that was changed by hand is not put back. */
const ensurePolicy = async (plane: ControlPlane, zone_id: string): Promise<void> => {
  const params = { zone_id };
  const named = { name: "demo" };
  const sets = await plane.listPolicySets({ params, query: page, body: undefined, caller });
  for (const set of sets.items) {
    const { active } = await plane.getActivation({
      params: { zone_id, id: set.id },
      query: {},
      body: undefined,
      caller,
    });
    if (active !== null) return;
  }
  const policies = await plane.listPolicies({ params, query: page, body: undefined, caller });
  const policy =
    policies.items.find((one) => one.name === named.name) ??
    (await plane.createPolicy({ params, query: {}, body: named, caller }));
  const source = readFileSync(POLICY_FILE, "utf8");
  const version = await plane.createPolicyVersion({
    params: { zone_id, id: policy.id },
    query: {},
    body: { source },
    caller,
  });
  const set =
    sets.items.find((one) => one.name === named.name) ??
    (await plane.createPolicySet({ params, query: {}, body: named, caller }));
  const entries = [{ policy_version_id: version.id }];
  const set_version = await plane.createPolicySetVersion({
    params: { zone_id, id: set.id },
    query: {},
    body: { entries },
    caller,
  });
  await plane.activatePolicySet({
    params: { zone_id, id: set.id },
    query: {},
    body: { version_id: set_version.id },
    caller,
  });
};

const ensureAdminToken = async (plane: ControlPlane, zone_id: string, kept: DemoState | undefined): Promise<string> => {
  if (kept?.zone_id === zone_id) return kept.admin_token;
  const body = { label: "demo", zone_id, access: "full" } as const;
  const made = await plane.createAdminToken({ params: {}, query: {}, body, caller });
  if (made.token === undefined) throw new Error("an admin token was made but not shown");
  return made.token;
};

/** The zone of the demo, made where it is not there yet. */
export const seedZone = (plane: ControlPlane): Promise<string> => ensureZone(plane);

/**
 * Brings the demo's zone to what the demo needs. Each step looks before it makes, so a start that was killed in the
 * middle is completed by the next. Crash state: an application that was made before its secret was kept; the next start makes
 * another.
 */
export const seedDemo = async (
  plane: ControlPlane,
  data_dir: DataDir,
  zone_id: string,
  upstream_url: string,
): Promise<DemoState> => {
  const kept = readState(data_dir);
  const { application_id, client_secret } = await ensureApplication(plane, zone_id, kept);
  await ensureResources(plane, zone_id, upstream_url);
  await ensurePolicy(plane, zone_id);
  const admin_token = await ensureAdminToken(plane, zone_id, kept);
  const state = { zone_id, application_id, client_secret, admin_token };
  data_dir.write(STATE_FILE, `${JSON.stringify(state, null, 2)}\n`);
  return state;
};
