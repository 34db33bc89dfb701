import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";
import { makeCertificates, type TestCertificates } from "./certificates.ts";
import { eventually } from "./eventually.ts";
import { type FaultProxy, startFaultProxy } from "./fault-proxy.ts";
import {
  bounded,
  cleanEnvironment,
  type Exit,
  isReady,
  killGroup,
  launch,
  MAIN,
  type ROLES,
  type Run,
  runToEnd,
} from "./program.ts";
import { type PrivateServer, startPostgresServer, startRedisServer } from "./provision.ts";
import { trustCa } from "./trust.ts";

/**
 * The program as it is run in production: a process per role, TLS everywhere, a database user per role, a Redis with a
 * password that keeps what it was given. Between any two of them stands a proxy that can be made to fail.
 */

type RoleName = (typeof ROLES)[number];

/** The ways on which a process reaches others; `sts` and `upstream` are a Gateway's alone. */
export type LinkName = "redis" | "database" | "sts" | "upstream";

/** A process of the installation. */
export type Part = {
  /** `gateway-1`. */
  readonly name: string;
  readonly role: RoleName;
  /** Where its last start listens; while it is away, where it was. */
  readonly url: string;
  readonly links: Readonly<Partial<Record<LinkName, FaultProxy>>>;
  readonly running: boolean;
  /** Of the last start: from the spawn until `/ready` said 200, in milliseconds. */
  readonly ready_in_ms: number;
  /** What it wrote, in all its runs: the log. */
  log(): string;
  signal(signal: NodeJS.Signals): void;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** SIGTERM; resolves with how it ended. */
  stop(): Promise<Exit>;
  /** Starts it; resolves when it is ready. */
  start(): Promise<void>;
  /** Starts it; resolves when it listens. */
  begin(): Promise<void>;
};

export type Split = {
  readonly gateways: readonly Part[];
  readonly stss: readonly Part[];
  readonly api: Part;
  readonly coordinator: Part;
  readonly audit: Part;
  /** All of them, in the order of a start. */
  readonly parts: readonly Part[];
  readonly issuer_url: string;
  readonly postgres: PrivateServer;
  readonly redis: PrivateServer;
  /** Past every proxy. */
  readonly redis_url: string;
  /** The superuser's, past every proxy. */
  readonly database_url: string;
  /** The schema owner's, for the program's own commands. */
  readonly owner_env: Readonly<Record<string, string>>;
  readonly keys: {
    readonly audit_hmac_key: string;
    readonly streams_hmac_key: string;
    readonly bootstrap_token: string;
  };
  /** Where the Gateways' calls to upstreams go; the real port is set by who has an upstream. */
  routeUpstream(port: number): FaultProxy;
  /** Those that do not run, the Gateways last; resolves when all are ready. */
  startAll(): Promise<void>;
  killAll(): Promise<void>;
  close(): Promise<void>;
};

const READY_WITHIN_MS = 30_000;
const STOP_WITHIN_MS = 40_000;
const DATABASE = "caracal";
const OWNER = "caracal_owner";
/** Nobody answers there: a refused connection. */
const NOWHERE = 1;

const secret = (): string => randomBytes(32).toString("hex");
const password = (): string => randomBytes(18).toString("base64url");

/** One of the examples that an operator begins with, so that they can't become untrue. */
const exampleOf = (name: string): Record<string, string> => {
  const lines = readFileSync(join(packageRoot, "config", "env", `${name}.env`), "utf8").split("\n");
  const pairs = lines
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => /^([A-Z_]+)=(.*)$/.exec(line));
  return Object.fromEntries(
    pairs.map((pair) => {
      if (pair === null) throw new Error(`config/env/${name}.env has a line that is no NAME=value`);
      return [pair[1] ?? "", pair[2] ?? ""];
    }),
  );
};

const lastServing = (log: string, role: RoleName): string | undefined => {
  for (const line of log.split("\n").toReversed()) {
    if (!line.includes('"serving"')) continue;
    const { addresses } = JSON.parse(line) as { readonly addresses?: Readonly<Record<string, string>> };
    if (addresses?.[role] !== undefined) return addresses[role];
  }
  return undefined;
};

