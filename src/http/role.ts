import type { IncomingMessage, ServerResponse } from "node:http";
import type { RoleName } from "../domain/role-name.ts";
import type { Metrics } from "../kernel/metrics.ts";
import type { Service } from "../kernel/service.ts";

/** One condition of readiness: its name, and what is wrong now, in a few words without secrets; undefined when it holds. */
export type ReadyCheck = {
  readonly name: string;
  readonly fault: () => string | undefined | Promise<string | undefined>;
};

/** What `createX(deps)` returns: all that the program needs to serve a role. */
export type Role = {
  readonly name: RoleName;
  /** Gets every request but those that are the server's own (`/health`, `/ready`, `/metrics`; see `owns`). */
  readonly handle: (request: IncomingMessage, response: ServerResponse) => void;
  /** Whether a path of the server's own (`/health`, `/ready`, `/metrics`) is the role's instead for this request. */
  readonly owns?: (request: IncomingMessage) => boolean;
  /** The role itself answers `Expect: 100-continue`, once it has decided that it wants the body; else the server does, at once. */
  readonly continues?: true;
  /** Its answers may be silent for longer than a connection may, as streams are; it watches over them itself. */
  readonly long_answers?: true;
  readonly services: readonly Service[];
  readonly ready: readonly ReadyCheck[];
  readonly metrics: Metrics;
  /** Called once when the program drains, before the server closes: ends what would otherwise never end (idle streams). */
  readonly drain?: () => void;
};
