import { randomBytes, randomUUID } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { packageRoot } from "../../src/kernel/package-root.ts";
import { bootstrapZone, type ControlPlane, createControlPlane } from "../../test/support/control-plane.ts";
import { eventually } from "../../test/support/eventually.ts";
import { type Part, startPart } from "./parts.ts";

/** Databases and keys that every process of an instance shares. */
export type Shared = { readonly database_url: string; readonly redis_url: string; readonly upstream_url: string };

export type Agent = { readonly token: string; readonly session_id: string };

/** The program as it is measured: its addresses, a zone with an active policy, an application, and a resource. */
export type Instance = {
  readonly gateway_url: string;
  readonly sts_url: string;
  readonly zone_id: string;
  readonly issuer_url: string;
  readonly gateway_key: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly resource: string;
  readonly api: ControlPlane;
  /** Its processes, by their roles. */
  readonly pids: Readonly<Record<string, number>>;
  /** A new ambient token. */
  agent(): Promise<Agent>;
  /** What the Gateway needs to let a call of this agent through. */
  headers(agent: Agent): Record<string, string>;
  stop(): Promise<void>;
};

/** `all`: one process. `split`: each role in its own, over plain HTTP. */
export type Layout = "all" | "split";

export type InstanceOptions = {
  readonly layout: Layout;
  readonly shared: Shared;
  /** Leaves a CPU profile of the Gateway's process (and, apart from it, of the STS's) in this folder. */
  readonly profile_dir?: string | undefined;
};

const MAIN = fileURLToPath(new URL(`../../src/main.js`, import.meta.url));
const POLICY = join(packageRoot, "config", "policies", "demo.rego");
const ISSUER_URL = "http://issuer.localhost";
const RESOURCE = "resource://demo";
/** As the container and `npm start` run the program: see the Dockerfile. */
export const MEMORY_FLAGS = ["--max-semi-space-size=32", "--initial-old-space-size=128"];
const START_MS = 60_000;
const ROLES = ["sts", "api", "coordinator", "audit", "gateway"] as const;
type Role = (typeof ROLES)[number];

type Serving = { readonly message: "serving"; readonly addresses: Readonly<Record<string, string>> };

const isServing = (line: string): boolean => line.includes('"message":"serving"');

const isReady = async (url: string): Promise<boolean> => (await fetch(`${url}/ready`)).status === 200;

/** Starts the program and sets a zone up by its control plane. Rejects with its output where it does not start. */
export const startInstance = async (options: InstanceOptions): Promise<Instance> => {
  const { layout, shared } = options;
  const folder = mkdtempSync(join(tmpdir(), "caracal-bench-"));
  const secret = (): string => randomBytes(32).toString("hex");
  const bootstrap_token = secret();
  const gateway_key = secret();
  const environment = {
    PATH: process.env["PATH"] ?? "",
    CARACAL_ENV: "dev",
    LOG_LEVEL: "info",
    DATABASE_URL: shared.database_url,
    REDIS_URL: shared.redis_url,
    STREAMS_HMAC_KEY: secret(),
    AUDIT_HMAC_KEY: secret(),
    ZONE_KEK: secret(),
    GATEWAY_STS_HMAC_KEY: gateway_key,
    BOOTSTRAP_ADMIN_TOKEN: bootstrap_token,
    ISSUER_URL,
    RATE_LIMIT_PER_MINUTE: "1000000",
    ...Object.fromEntries(ROLES.map((role) => [`${role.toUpperCase()}_PORT`, "0"])),
  };
  const parts: Part[] = [];
  const pids: Record<string, number> = {};
  const stop = async (): Promise<void> => {
    await Promise.all(parts.toReversed().map((part) => part.stop()));
    rmSync(folder, { recursive: true, force: true });
  };

  const launch = async (
    role: Role | "all",
    env: Readonly<Record<string, string>> = {},
  ): Promise<Serving["addresses"]> => {
    const profiled = options.profile_dir !== undefined && (role === "all" || role === "gateway" || role === "sts");
    const flags = profiled
      ? ["--cpu-prof", "--cpu-prof-dir", options.profile_dir ?? "", "--cpu-prof-name", `${layout}-${role}.cpuprofile`]
      : [];
    const part = startPart({
      file: process.execPath,
      args: [...MEMORY_FLAGS, ...flags, MAIN, "serve", `--role=${role}`],
      env: { ...environment, CARACAL_DATA_DIR: join(folder, role), ...env },
      isAnswer: isServing,
    });
    parts.push(part);
    pids[role] = part.pid;
    return (await part.next<Serving>(START_MS)).addresses;
  };

  /** The control plane first: it brings the schema up. */
  const launchAll = async (): Promise<Record<Role, string>> => {
    if (layout === "all") return (await launch("all")) as Record<Role, string>;
    const urls: Record<string, string> = {};
    for (const role of ["api", "sts", "coordinator", "audit"] as const) Object.assign(urls, await launch(role));
    Object.assign(urls, await launch("gateway", { STS_URL: urls["sts"] ?? "", INSECURE_STS: "true" }));
    return urls as Record<Role, string>;
  };

  try {
    const urls = await launchAll();
    for (const role of ROLES) await eventually(() => isReady(urls[role]), { timeout_ms: START_MS });
    const made = await bootstrapZone(urls.api, bootstrap_token, { slug: "bench", name: "Benchmark" });
    const api = createControlPlane(() => urls.api, made.zone_id, made.admin_token);
    const application = await api.createApplication({ name: "agent", scopes: ["tools:call"], traits: ["demo-agent"] });
    await api.createResource({
      identifier: RESOURCE,
      name: "Upstream",
      upstream_url: shared.upstream_url,
      scopes: ["tools:call"],
    });
    await api.activate("Benchmark", [(await api.createPolicy("Demo", readFileSync(POLICY, "utf8"))).id]);

    const agent = async (): Promise<Agent> => {
      const body = new URLSearchParams({
        grant_type: "client_credentials",
        zone_id: made.zone_id,
        client_id: application.id,
        client_secret: application.client_secret ?? "",
      });
      const answer = await fetch(`${urls.sts}/oauth/2/token`, { method: "POST", body });
      const text = await answer.text();
      if (answer.status !== 200) throw new Error(`no ambient token: ${text}`);
      const { access_token, session_id } = JSON.parse(text) as {
        readonly access_token: string;
        readonly session_id: string;
      };
      return { token: access_token, session_id };
    };
    const headers = ({ token }: Agent): Record<string, string> => ({
      authorization: `Bearer ${token}`,
      "x-caracal-resource": RESOURCE,
    });
    const first = await eventually(agent, { timeout_ms: 10_000, every_ms: 250 });
    await eventually(
      async () =>
        (await fetch(`${urls.gateway}/`, { headers: { ...headers(first), "x-request-id": randomUUID() } })).status ===
        200,
      { timeout_ms: 10_000 },
    );
    return {
      gateway_url: urls.gateway,
      sts_url: urls.sts,
      zone_id: made.zone_id,
      issuer_url: ISSUER_URL,
      gateway_key,
      environment,
      resource: RESOURCE,
      api,
      pids,
      agent,
      headers,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
};
