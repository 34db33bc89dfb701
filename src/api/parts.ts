import type { ApiEndpoints } from "../contracts/api.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Handlers } from "../http/contract-routes.ts";
import type { Database } from "../ports/database.ts";
import type { Egress } from "../ports/egress.ts";
import type { PolicyCompiler, PolicyEngine, PolicyTemplate } from "../ports/policy.ts";
import type { OutboxRow } from "../broadcast/outbox-store.ts";
import type { Caller } from "./caller.ts";
import type { Change } from "./change.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import type { Rehearsal } from "./rehearsal.ts";

/** Every operation of the control plane as a function, under the name that its contract has. */
export type ControlPlane = Handlers<ApiEndpoints, Caller>;

export type ControlPlaneDeps = {
  readonly db: Database;
  readonly compiler: PolicyCompiler;
  /** Evaluates versions before they decide: its own, so that it takes nothing from an STS in the same process. */
  readonly engine: PolicyEngine;
  /** `POLICY_BUDGET`. */
  readonly policy_budget: number;
  readonly templates: () => Promise<readonly PolicyTemplate[]>;
  readonly clock: Clock;
  readonly log: Log;
  /** Called after each commit that left messages in the outbox, with them. */
  readonly wake: (rows: readonly OutboxRow[]) => void;
  /** `ZONE_KEK`. */
  readonly kek: Keyring;
  /** Judges the addresses that the STS will be told to call. */
  readonly egress: Egress;
  /** How long after it was made a zone's key signs: what the longest cache of a JWKS needs, in seconds. */
  readonly key_delay_s: number;
  /** The deployment's `RATE_LIMIT_PER_MINUTE`. */
  readonly rate_limit_per_minute: number;
  /** `BOOTSTRAP_ADMIN_TOKEN`, at least 32 bytes; undefined: there is no bootstrap. */
  readonly bootstrap_token?: string | undefined;
  /** Called after each commit with its action (`application.create`, …). */
  readonly onChange?: (action: string) => void;
};

/** What the verbs stand on. */
export type Parts = {
  readonly db: Database;
  readonly change: Change;
  readonly compiler: PolicyCompiler;
  readonly rehearsal: Rehearsal;
  readonly templates: () => Promise<readonly PolicyTemplate[]>;
  readonly log: Log;
  readonly kek: Keyring;
  readonly egress: Egress;
  readonly key_delay_s: number;
  readonly rate_limit_per_minute: number;
  /** SHA-256 of the bootstrap token, where there is one. */
  readonly bootstrap_hash: string | undefined;
};
