import { type Change as ChangeOf, createChange as changeOf } from "../authority/change.ts";
import type { OutboxRow } from "../broadcast/outbox-store.ts";
import type { Database } from "../ports/database.ts";
import type { Caller } from "./caller.ts";
import { conflictOf, tokenUnusable } from "./faults.ts";
import { onceOnly } from "./idempotency.ts";
import { holdAdminToken } from "./store/admin-tokens.ts";

export type Change = ChangeOf<Caller>;

/** A change as the control plane makes it: while its caller's admin token holds, and once for each `Idempotency-Key`. */
export const createChange = (
  db: Database,
  wake: (rows: readonly OutboxRow[]) => void,
  onChange: (action: string) => void,
): Change =>
  changeOf<Caller>({
    db,
    wake,
    onChange,
    conflictOf,
    within: async (tx, caller, run) => {
      // Admitted before this transaction began, and perhaps revoked since: what a revoked token makes would outlive it.
      if (caller.admin_token_id !== undefined && !(await holdAdminToken(tx, caller.admin_token_id)))
        throw tokenUnusable();
      return onceOnly(tx, caller, run);
    },
  });
