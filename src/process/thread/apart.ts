import type { Config } from "../../config/index.ts";
import type { RoleName } from "../../domain/role-name.ts";
import type { Role } from "../../http/role.ts";
import type { Parts } from "../parts.ts";

/**
 * The roles that get a thread of their own beside others, and how each is made there: what is imported here is what that
 * thread loads. A role belongs here that takes no call of another role's, and works while others answer.
 */
export const APART = {
  audit: async () => (await import("./audit.ts")).auditOf,
} satisfies Readonly<Partial<Record<RoleName, () => Promise<(parts: Parts) => Role>>>>;

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
