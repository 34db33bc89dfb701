import { uuidv7 } from "../kernel/ids.ts";
import type { Transaction } from "../ports/database.ts";

/** What was changed, for the admin audit. `detail` must hold no secret. */
export type Entry = {
  readonly action: `${string}.${string}`;
  /** null: it concerns no zone, or all of them. */
  readonly zone_id: string | null;
  readonly object_id: string;
  readonly detail?: Readonly<Record<string, unknown>>;
};

/** Who makes a change. `actor`: `admin_token:{id}`, `application:{id}`, `cli`, … */
export type Author = { readonly actor: string; readonly request_id: string };

/** The row of a change, in its transaction. */
export const insertAdminAudit = async (tx: Transaction, author: Author, entry: Entry): Promise<void> => {
  const kind = entry.action.split(".", 1)[0] ?? entry.action;
  await tx`
    insert into admin_audit (id, zone_id, actor, action, object_kind, object_id, request_id, detail_json)
    values (${uuidv7()}, ${entry.zone_id}, ${author.actor}, ${entry.action}, ${kind}, ${entry.object_id},
            ${author.request_id}, ${JSON.stringify(entry.detail ?? {})})`;
};
