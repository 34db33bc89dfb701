import { createHash } from "node:crypto";
import { accessSync, constants } from "node:fs";
import { unencryptedFault } from "../domain/database-url.ts";
import type { RoleName } from "../domain/role-name.ts";
import type { Config } from "./variables.ts";

/** What one rule says against a configuration: the variable, and the line; undefined where it holds. */
type Rule = {
  readonly variable: string;
  readonly roles: readonly RoleName[];
  readonly when: "production" | "always";
  readonly fault: (config: Config) => string | undefined;
};

const sslFault =
  (name: "DATABASE_URL" | `DATABASE_URL_${"STS" | "COORDINATOR" | "API" | "AUDIT"}` | "MIGRATE_DATABASE_URL") =>
  (config: Config): string | undefined => {
    const url = config[name];
    return url === undefined ? undefined : unencryptedFault(url);
  };

const unreadable = (file: string | undefined): string | undefined => {
  if (file === undefined) return "is missing; name a PEM file";
  try {
    accessSync(file, constants.R_OK);
    return undefined;
  } catch {
    return `${file} can't be read; name a PEM file that this user may read`;
  }
};

const needsDatabase = (role: "sts" | "coordinator" | "api" | "audit"): Rule => ({
  variable: "DATABASE_URL",
  roles: [role],
  when: "always",
  fault: (config) => {
    if (config.embedded_database) return undefined;
    const own = config[`DATABASE_URL_${role.toUpperCase() as Uppercase<typeof role>}`];
    return own === undefined && config.DATABASE_URL === undefined
      ? `is missing; the ${role} role needs postgres://…`
      : undefined;
  },
});

/** Of SHA-256, in bytes. */
const BLOCK_BYTES = 64;

/** A key as HMAC takes it (RFC 2104, 2): hashed where it is longer than a block, then filled up with zeros to one. */
const asHmacTakesIt = (key: Buffer): Buffer => {
  const block = Buffer.alloc(BLOCK_BYTES);
  (key.length > BLOCK_BYTES ? createHash("sha256").update(key).digest() : key).copy(block);
  return block;
};

const sameForHmac = (a: Buffer, b: Buffer): boolean => asHmacTakesIt(a).equals(asHmacTakesIt(b));

const WITH_DATABASE = ["sts", "coordinator", "api", "audit"] as const;