const createPart = (
  name: string,
  role: RoleName,
  links: Part["links"],
  env: Readonly<Record<string, string>>,
): Part => {
  let run: Run | undefined;
  let url: string | undefined;
  let ready_in_ms = 0;
  let began_ms = 0;
  let earlier = "";
  const running = (): boolean => run !== undefined && run.ended() === undefined;
  const current = (): Run => {
    if (run === undefined) throw new Error(`${name} was not started`);
    return run;
  };
  const begin = async (): Promise<void> => {
    if (running()) throw new Error(`${name} runs already`);
    earlier += run === undefined ? "" : run.stdout() + run.stderr();
    began_ms = performance.now();
    const started = launch(process.execPath, [MAIN, `--role=${role}`], cleanEnvironment(env));
    run = started;
    const found = await eventually(
      () => {
        if (started.ended() !== undefined) return "";
        return lastServing(started.stdout(), role) ?? null;
      },
      { timeout_ms: READY_WITHIN_MS, every_ms: 5 },
    ).catch((error: unknown) => {
      throw new Error(`${name} did not serve\n${started.stdout()}\n${started.stderr()}`, { cause: error });
    });
    if (found === "") throw new Error(`${name} ended at its start\n${started.stdout()}\n${started.stderr()}`);
    url = found;
  };
  const part: Part = {
    name,
    role,
    get url() {
      if (url === undefined) throw new Error(`${name} never served`);
      return url;
    },
    links,
    get running() {
      return running();
    },
    get ready_in_ms() {
      return ready_in_ms;
    },
    log: () => earlier + (run === undefined ? "" : run.stdout() + run.stderr()),
    signal: (signal) => killGroup(current().pid, signal),
    async kill() {
      if (!running()) return;
      killGroup(current().pid, "SIGKILL");
      await current().exited;
    },
    async stop() {
      killGroup(current().pid, "SIGTERM");
      return bounded(`the end of ${name}`, STOP_WITHIN_MS, current().exited);
    },
    begin,
    async start() {
      await begin();
      await eventually(() => isReady(part.url), { timeout_ms: READY_WITHIN_MS, every_ms: 5 }).catch(
        (error: unknown) => {
          const cause = error instanceof Error ? error.cause : undefined;
          throw new Error(
            `${name} did not become ready: ${String(cause)}\n${current().stdout()}\n${current().stderr()}`,
            { cause: error },
          );
        },
      );
      ready_in_ms = performance.now() - began_ms;
    },
  };
  return part;
};

/** Only encrypted connections and passwords for the program's users; the tests' own superuser comes as it likes. */
const HBA = `host all postgres 127.0.0.1/32 trust
hostssl all all 127.0.0.1/32 scram-sha-256
`;

const startDatabase = async (certificates: TestCertificates, folder: string): Promise<PrivateServer> => {
  const hba_file = join(folder, "pg_hba.conf");
  writeFileSync(hba_file, HBA);
  chmodSync(hba_file, 0o644);
  return startPostgresServer({ tls: certificates, settings: [`hba_file=${hba_file}`] });
};

const DATABASE_ROLES = ["sts", "coordinator", "api", "audit"] as const;
type DatabaseRole = (typeof DATABASE_ROLES)[number];

type Login = { readonly user: string; readonly password: string };

/** A database with an owner, migrated by `caracal migrate`, and a login user for each role in the role's group. */
const prepareDatabase = async (
  server: PrivateServer,
  ca_file: string,
): Promise<{ readonly logins: Readonly<Record<DatabaseRole, Login>>; readonly owner_env: Record<string, string> }> => {
  const owner_password = password();
  const superuser = createPostgres({
    url: `postgres://postgres@127.0.0.1:${server.port}/postgres?sslmode=disable`,
    name: "test",
    max: 1,
  });
  try {
    await superuser.sql.unsafe(`create role ${OWNER} login createrole password '${owner_password}'`);
    await superuser.sql.unsafe(`create database ${DATABASE} owner ${OWNER}`);
    const owner_env = {
      ...exampleOf("migrate"),
      MIGRATE_DATABASE_URL: `postgres://${OWNER}:${owner_password}@localhost:${server.port}/${DATABASE}?sslmode=verify-full`,
      NODE_EXTRA_CA_CERTS: ca_file,
    };
    const migrated = await runToEnd(["migrate"], { env: owner_env });
    if (migrated.code !== 0) throw new Error(`caracal migrate ended with ${migrated.code}: ${migrated.stderr}`);
    const logins: Partial<Record<DatabaseRole, Login>> = {};
    for (const role of DATABASE_ROLES) {
      const login = { user: `caracal_${role}_1`, password: password() };
      await superuser.sql.unsafe(
        `create role ${login.user} login password '${login.password}' in role caracal_${role}`,
      );
      logins[role] = login;
    }
    return { logins: logins as Record<DatabaseRole, Login>, owner_env };
  } finally {
    await superuser.close();
  }
};

/** Starts the installation with so many Gateways and STSs; resolves when every process is ready. */
export const startSplit = async (count: { readonly gateways: number; readonly stss: number }): Promise<Split> => {
  const closers: (() => Promise<void> | void)[] = [];
  const close = async (): Promise<void> => {
    for (const one of closers.toReversed()) await one();
  };
  try {
    return await assemble(count, closers, close);
  } catch (error) {
    await close();
    throw error;
  }
};

