import type { ConfigKind, Invalidation, OutboxStream } from "../contracts/streams.ts";
import { STREAMS } from "../contracts/streams.ts";
import type { RevocationEvent } from "../domain/revocation.ts";
import { type Database, isConflict, type Transaction } from "../ports/database.ts";
import { enqueueInvalidation, enqueueRevocation, type OutboxRow } from "../broadcast/outbox-store.ts";
import type { Caller } from "./caller.ts";
import { conflictOf, tokenUnusable } from "./faults.ts";
import { onceOnly } from "./idempotency.ts";
import { insertAdminAudit } from "./store/admin-audit.ts";
import { holdAdminToken } from "./store/admin-tokens.ts";

/** What was changed, for the admin audit. `detail` must hold no secret. */
export type Entry = {
  readonly action: `${string}.${string}`;
  /** null: it concerns no zone, or all of them. */
  readonly zone_id: string | null;
  readonly object_id: string;
  readonly detail?: Readonly<Record<string, unknown>>;
};

/** A message to caches, and the stream that it goes on. */
export type Announcement = { readonly stream: Exclude<OutboxStream, typeof STREAMS.revoke> } & Invalidation;

/** What a change's transaction leaves behind. Without an `entry` nothing was changed, and nothing may follow. */
export type Changed<T> =
  | { readonly result: T; readonly entry?: undefined }
  | {
      readonly result: T;
      readonly entry: Entry;
      readonly revoked?: readonly RevocationEvent[];
      readonly announce?: readonly Announcement[];
    };

export type Change = <T>(caller: Caller, run: (tx: Transaction) => Promise<Changed<T>>) => Promise<T>;

/** A change of this object, told to those who cache it. */
export const configChanged = (kind: ConfigKind, zone_id: string, id: string): Announcement => ({
  stream: STREAMS.config,
  zone_id,
  kind,
  id,
});

/** How often a change is made again that the database rolled back because two got in each other's way. */
const RETRIES = 2;

type Committed<T> = { readonly changed: Changed<T>; readonly rows: readonly OutboxRow[] };

const transact = async <T>(
  db: Database,
  caller: Caller,
  run: (tx: Transaction) => Promise<Changed<T>>,
): Promise<Committed<T>> => {
  let changed: Changed<T> | undefined;
  const rows: OutboxRow[] = [];
  await db.sql.begin(async (tx) => {
    // Admitted before this transaction began, and perhaps revoked since: what a revoked token makes would outlive it.
    if (caller.admin_token_id !== undefined && !(await holdAdminToken(tx, caller.admin_token_id)))
      throw tokenUnusable();
    changed = await onceOnly(tx, caller, run);
    if (changed.entry === undefined) return;
    await insertAdminAudit(tx, caller, changed.entry);
    for (const event of changed.revoked ?? []) rows.push(await enqueueRevocation(tx, event));
    for (const { stream, ...message } of changed.announce ?? []) {
      rows.push(await enqueueInvalidation(tx, stream, message));
    }
  });
  if (changed === undefined) throw new Error("a transaction ended without having run");
  return { changed, rows };
};

/**
 * The only way to write: the change, its row in the admin audit and its messages are one transaction, and the dispatcher
 * is woken behind the commit, with what was committed. Numbers are taken last, because their row stays locked until the
 * commit, and revocations before invalidations in every transaction, so that no two wait for each other.
 * Crash before the commit: nothing happened. Crash behind it: the messages are in the outbox, and the next poll sends them.
 */
export const createChange =
  (db: Database, wake: (rows: readonly OutboxRow[]) => void, onChange: (action: string) => void): Change =>
  async <Result>(caller: Caller, run: (tx: Transaction) => Promise<Changed<Result>>): Promise<Result> => {
    const attempt = async (left: number): ReturnType<typeof transact<Result>> => {
      try {
        return await transact(db, caller, run);
      } catch (error) {
        if (left > 0 && isConflict(error)) return attempt(left - 1); // it was rolled back whole
        throw conflictOf(error);
      }
    };
    const { changed, rows } = await attempt(RETRIES);
    if (changed.entry !== undefined) {
      onChange(changed.entry.action);
      wake(rows);
    }
    return changed.result;
  };
