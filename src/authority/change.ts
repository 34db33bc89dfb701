import type { ConfigKind, Invalidation, OutboxStream } from "../contracts/streams.ts";
import { STREAMS } from "../contracts/streams.ts";
import type { RevocationEvent } from "../domain/revocation.ts";
import { type Database, isConflict, type Transaction } from "../ports/database.ts";
import { enqueueInvalidation, enqueueRevocation, type OutboxRow } from "../broadcast/outbox-store.ts";
import { type Author, type Entry, insertAdminAudit } from "./admin-audit.ts";

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

type Run<T> = (tx: Transaction) => Promise<Changed<T>>;

export type Change<Caller extends Author> = <T>(caller: Caller, run: Run<T>) => Promise<T>;

export type ChangeOptions<Caller extends Author> = {
  readonly db: Database;
  /** Called after each commit that left messages in the outbox, with them. */
  readonly wake: (rows: readonly OutboxRow[]) => void;
  /** Called after each commit with its action (`application.create`, …). */
  readonly onChange: (action: string) => void;
  /** Around the change, in its transaction: whether its caller may still make it, and has not made it already. */
  readonly within: <T>(tx: Transaction, caller: Caller, run: Run<T>) => Promise<Changed<T>>;
  /** What an error of the database is answered with; the error itself where it stands for nothing else. */
  readonly conflictOf: (error: unknown) => unknown;
};

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

const transact = async <T, Caller extends Author>(
  { db, within }: ChangeOptions<Caller>,
  caller: Caller,
  run: Run<T>,
): Promise<Committed<T>> => {
  let changed: Changed<T> | undefined;
  const rows: OutboxRow[] = [];
  await db.sql.begin(async (tx) => {
    changed = await within(tx, caller, run);
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
 * How a change is written: it, its row in the admin audit and its messages are one transaction. The dispatcher is woken after
 * the commit, with what was committed. Numbers are taken last, because their row stays locked until the
 * commit, and revocations before invalidations in every transaction, so that no two wait for each other.
 * Crash before the commit: nothing happened. Crash after it: the messages are in the outbox, and the next poll sends them.
 */
export const createChange = <Caller extends Author>(options: ChangeOptions<Caller>): Change<Caller> => {
  const attempt = async <T>(caller: Caller, run: Run<T>, left: number): Promise<Committed<T>> => {
    try {
      return await transact(options, caller, run);
    } catch (error) {
      if (left > 0 && isConflict(error)) return attempt(caller, run, left - 1); // it was rolled back whole
      throw options.conflictOf(error);
    }
  };
  return async (caller, run) => {
    const { changed, rows } = await attempt(caller, run, RETRIES);
    if (changed.entry !== undefined) {
      options.onChange(changed.entry.action);
      options.wake(rows);
    }
    return changed.result;
  };
};
