import { randomBytes, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../../src/kernel/package-root.ts";
import { bootstrapZone, type ControlPlane, createControlPlane } from "../support/control-plane.ts";
import { type Hop, startEverything } from "../support/everything.ts";
import { createTestDatabase } from "../support/postgres.ts";
import { type Program, startProgram } from "../support/program.ts";
import { startRedis } from "../support/redis.ts";

/** A zone that the scenarios work in. */
export type ZoneUnderTest = {
  readonly id: string;
  /** `iss` of its tokens. */
  readonly issuer: string;
  /** Of this zone alone. */
  readonly admin_token: string;
  readonly api: ControlPlane;
};

export type TestApplication = { readonly id: string; readonly secret: string };
export type TestResource = { readonly id: string; readonly identifier: string };

/** How the program is laid out; scenarios see nothing else of it. Addresses are asked anew, as a restart changes them. */
export type Topology = {
  readonly gateway_urls: readonly string[];
  readonly sts_urls: readonly string[];
  readonly api_url: string;
  readonly coordinator_url: string;
  readonly audit_url: string;
  /** One address of each process that serves the path from the Gateway to the STS: each shows its process's counters. */
  readonly process_urls: readonly string[];
  /** A policy set is active in it: `POLICIES`. */
  readonly zone: ZoneUnderTest;
  /** None is. */
  readonly bare_zone: ZoneUnderTest;
  /** The upstream of every resource that the scenarios make. */
  readonly hop: Hop;
  /** Hex; the test computes the chain by itself. */
  readonly audit_hmac_key: string;
  /** Undefined where streams and marks live in the process. */
  readonly redis: { stop(): Promise<void>; start(): Promise<void> } | undefined;
  /** SIGKILL to every process of it. */
  kill(): Promise<void>;
  /** Starts them again; resolves when all are ready. */
  start(): Promise<void>;
  /** What the processes wrote so far: the log. */
  log(): string;
  close(): Promise<void>;
};

/** Allows whoever has the trait `agent`, but for what is sealed; an explicit deny names its reason. */
const AGENTS = `package caracal.authz

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["scenario.agents"],
	"diagnostics": ["Only agents may call."],
}

result := {
	"decision": "allow",
	"evaluation_status": "complete",
	"determining_policies": ["scenario.agents"],
	"diagnostics": [],
} if {
	"agent" in input.principal.traits
	not sealed
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["scenario.sealed"],
	"diagnostics": ["Sealed resources are closed to everybody.", {"resource": input.resource.identifier}],
} if {
	sealed
}

sealed if endswith(input.resource.identifier, "/sealed")
`;

/** Is silent but for one thing, which it refuses whatever the others say. */
const NO_DELETION = `package caracal.authz

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [],
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["scenario.no_deletion"],
	"diagnostics": ["Deleting needs a person."],
} if {
	input.action.method == "DELETE"
	startswith(input.action.path, "/hop")
}
`;

/** The template as it is shipped: who has the trait `needs-approval` changes nothing that a person did not approve. */
const APPROVAL_FOR_WRITES = join(packageRoot, "config/policies/templates/approval-for-writes.rego");

/** The words of the policies, as callers are to hear them. */
export const SAYS_SEALED = "Sealed resources are closed to everybody.";
export const SAYS_NO_DELETION = "Deleting needs a person.";
export const SAYS_AGENTS_ONLY = "Only agents may call.";

/** Makes the scenarios' policies the active ones of a zone. */
export const activatePolicies = async (api: ControlPlane): Promise<void> => {
  const members = [
    await api.createPolicy("Agents", AGENTS),
    await api.createPolicy("No deletion", NO_DELETION),
    await api.createPolicy("Approval for writes", readFileSync(APPROVAL_FOR_WRITES, "utf8")),
  ];
  await api.activate(
    "Scenarios",
    members.map((member) => member.id),
  );
};

export const SCOPES = ["tools:list", "tools:call"] as const;

/** An application with a secret, by default one that the policies allow. */
export const newApplication = async (
  zone: ZoneUnderTest,
  fields: { readonly traits?: readonly string[]; readonly scopes?: readonly string[] } = {},
): Promise<TestApplication> => {
  const made = await zone.api.createApplication({
    name: `Application ${randomUUID()}`,
    scopes: fields.scopes ?? SCOPES,
    traits: fields.traits ?? ["agent"],
  });
  const { id, client_secret } = made;
  if (client_secret === undefined) throw new Error("the application came without a secret");
  return { id, secret: client_secret };
};

/** A resource of its own, served by the hop. `sealed`: one that policy refuses. */
export const newResource = async (
  topology: Topology,
  zone: ZoneUnderTest,
  options: { readonly sealed?: boolean } = {},
): Promise<TestResource> => {
  const identifier = `resource://${randomUUID()}${options.sealed === true ? "/sealed" : ""}`;
  const upstream_url = topology.hop.mount({
    audience: identifier,
    issuer: zone.issuer,
    jwks_url: () => `${topology.sts_urls[0]}/.well-known/jwks.json?zone_id=${zone.id}`,
  });
  const made = await zone.api.createResource({
    identifier,
    name: `Resource ${randomUUID()}`,
    upstream_url,
    scopes: SCOPES,
  });
  return { id: made.id, identifier };
};

/** A resource and an application. */
export const newAgent = async (
  topology: Topology,
  zone: ZoneUnderTest,
  options: { readonly sealed?: boolean; readonly traits?: readonly string[] } = {},
): Promise<{ readonly application: TestApplication; readonly resource: TestResource }> => {
  const resource = await newResource(topology, zone, options);
  return { resource, application: await newApplication(zone, options) };
};

/** What every topology of one process has, from the running program. */
const ofProgram = async (
  program: Program,
  keys: { readonly audit_hmac_key: string; readonly bootstrap_token: string },
  redis: Topology["redis"],
  closeStorage: () => Promise<void>,
): Promise<Topology> => {
  const hop = await startEverything();
  const api_url = (): string => program.quickstart.api_url;
  // Where the first start's STS was: it stays the issuer when later ones are elsewhere.
  const issuer_url = program.quickstart.sts_url;
  const zoneOf = (id: string, token: string): ZoneUnderTest => ({
    id,
    issuer: `${issuer_url}/zones/${id}`,
    admin_token: token,
    api: createControlPlane(api_url, id, token),
  });
  const { zone_id, admin_token } = program.quickstart;
  const bare = await bootstrapZone(api_url(), keys.bootstrap_token, { slug: "bare", name: "A zone without a policy" });
  const zone = zoneOf(zone_id, admin_token);
  await activatePolicies(zone.api);
  return {
    get gateway_urls() {
      return [program.quickstart.gateway_url];
    },
    get sts_urls() {
      return [program.quickstart.sts_url];
    },
    get api_url() {
      return program.quickstart.api_url;
    },
    get coordinator_url() {
      return program.quickstart.coordinator_url;
    },
    get audit_url() {
      return program.quickstart.audit_url;
    },
    get process_urls() {
      return [program.quickstart.gateway_url];
    },
    zone,
    bare_zone: zoneOf(bare.zone_id, bare.admin_token),
    hop,
    audit_hmac_key: keys.audit_hmac_key,
    redis,
    kill: () => program.kill(),
    start: () => program.start(),
    log: () => program.stdout() + program.stderr(),
    async close() {
      await program.close();
      await hop.close();
      await closeStorage();
    },
  };
};

const start = async (
  env: Readonly<Record<string, string>>,
  redis: Topology["redis"],
  closeStorage: () => Promise<void>,
): Promise<Topology> => {
  const keys = {
    audit_hmac_key: randomBytes(32).toString("hex"),
    bootstrap_token: randomBytes(32).toString("base64url"),
  };
  let program: Program | undefined;
  try {
    program = await startProgram({
      env: {
        AUDIT_HMAC_KEY: keys.audit_hmac_key,
        BOOTSTRAP_ADMIN_TOKEN: keys.bootstrap_token,
        RATE_LIMIT_PER_MINUTE: "1000000", // the scenarios ask for more than a person would
        ...env,
      },
    });
    return await ofProgram(program, keys, redis, closeStorage);
  } catch (error) {
    await program?.close();
    await closeStorage();
    throw error;
  }
};

/** Every role in one process that embeds its database and its streams. */
export const startEmbedded = (): Promise<Topology> => start({}, undefined, async () => {});

/** Every role in one process, on a PostgreSQL and a Redis that keeps what it answered for. */
export const startOnPostgresAndRedis = async (): Promise<Topology> => {
  const database = await createTestDatabase();
  const redis = await startRedis({ appendonly: true });
  const closeStorage = async (): Promise<void> => {
    await database.close();
    await redis.close();
  };
  return start({ DATABASE_URL: database.url, REDIS_URL: redis.url }, redis, closeStorage);
};
