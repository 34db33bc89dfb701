import type { Config } from "../config/index.ts";
import type { RoleName } from "../domain/role-name.ts";
import type { DataDir } from "../embedded/data-dir.ts";
import { type Binding, bindRole, readyFaults } from "../http/server.ts";
import type { Log } from "../kernel/log.ts";
import type { Service } from "../kernel/service.ts";
import type { Parts } from "./parts.ts";
import type { RoleThread } from "./role-thread.ts";
import { loadRoles } from "./roles.ts";
import type { MadeRoles } from "./make-role.ts";

export type HereOptions = {
  readonly name: string;
  readonly config: Config;
  /** Those of the process's roles that run here. */
  readonly roles: readonly RoleName[];
  readonly data_dir: DataDir | undefined;
  readonly redis_is_checked?: true;
  readonly log: Log;
  /** A part of it failed for good, after its start: the process can't go on. */
  readonly failed: (error: unknown) => void;
};

/** What a service may always take for its end, however little of the drain's time is left. */
const STOP_AT_LEAST_MS = 1_000;

/** The roles of the thread that calls this. What makes them loads from this call on. */
export type HereThread = RoleThread & {
  /** What the thread made; empty before. */
  made(): MadeRoles;
};

/** Roles that run in the thread that calls this. */
export const createHere = (options: HereOptions): HereThread => {
  const { config, log, failed } = options;
  const bindings = new Map<RoleName, Binding>();
  const started: Service[] = [];
  let parts: Parts | undefined;
  let made: MadeRoles = { roles: [], services: [], by_name: {} };
  const loading = loadRoles(options.roles);
  loading.catch(() => undefined); // awaited where the roles are made

  const startServices = async (services: readonly Service[]): Promise<void> => {
    for (const service of services) {
      await service.start(failed);
      started.push(service);
    }
  };
  const closePorts = async (deadline_ms: number): Promise<void> => {
    await Promise.all([...bindings.values()].map((binding) => binding.close(deadline_ms)));
  };

  return {
    name: options.name,
    made: () => made,
    async bind() {
      const tls =
        config.TLS_CERT_FILE === undefined || config.TLS_KEY_FILE === undefined
          ? undefined
          : { cert_file: config.TLS_CERT_FILE, key_file: config.TLS_KEY_FILE };
      for (const name of options.roles) {
        const upper = name.toUpperCase() as Uppercase<RoleName>;
        const binding = await bindRole({
          name,
          host: config[`${upper}_HOST`],
          port: config[`${upper}_PORT`],
          tls,
          log,
        });
        bindings.set(name, binding);
      }
      return Object.fromEntries([...bindings].map(([name, { host, port }]) => [name, { host, port }]));
    },
    async make({ issuer_url, instance_id }) {
      const { assemble } = await import("./parts.ts"); // a module of the roles, which load after this one
      const { roles, data_dir, redis_is_checked } = options;
      const shared = redis_is_checked === undefined ? {} : { redis_is_checked };
      parts = await assemble({
        config,
        roles,
        data_dir,
        issuer_url,
        instance_id,
        log,
        onFatal: failed,
        ...shared,
      });
      made = (await loading)(parts);
    },
    async start() {
      await startServices([...(parts?.services ?? []), ...made.services]);
      for (const role of made.roles) {
        await startServices(role.services);
        bindings.get(role.name)?.serve(role);
      }
    },
    async faults() {
      const found = await Promise.all(made.roles.map(readyFaults));
      return found.flat().map(({ check, fault }) => `${check} ${fault}`);
    },
    async notReady() {
      for (const binding of bindings.values()) binding.notReady();
    },
    drain: closePorts,
    async stop(deadline_ms) {
      const until_ms = performance.now() + deadline_ms;
      for (const service of started.toReversed()) {
        await service
          .stop(Math.max(until_ms - performance.now(), STOP_AT_LEAST_MS))
          .catch((error: unknown) =>
            log.error({ err: error, service: service.name }, "a service did not stop cleanly"),
          );
      }
      await parts?.close().catch((error: unknown) => log.error({ err: error }, "a connection did not close cleanly"));
    },
  };
};
