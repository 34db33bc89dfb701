import type { Config } from "../config/index.ts";
import { ROLE_NAMES, type RoleName } from "../domain/role-name.ts";
import type { MadeRoles, MakeRole, Roles } from "./make-role.ts";
import type { Parts } from "./parts.ts";

type Row<N extends RoleName> = {
  /** Loads the module that makes the role. It is loaded only where the role runs. */
  readonly load: () => Promise<MakeRole<N>>;
  /** Whether the role gets a thread of its own when other roles run in the same process. */
  readonly apart: (config: Storage) => boolean;
};

type Storage = Pick<Config, "embedded_database" | "embedded_redis">;

/** Other roles call it, or it calls them. */
const never = (): boolean => false;
/** Only the main thread holds embedded storage. */
const onServers = (config: Storage): boolean => !config.embedded_database && !config.embedded_redis;

/** The table of roles: how each is made, and when it has a thread. A role that has one takes no call of another role's. */
const ROLES: { readonly [N in RoleName]: Row<N> } = {
  audit: { load: async () => (await import("./roles/audit.ts")).makeAudit, apart: onServers },
  api: { load: async () => (await import("./roles/api.ts")).makeApi, apart: never },
  sts: { load: async () => (await import("./roles/sts.ts")).makeSts, apart: never },
  coordinator: { load: async () => (await import("./roles/coordinator.ts")).makeCoordinator, apart: never },
  gateway: { load: async () => (await import("./roles/gateway.ts")).makeGateway, apart: never },
};

/** Which roles of a process run in the main thread (`here`), and which in one of their own. The main thread has at least one. */
export const layOut = (
  config: Storage & Pick<Config, "roles">,
): { readonly here: readonly RoleName[]; readonly apart: readonly RoleName[] } => {
  const apart = config.roles.filter((name) => ROLES[name].apart(config));
  if (apart.length === config.roles.length) return { here: config.roles, apart: [] };
  return { here: config.roles.filter((name) => !apart.includes(name)), apart };
};

/** Loads the modules of these roles. Resolves to what makes the roles of a thread from its parts, in the order of `ROLE_NAMES`. */
export const loadRoles = async (names: readonly RoleName[]): Promise<(parts: Parts) => MadeRoles> => {
  const loadOne = async <N extends RoleName>(name: N) => {
    const make = await ROLES[name].load();
    return (parts: Parts, by_name: Partial<Roles>) => {
      const made = make(parts, by_name);
      by_name[name] = made.role;
      return made;
    };
  };
  const makers = await Promise.all(ROLE_NAMES.filter((name) => names.includes(name)).map((name) => loadOne(name)));
  return (parts) => {
    const by_name: Partial<Roles> = {};
    const made = makers.map((make) => make(parts, by_name));
    return { roles: made.map(({ role }) => role), services: made.flatMap(({ services }) => services), by_name };
  };
};
