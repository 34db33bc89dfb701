import { createAudit } from "../audit/index.ts";
import type { Config } from "../config/index.ts";
import { keyring } from "../domain/keyring.ts";
import type { RoleName } from "../domain/role-name.ts";
import type { Role } from "../http/role.ts";
import { createMetrics } from "../kernel/metrics.ts";
import { databaseOf, type Parts, required } from "../parts.ts";

/**
 * The roles that get a thread of their own beside others, and how each is made. What this file imports is what such a
 * thread loads: a role belongs here that takes no call of another role's, and works while others answer.
 */
export const APART = {
  audit: (parts) => {
    const { config } = parts;
    return createAudit({
      db: databaseOf(parts, "audit"),
      streams: parts.streams,
      stream_ring: parts.streams_ring,
      audit_ring: keyring(required(config.AUDIT_HMAC_KEY, "AUDIT_HMAC_KEY"), config.AUDIT_HMAC_KEY_PREVIOUS),
      max_deliveries: config.AUDIT_MAX_DELIVERIES,
      consumer: parts.instance_id,
      clock: parts.clock,
      log: parts.log.child({ role: "audit" }),
      metrics: createMetrics(parts.process_metrics),
    });
  },
} satisfies Readonly<Partial<Record<RoleName, (parts: Parts) => Role>>>;

/** A role that may have a thread of its own. */
export type ApartRole = keyof typeof APART;

const isApart = (role: RoleName): role is ApartRole => Object.hasOwn(APART, role);

/**
 * Which roles of a process run in the main thread, and which in one of their own. Embedded storage is the main thread's
 * alone, and a role by itself has nobody to make way for.
 */
export const layOut = (
  config: Config,
): { readonly here: readonly RoleName[]; readonly apart: readonly ApartRole[] } => {
  const here = config.roles.filter((role) => !isApart(role));
  if (config.embedded_database || config.embedded_redis || here.length === 0) return { here: config.roles, apart: [] };
  return { here, apart: config.roles.filter(isApart) };
};