const assemble = async (
  count: { readonly gateways: number; readonly stss: number },
  closers: (() => Promise<void> | void)[],
  close: () => Promise<void>,
): Promise<Split> => {
  const folder = mkdtempSync(join(tmpdir(), "caracal-split-"));
  chmodSync(folder, 0o755);
  closers.push(() => rmSync(folder, { recursive: true, force: true }));
  const certificates = makeCertificates();
  closers.push(() => certificates.close());
  trustCa(certificates.ca);
  const redis_password = password();
  const redis = await startRedisServer({ appendonly: true, password: redis_password });
  closers.push(() => redis.close());
  const postgres = await startDatabase(certificates, folder);
  closers.push(() => postgres.close());
  const { logins, owner_env } = await prepareDatabase(postgres, certificates.ca_file);

  const keys = { audit_hmac_key: secret(), streams_hmac_key: secret(), bootstrap_token: password() + password() };
  const issuer_url = "https://issuer.test"; // a name in tokens; nobody calls it
  const zone_kek = secret();
  const gateway_key = secret();
  const proxy = async (target: { readonly port: number }): Promise<FaultProxy> => {
    const made = await startFaultProxy(target);
    closers.push(() => made.close());
    return made;
  };

  const stss: Part[] = [];
  let turn = 0;
  /** Each connection goes to the next STS that runs. */
  const balancer = {
    get port() {
      const alive = stss.filter((one) => one.running);
      turn += 1;
      const next = alive[turn % Math.max(alive.length, 1)];
      return next === undefined ? NOWHERE : Number(new URL(next.url).port);
    },
  };
  const upstream = { port: NOWHERE };
  const to_upstream = await proxy(upstream);
  const to_redis = { port: redis.port };
  const to_database = { port: postgres.port };

  const partOf = async (role: RoleName, number: number): Promise<Part> => {
    const name = `${role}-${number}`;
    const own_folder = join(folder, name);
    mkdirSync(own_folder);
    const redis_link = await proxy(to_redis);
    const database_link = role === "gateway" ? undefined : await proxy(to_database);
    const sts_link = role === "gateway" || role === "coordinator" ? await proxy(balancer) : undefined;
    const login = role === "gateway" ? undefined : logins[role];
    const upper = role.toUpperCase();
    const own: Record<string, string> = {
      [`${upper}_PORT`]: "0",
      [`${upper}_HOST`]: "127.0.0.1",
      CARACAL_DATA_DIR: own_folder,
      REDIS_URL: `redis://:${redis_password}@127.0.0.1:${redis_link.port}`,
      STREAMS_HMAC_KEY: keys.streams_hmac_key,
      NODE_EXTRA_CA_CERTS: certificates.ca_file,
      TLS_CERT_FILE: certificates.cert_file,
      TLS_KEY_FILE: certificates.key_file,
      ISSUER_URL: issuer_url,
      STS_URL: `https://localhost:${sts_link?.port ?? NOWHERE}`,
      DATABASE_URL: `postgres://${login?.user}:${login?.password}@localhost:${database_link?.port}/${DATABASE}?sslmode=verify-full`,
      ZONE_KEK: zone_kek,
      GATEWAY_STS_HMAC_KEY: gateway_key,
      AUDIT_REPLAY_DIR: join(own_folder, "audit-replay"),
      AUDIT_HMAC_KEY: keys.audit_hmac_key,
      BOOTSTRAP_ADMIN_TOKEN: keys.bootstrap_token,
      UPSTREAM_HOST_ALLOWLIST: "127.0.0.1",
      RATE_LIMIT_PER_MINUTE: "1000000", // the scenarios ask for more than a person would
    };
    const examples = { ...exampleOf("common"), ...exampleOf(role) };
    // What the example names is set to what it is here; what it does not name, the role does without.
    const wanted = Object.entries(own).filter(([variable]) => variable in examples || /_HOST$|_DIR$/.test(variable));
    const part = createPart(
      name,
      role,
      {
        redis: redis_link,
        ...(database_link === undefined ? {} : { database: database_link }),
        ...(sts_link === undefined ? {} : { sts: sts_link }),
        ...(role === "gateway" ? { upstream: to_upstream } : {}),
      },
      { ...examples, ...Object.fromEntries(wanted) },
    );
    closers.push(async () => {
      if (!part.running) return;
      part.signal("SIGCONT");
      await part.stop().catch(() => part.kill());
    });
    return part;
  };

  for (let number = 1; number <= count.stss; number += 1) stss.push(await partOf("sts", number));
  const api = await partOf("api", 1);
  const coordinator = await partOf("coordinator", 1);
  const audit = await partOf("audit", 1);
  const gateways: Part[] = [];
  for (let number = 1; number <= count.gateways; number += 1) gateways.push(await partOf("gateway", number));
  const behind = [...stss, api, coordinator, audit];
  const parts = [...behind, ...gateways];

  const startAll = async (): Promise<void> => {
    for (const group of [behind, gateways]) {
      await Promise.all(group.filter((part) => !part.running).map((part) => part.start()));
    }
  };
  await startAll();
  return {
    gateways,
    stss,
    api,
    coordinator,
    audit,
    parts,
    issuer_url,
    postgres,
    redis,
    redis_url: `redis://:${redis_password}@127.0.0.1:${redis.port}`,
    database_url: `postgres://postgres@127.0.0.1:${postgres.port}/${DATABASE}?sslmode=disable`,
    owner_env,
    keys,
    routeUpstream(port) {
      upstream.port = port;
      return to_upstream;
    },
    startAll,
    async killAll() {
      await Promise.all(parts.map((part) => part.kill()));
    },
    close,
  };
};
