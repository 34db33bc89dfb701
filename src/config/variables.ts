import type * as v from "valibot";
import type { RoleName } from "../domain/role-name.ts";
import {
  bearerSecret,
  count,
  databaseUrl,
  duration_ms,
  flag,
  formerKeks,
  formerKeys,
  hexKey,
  hosts,
  kek,
  nameServers,
  networks,
  oneOf,
  port,
  redisUrl,
  serviceUrl,
  text,
} from "./values.ts";

/** One environment variable: what it is for, who reads it, what it is without being set. */
export type Variable = {
  readonly doc: string;
  /** A role reads only its own: a variable of another role is not even looked at. */
  readonly roles: readonly RoleName[];
  /** Never printed; also read from the file that `NAME_FILE` names. */
  readonly secret?: boolean;
  readonly default?: string;
  /** The default of `CARACAL_ENV=dev`, where it is another. */
  readonly dev_default?: string;
  readonly schema: v.GenericSchema<string, unknown>;
};

const ALL: readonly RoleName[] = ["gateway", "sts", "coordinator", "api", "audit"];
const WITH_DATABASE: readonly RoleName[] = ["sts", "coordinator", "api", "audit"];
const minute_ms = 60_000;

const listening = <R extends RoleName>(role: R, number: string) =>
  ({
    [`${role.toUpperCase()}_PORT`]: {
      doc: `Port of the ${role} role; 0 takes any free one.`,
      roles: [role],
      default: number,
      schema: port,
    },
    [`${role.toUpperCase()}_HOST`]: {
      doc: `Address on which the ${role} role listens.`,
      roles: [role],
      default: "0.0.0.0",
      dev_default: "127.0.0.1",
      schema: text,
    },
  }) as { readonly [N in `${Uppercase<R>}_PORT`]: Variable & { schema: typeof port } } & {
    readonly [N in `${Uppercase<R>}_HOST`]: Variable & { schema: typeof text };
  };

