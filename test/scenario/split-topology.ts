import type { CreatedAdminToken } from "../../src/contracts/api-admin.ts";
import type { Zone } from "../../src/contracts/api-zones.ts";
import { bootstrapZone, callApi, createControlPlane } from "../support/control-plane.ts";
import { startEverything } from "../support/everything.ts";
import { runToEnd } from "../support/program.ts";
import { type Split, startSplit } from "../support/split.ts";
import { activatePolicies, type Topology, type ZoneUnderTest } from "./topology.ts";

/** A topology whose processes can be reached one by one. */
export type SplitTopology = Topology & { readonly split: Split };

const expectStatus = <T>(answer: { readonly status: number; readonly body: unknown }, status: number): T => {
  if (answer.status !== status)
    throw new Error(`${answer.status} instead of ${status}: ${JSON.stringify(answer.body)}`);
  return answer.body as T;
};

/** As an operator does it: a global token from who holds the database, a zone with it, and a token of that zone alone. */
const createZone = async (
  split: Split,
  slug: string,
): Promise<{ readonly zone_id: string; readonly token: string }> => {
  const made = await runToEnd(["admin-token", "create", "--global", "--label", slug], { env: split.owner_env });
  if (made.code !== 0) throw new Error(`caracal admin-token create ended with ${made.code}: ${made.stderr}`);
  const global_token = made.stdout.trim();
  const post = (path: string, body: object) => callApi(split.api.url, global_token, "POST", path, body);
  const zone = expectStatus<Zone>(await post("/v1/zones", { slug, name: slug }), 201);
  const token = expectStatus<CreatedAdminToken>(
    await post("/v1/admin-tokens", { label: "the scenarios'", zone_id: zone.id }),
    201,
  );
  return { zone_id: zone.id, token: token.token ?? "" };
};

/** A process per role, in production, set up over its own doors. */
export const startSplitTopology = async (count: {
  readonly gateways: number;
  readonly stss: number;
}): Promise<SplitTopology> => {
  const split = await startSplit(count);
  const api_url = (): string => split.api.url;
  const zoneOf = (id: string, token: string): ZoneUnderTest => ({
    id,
    issuer: `${split.issuer_url}/zones/${id}`,
    admin_token: token,
    api: createControlPlane(api_url, id, token),
  });
  const hop = await startEverything().catch(async (error: unknown) => {
    await split.close();
    throw error;
  });
  try {
    const bare = await bootstrapZone(api_url(), split.keys.bootstrap_token, {
      slug: "bare",
      name: "A zone without a policy",
    });
    const { zone_id, token } = await createZone(split, "scenarios");
    const zone = zoneOf(zone_id, token);
    await activatePolicies(zone.api);
    return {
      split,
      get gateway_urls() {
        return split.gateways.map((part) => part.url);
      },
      get sts_urls() {
        return split.stss.map((part) => part.url);
      },
      get api_url() {
        return split.api.url;
      },
      get coordinator_url() {
        return split.coordinator.url;
      },
      get audit_url() {
        return split.audit.url;
      },
      get process_urls() {
        return [...split.gateways, ...split.stss].map((part) => part.url);
      },
      zone,
      bare_zone: zoneOf(bare.zone_id, bare.admin_token),
      hop: {
        ...hop,
        mount(mount) {
          const url = new URL(hop.mount(mount));
          url.port = String(split.routeUpstream(Number(url.port)).port);
          return url.href;
        },
      },
      audit_hmac_key: split.keys.audit_hmac_key,
      redis: split.redis,
      kill: () => split.killAll(),
      start: () => split.startAll(),
      log: () => split.parts.map((part) => part.log()).join(""),
      async close() {
        await split.close();
        await hop.close();
      },
    };
  } catch (error) {
    await split.close();
    await hop.close();
    throw error;
  }
};
