import type { ControlPlane } from "../api/index.ts";
import { issuerOf } from "../domain/token.ts";
import type { RoleName } from "../domain/role-name.ts";
import type { DataDir } from "../embedded/data-dir.ts";
import { type Service, within } from "../kernel/service.ts";
import { bannerOf } from "./banner.ts";
import { DEMO_RESOURCE, DENIED_RESOURCE, seedDemo, seedZone } from "./seed.ts";
import { QUICKSTART_FILE, type Quickstart } from "./quickstart.ts";
import { startDemoUpstream } from "./upstream.ts";

export type DemoOptions = {
  readonly control_plane: ControlPlane;
  readonly data_dir: DataDir;
  readonly issuer_url: string;
  readonly address: (role: RoleName) => string;
  /** Resolves to what is not ready yet, in words; none: all is. */
  readonly faults: () => Promise<readonly string[]>;
  readonly out: (line: string) => void;
};

const READY_WITHIN_MS = 30_000;
const READY_POLL_MS = 25;

const untilReady = async (faults: DemoOptions["faults"]): Promise<void> => {
  const until_ms = performance.now() + READY_WITHIN_MS;
  for (;;) {
    const found = await faults();
    if (found.length === 0) return;
    if (performance.now() > until_ms) throw new Error(`the program did not become ready: ${found.join("; ")}`);
    await new Promise((resolve) => setTimeout(resolve, READY_POLL_MS));
  }
};

/** Seeds the demo, starts its upstream, waits until all is ready, and tells a person and a program how to use it. */
export const startDemo = async (options: DemoOptions): Promise<Service> => {
  const { control_plane, data_dir, address } = options;
  const zone_id = await seedZone(control_plane);
  const upstream = await startDemoUpstream({
    jwks_url: `${address("sts")}/.well-known/jwks.json?zone_id=${zone_id}`,
    issuer: issuerOf(options.issuer_url, zone_id),
    audiences: [DEMO_RESOURCE, DENIED_RESOURCE],
    port: 0,
  });
  const service: Service = {
    name: "demo",
    start: async () => {},
    stop: async (deadline_ms) => {
      data_dir.remove(QUICKSTART_FILE);
      await within(deadline_ms, upstream.close());
    },
  };
  try {
    const state = await seedDemo(control_plane, data_dir, zone_id, upstream.url);
    await untilReady(options.faults);
    const quickstart: Quickstart = {
      gateway_url: address("gateway"),
      sts_url: address("sts"),
      api_url: address("api"),
      coordinator_url: address("coordinator"),
      audit_url: address("audit"),
      zone_id,
      application_id: state.application_id,
      client_secret: state.client_secret,
      resource: DEMO_RESOURCE,
      denied_resource: DENIED_RESOURCE,
      upstream_url: upstream.url,
      admin_token: state.admin_token,
    };
    data_dir.write(QUICKSTART_FILE, `${JSON.stringify(quickstart, null, 2)}\n`);
    options.out(bannerOf(quickstart, data_dir.path, performance.now()));
    return service;
  } catch (error) {
    await upstream.close();
    throw error;
  }
};