/** Every refusal that concerns more than a variable's own form. One rule, one line. */
const RULES: readonly Rule[] = [
  {
    variable: "TLS_CERT_FILE",
    roles: ["gateway"],
    when: "production",
    fault: (config) => unreadable(config.TLS_CERT_FILE),
  },
  {
    variable: "TLS_KEY_FILE",
    roles: ["gateway"],
    when: "production",
    fault: (config) => unreadable(config.TLS_KEY_FILE),
  },
  {
    variable: "TLS_KEY_FILE",
    roles: ["gateway", "sts", "coordinator", "api", "audit"],
    when: "always",
    fault: (config) =>
      (config.TLS_CERT_FILE === undefined) === (config.TLS_KEY_FILE === undefined)
        ? undefined
        : "and TLS_CERT_FILE go together; set both or neither",
  },
  {
    variable: "INSECURE_HTTP",
    roles: ["gateway"],
    when: "production",
    fault: (config) =>
      config.INSECURE_HTTP ? "is true; the Gateway serves only TLS in production: unset it" : undefined,
  },
  {
    variable: "INSECURE_HTTP",
    roles: ["gateway"],
    when: "always",
    fault: (config) =>
      !config.production && !config.INSECURE_HTTP && config.TLS_CERT_FILE === undefined
        ? "is false, and there is no certificate; set TLS_CERT_FILE and TLS_KEY_FILE, or INSECURE_HTTP=true (dev only)"
        : undefined,
  },
  {
    variable: "INSECURE_STS",
    roles: ["gateway"],
    when: "production",
    fault: (config) =>
      config.INSECURE_STS ? "is true; tokens would cross the network in the clear: unset it" : undefined,
  },
  {
    variable: "JTI_FAIL_OPEN",
    roles: ["gateway"],
    when: "production",
    fault: (config) =>
      config.JTI_FAIL_OPEN ? "is true; a captured mandate could be used again and again: unset it" : undefined,
  },
  {
    variable: "STS_URL",
    roles: ["gateway"],
    when: "always",
    fault: (config) =>
      config.STS_URL === undefined && !config.roles.includes("sts")
        ? "is missing; the STS does not run in this process"
        : undefined,
  },
  {
    variable: "STS_URL",
    roles: ["gateway", "coordinator"],
    when: "production",
    fault: (config) =>
      config.STS_URL !== undefined && !config.STS_URL.startsWith("https://")
        ? "does not start with https://"
        : undefined,
  },
  {
    variable: "STS_URL",
    roles: ["gateway"],
    when: "always",
    fault: (config) =>
      !config.production &&
      config.STS_URL?.startsWith("http://") === true &&
      !config.INSECURE_STS &&
      !config.roles.includes("sts")
        ? "is plain http; use https, or set INSECURE_STS=true (dev only)"
        : undefined,
  },
  ...WITH_DATABASE.map(needsDatabase),
  { variable: "DATABASE_URL", roles: WITH_DATABASE, when: "production", fault: sslFault("DATABASE_URL") },
  { variable: "DATABASE_URL_STS", roles: ["sts"], when: "production", fault: sslFault("DATABASE_URL_STS") },
  {
    variable: "DATABASE_URL_COORDINATOR",
    roles: ["coordinator"],
    when: "production",
    fault: sslFault("DATABASE_URL_COORDINATOR"),
  },
  { variable: "DATABASE_URL_API", roles: ["api"], when: "production", fault: sslFault("DATABASE_URL_API") },
  { variable: "DATABASE_URL_AUDIT", roles: ["audit"], when: "production", fault: sslFault("DATABASE_URL_AUDIT") },
  {
    variable: "MIGRATE_DATABASE_URL",
    roles: WITH_DATABASE,
    when: "production",
    fault: sslFault("MIGRATE_DATABASE_URL"),
  },
  {
    variable: "CARACAL_ENV",
    roles: ["gateway", "sts", "coordinator", "api", "audit"],
    when: "always",
    fault: (config) => {
      if (config.roles.length === 5 || config.production) return undefined;
      if (!config.embedded_redis && (!config.embedded_database || config.roles.every((role) => role === "gateway")))
        return undefined;
      return "is dev with embedded storage, which one process holds alone: run --role=all, or set DATABASE_URL and REDIS_URL";
    },
  },
  {
    variable: "REDIS_URL",
    roles: ["gateway", "sts", "coordinator", "api", "audit"],
    when: "production",
    fault: (config) =>
      config.REDIS_URL === undefined ? "is missing; every role needs redis://… or rediss://…" : undefined,
  },
  {
    variable: "STREAMS_HMAC_KEY",
    roles: ["gateway", "sts", "coordinator", "api", "audit"],
    when: "always",
    fault: (config) =>
      config.STREAMS_HMAC_KEY === undefined ? "is missing; make one with: openssl rand -hex 32" : undefined,
  },
  {
    variable: "ZONE_KEK",
    roles: ["sts", "api"],
    when: "always",
    fault: (config) => (config.ZONE_KEK === undefined ? "is missing; make one with: openssl rand -hex 32" : undefined),
  },
  {
    variable: "AUDIT_HMAC_KEY",
    roles: ["audit"],
    when: "always",
    fault: (config) =>
      config.AUDIT_HMAC_KEY === undefined ? "is missing; make one with: openssl rand -hex 32" : undefined,
  },
  {
    variable: "AUDIT_HMAC_KEY",
    roles: ["audit"],
    when: "always",
    fault: (config) =>
      config.AUDIT_HMAC_KEY !== undefined &&
      config.STREAMS_HMAC_KEY !== undefined &&
      sameForHmac(config.AUDIT_HMAC_KEY, config.STREAMS_HMAC_KEY)
        ? "is the same as STREAMS_HMAC_KEY; who may publish could then forge the ledger: make another"
        : undefined,
  },
  {
    variable: "ALLOW_PRIVATE_UPSTREAMS",
    roles: ["gateway"],
    when: "production",
    fault: (config) =>
      config.ALLOW_PRIVATE_UPSTREAMS && config.UPSTREAM_HOST_ALLOWLIST.length === 0
        ? "is true without UPSTREAM_HOST_ALLOWLIST; list the upstream hosts"
        : undefined,
  },
];

/** The lines of every rule that a configuration breaks; a variable that is malformed already is not judged again. */
export const refusals = (config: Config, malformed: ReadonlySet<string>): readonly string[] =>
  RULES.flatMap((rule) => {
    if (malformed.has(rule.variable) || malformed.has(`${rule.variable}_FILE`)) return [];
    if (!rule.roles.some((role) => config.roles.includes(role))) return [];
    if (rule.when === "production" && !config.production) return [];
    const fault = rule.fault(config);
    return fault === undefined ? [] : [`${rule.variable}: ${fault}`];
  }).filter((line, at, all) => all.indexOf(line) === at);