/** Every variable of the program. The cross-field refusals are in `refusals.ts`. */
export const VARIABLES = {
  CARACAL_ENV: {
    doc: "production refuses what is unsafe; dev embeds what is missing.",
    roles: ALL,
    default: "production",
    schema: oneOf("production", "dev"),
  },
  CARACAL_DATA_DIR: {
    doc: "Folder of the embedded database, journals and generated secrets (dev).",
    roles: ALL,
    default: ".caracal",
    schema: text,
  },
  LOG_LEVEL: {
    doc: "debug, info, warn, error or silent.",
    roles: ALL,
    default: "info",
    dev_default: "warn",
    schema: oneOf("debug", "info", "warn", "error", "silent"),
  },
  SHUTDOWN_TIMEOUT: {
    doc: "How long a drain may take after SIGTERM.",
    roles: ALL,
    default: "25s",
    dev_default: "5s",
    schema: duration_ms(0, 10 * minute_ms),
  },

  ...listening("gateway", "8081"),
  ...listening("sts", "8080"),
  ...listening("coordinator", "4000"),
  ...listening("api", "3000"),
  ...listening("audit", "9090"),
  TLS_CERT_FILE: {
    doc: "PEM certificate (chain) that every role of this process serves with. The Gateway needs it in production.",
    roles: ALL,
    schema: text,
  },
  TLS_KEY_FILE: { doc: "PEM private key of TLS_CERT_FILE.", roles: ALL, schema: text },
  INSECURE_HTTP: {
    doc: "Lets the Gateway serve without a certificate. Refused in production.",
    roles: ["gateway"],
    default: "false",
    dev_default: "true",
    schema: flag,
  },
  INSECURE_STS: {
    doc: "Lets the Gateway call an STS over plain HTTP. Refused in production.",
    roles: ["gateway"],
    default: "false",
    schema: flag,
  },

  DATABASE_URL: {
    doc: "PostgreSQL. In production with sslmode=require, verify-ca or verify-full.",
    roles: WITH_DATABASE,
    secret: true,
    schema: databaseUrl,
  },
  DATABASE_URL_STS: {
    doc: "DATABASE_URL for the sts role alone: one database user per role.",
    roles: ["sts"],
    secret: true,
    schema: databaseUrl,
  },
  DATABASE_URL_COORDINATOR: {
    doc: "DATABASE_URL for the coordinator role alone.",
    roles: ["coordinator"],
    secret: true,
    schema: databaseUrl,
  },
  DATABASE_URL_API: { doc: "DATABASE_URL for the api role alone.", roles: ["api"], secret: true, schema: databaseUrl },
  DATABASE_URL_AUDIT: {
    doc: "DATABASE_URL for the audit role alone.",
    roles: ["audit"],
    secret: true,
    schema: databaseUrl,
  },
  MIGRATE_DATABASE_URL: {
    doc: "The owner of the schema, for `caracal migrate`; DATABASE_URL without it.",
    roles: WITH_DATABASE,
    secret: true,
    schema: databaseUrl,
  },
  DATABASE_POOLER: {
    doc: "transaction: a pooler such as PgBouncer in transaction mode stands before PostgreSQL; none: nothing does.",
    roles: WITH_DATABASE,
    default: "none",
    schema: oneOf("none", "transaction"),
  },
  REDIS_URL: {
    doc: "Redis with maxmemory-policy noeviction, a password and persistence.",
    roles: ALL,
    secret: true,
    schema: redisUrl,
  },

  STREAMS_HMAC_KEY: {
    doc: "Signs every stream entry; the same everywhere. At least 32 bytes of hex.",
    roles: ALL,
    secret: true,
    schema: hexKey(32),
  },
  STREAMS_HMAC_KEY_PREVIOUS: {
    doc: "Former keys (commas) that still verify.",
    roles: ALL,
    secret: true,
    default: "",
    schema: formerKeys(32),
  },
  ZONE_KEK: {
    doc: "Seals zone keys and credentials. Exactly 32 bytes of hex, not zero.",
    roles: ["sts", "api"],
    secret: true,
    schema: kek,
  },
  ZONE_KEK_PREVIOUS: {
    doc: "Former keys (commas) that still open.",
    roles: ["sts", "api"],
    secret: true,
    default: "",
    schema: formerKeks,
  },
  AUDIT_HMAC_KEY: {
    doc: "Chains the ledger. At least 32 bytes of hex, another than STREAMS_HMAC_KEY.",
    roles: ["audit"],
    secret: true,
    schema: hexKey(32),
  },
  AUDIT_HMAC_KEY_PREVIOUS: {
    doc: "Former keys (commas) that still verify.",
    roles: ["audit"],
    secret: true,
    default: "",
    schema: formerKeys(32),
  },
  GATEWAY_STS_HMAC_KEY: {
    doc: "Signs the Gateway's calls to the STS; derived from STREAMS_HMAC_KEY if unset. At least 32 bytes of hex.",
    roles: ["gateway", "sts"],
    secret: true,
    schema: hexKey(32),
  },
  GATEWAY_STS_HMAC_KEY_PREVIOUS: {
    doc: "Former keys (commas) that still verify.",
    roles: ["gateway", "sts"],
    secret: true,
    default: "",
    schema: formerKeys(32),
  },
  CARACAL_API_URL: {
    doc: "Where the API is, for the commands that call it. https, but on this machine.",
    roles: [],
    schema: serviceUrl,
  },
  CARACAL_ADMIN_TOKEN: {
    doc: "The admin token of those commands. Rather set CARACAL_ADMIN_TOKEN_FILE.",
    roles: [],
    secret: true,
    schema: text,
  },
  BOOTSTRAP_ADMIN_TOKEN: {
    doc: "Opens POST /v1/bootstrap once. At least 32 bytes.",
    roles: ["api"],
    secret: true,
    schema: bearerSecret(32),
  },

  ISSUER_URL: {
    doc: "Base of every token's iss. STS_URL if unset, else the STS's own address.",
    roles: ["gateway", "sts", "coordinator", "api"],
    schema: serviceUrl,
  },
  STS_URL: {
    doc: "Where the STS is, unless it runs in this process. https in production.",
    roles: ["gateway", "coordinator"],
    schema: serviceUrl,
  },
  GATEWAY_PUBLIC_URL: {
    doc: "Where clients reach the Gateway. A resource's URL there (/r/{zone}/{resource}) names it at the STS, too.",
    roles: ["sts"],
    schema: serviceUrl,
  },
  STS_TIMEOUT: {
    doc: "How long the Gateway waits for the STS.",
    roles: ["gateway"],
    default: "5s",
    schema: duration_ms(100, 5 * minute_ms),
  },
  RATE_LIMIT_PER_MINUTE: {
    doc: "Exchanges per zone and client; an application may have its own.",
    roles: ["sts", "api"],
    default: "6000",
    schema: count(1, 1_000_000),
  },
  TRUSTED_PROXIES: {
    doc: "Load balancers in front of the STS whose X-Forwarded-For is believed: addresses or networks (10.0.0.0/8), separated by commas.",
    roles: ["sts"],
    default: "",
    schema: networks,
  },
  POLICY_BUDGET: {
    doc: "Steps that one evaluation of a policy may take.",
    roles: ["sts", "api"],
    default: "50000",
    schema: count(1_000, 10_000_000),
  },
  POLICY_UNITS_PER_SECOND: {
    doc: "What the policies of one zone may spend in a second in one process: steps, reading of input, new instances.",
    roles: ["sts"],
    default: "50000000",
    schema: count(100_000, 10_000_000_000),
  },
  OPA_PATH: { doc: "The opa program that compiles policies; `opa` on PATH if unset.", roles: ["api"], schema: text },

  EGRESS_HOST_ALLOWLIST: {
    doc: "The only hosts that a provider's, an issuer's or an application's addresses may have, exact, separated by commas.",
    roles: ["sts", "api"],
    default: "",
    schema: hosts,
  },

  ALLOW_PRIVATE_UPSTREAMS: {
    doc: "Allows upstreams on private addresses; in production only with UPSTREAM_HOST_ALLOWLIST.",
    roles: ["gateway"],
    default: "false",
    schema: flag,
  },
  UPSTREAM_HOST_ALLOWLIST: {
    doc: "The only upstream hosts, exact, separated by commas.",
    roles: ["gateway"],
    default: "",
    schema: hosts,
  },
  DNS_SERVERS: {
    doc: "Name servers that upstreams, issuers and clients' keys are looked up at, in place of the system's: 10.0.0.2 or 10.0.0.2:5353, separated by commas.",
    roles: ["gateway", "sts"],
    default: "",
    schema: nameServers,
  },
  GATEWAY_CALLS: {
    doc: "Calls, streams included, that may be under way in one Gateway at a time.",
    roles: ["gateway"],
    default: "8192",
    schema: count(1, 65_536),
  },
  GATEWAY_ZONE_PERCENT: {
    doc: "Of GATEWAY_CALLS, how much one zone may hold. 100 where there is one zone.",
    roles: ["gateway"],
    default: "75",
    schema: count(1, 100),
  },
  GATEWAY_CLIENT_PERCENT: {
    doc: "Of GATEWAY_CALLS, how much one application may hold.",
    roles: ["gateway"],
    default: "50",
    schema: count(1, 100),
  },
  MAX_REQUEST_BYTES: {
    doc: "The longest request body.",
    roles: ["gateway"],
    default: "10485760",
    schema: count(1, 1_073_741_824),
  },
  UPSTREAM_CALLS: {
    doc: "Calls, streams included, that may run at one upstream at a time.",
    roles: ["gateway"],
    default: "1024",
    schema: count(1, 65_536),
  },
  UPSTREAM_ZONE_PERCENT: {
    doc: "Of UPSTREAM_CALLS, how much one zone may hold. 100 where there is one zone.",
    roles: ["gateway"],
    default: "75",
    schema: count(1, 100),
  },
  UPSTREAM_CLIENT_PERCENT: {
    doc: "Of UPSTREAM_CALLS, how much one application may hold.",
    roles: ["gateway"],
    default: "50",
    schema: count(1, 100),
  },
  UPSTREAM_TIMEOUT: {
    doc: "How long an upstream may take to answer with headers.",
    roles: ["gateway"],
    default: "30s",
    schema: duration_ms(100, 60 * minute_ms),
  },
  STREAM_IDLE_TIMEOUT: {
    doc: "How long a stream may be silent.",
    roles: ["gateway"],
    default: "300s",
    schema: duration_ms(1_000, 24 * 60 * minute_ms),
  },
  STREAM_MAX_SECONDS: {
    doc: "How long a stream may last, in seconds.",
    roles: ["gateway"],
    default: "3600",
    schema: count(1, 86_400),
  },
  JTI_FAIL_OPEN: {
    doc: "Lets presented mandates through while Redis is away: no replay protection. Refused in production.",
    roles: ["gateway"],
    default: "false",
    schema: flag,
  },

  AUDIT_MAX_DELIVERIES: {
    doc: "Deliveries of an event that our own code fails on, before it goes to the dead letters. An outage counts none.",
    roles: ["audit"],
    default: "5",
    schema: count(1, 1_000),
  },
  AUDIT_REPLAY_DIR: {
    doc: "Folder of the journal of events that could not be sent; `audit-replay` in CARACAL_DATA_DIR if unset.",
    roles: ["gateway", "sts"],
    schema: text,
  },
} as const satisfies Record<string, Variable>;

export type VariableName = keyof typeof VARIABLES;

type HasDefault<N extends VariableName> = (typeof VARIABLES)[N] extends { readonly default: string }
  ? true
  : (typeof VARIABLES)[N] extends { readonly default?: string }
    ? "default" extends keyof (typeof VARIABLES)[N]
      ? true
      : false
    : false;

/** What a variable becomes. A listening address has its default always; a variable without one may be undefined. */
export type Values = {
  readonly [N in VariableName]: HasDefault<N> extends true
    ? v.InferOutput<(typeof VARIABLES)[N]["schema"]>
    : v.InferOutput<(typeof VARIABLES)[N]["schema"]> | undefined;
};

/** The program's configuration, checked as a whole and frozen. Variables of roles that do not run here are undefined. */
export type Config = Values & {
  readonly roles: readonly RoleName[];
  readonly production: boolean;
  /** No DATABASE_URL in dev: PGlite in the data folder. */
  readonly embedded_database: boolean;
  /** No REDIS_URL in dev: streams, marks and limits in this process. */
  readonly embedded_redis: boolean;
};

export type Env = Readonly<Record<string, string | undefined>>;
