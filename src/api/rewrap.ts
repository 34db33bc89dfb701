import type { Keyring } from "../domain/keyring.ts";
import { seal, unseal } from "../domain/sealing.ts";
import type { Database } from "../ports/database.ts";
import { systemCaller } from "./caller.ts";
import { createChange } from "./change.ts";
import {
  countSealedUnderOthers,
  listSealedUnderOthers,
  replaceSealed,
  SEALED_COLUMNS,
  type SealedColumn,
  type SealedValue,
} from "./store/sealed-values.ts";

/** Rows of one transaction: their locks are held for some milliseconds. */
const BATCH = 200;

/** `moved` and `left` count values; `faults` say which do not open, and why. */
export type Rewrapped = { readonly moved: number; readonly left: number; readonly faults: readonly string[] };
export type RewrapProgress = {
  readonly table: string;
  readonly column: string;
  readonly done: number;
  readonly of: number;
};

const MAX_FAULTS = 20;

/** The value under the ring's current key; undefined where it does not open. */
const sealedAnew = (
  ring: Keyring,
  { table, column }: SealedColumn,
  value: SealedValue,
  fault: (text: string) => void,
): string | undefined => {
  const at = { table, zone_id: value.zone_id, row: value.row, column };
  try {
    const plain = unseal(ring, at, value.sealed);
    try {
      return seal(ring, at, plain);
    } finally {
      plain.fill(0);
    }
  } catch (error) {
    fault(`zone ${value.zone_id} row ${value.row}: ${error instanceof Error ? error.message : "does not open"}`);
    return undefined;
  }
};

/**
 * Moves every sealed value to the ring's current key, while everything runs: for who holds database and KEK. A batch is a
 * transaction with its row in the admin audit. Each value names its key, so the next run goes on where one was
 * killed. What does not open is left as it is and named.
 */
export const rewrapSealed = async (
  db: Database,
  ring: Keyring,
  tell: (progress: RewrapProgress) => void,
): Promise<Rewrapped> => {
  const change = createChange(
    db,
    () => {}, // the plain text is the same: nothing follows from it
    () => {},
  );
  const caller = systemCaller("cli");
  const key_id = ring.current.id;
  const faults: string[] = [];
  let moved_in_all = 0;
  const fault = (text: string): void => {
    if (faults.length < MAX_FAULTS) faults.push(text);
  };
  for (const place of SEALED_COLUMNS) {
    const { table, column } = place;
    const of = await countSealedUnderOthers(db.sql, place, key_id);
    let done = 0;
    for (let last: SealedValue | undefined; ;) {
      const values = await listSealedUnderOthers(db.sql, place, key_id, last, BATCH);
      if (values.length === 0) break;
      const anew = values.flatMap((value) => {
        const sealed = sealedAnew(ring, place, value, fault);
        return sealed === undefined ? [] : [{ value, sealed }];
      });
      const moved = await change(caller, async (tx) => {
        let replaced = 0;
        for (const { value, sealed } of anew) if (await replaceSealed(tx, place, value, sealed)) replaced += 1;
        if (replaced === 0) return { result: 0 };
        const detail = { table, column, values: replaced };
        return { result: replaced, entry: { action: "zone_kek.rewrap", zone_id: null, object_id: key_id, detail } };
      });
      moved_in_all += moved;
      done += values.length;
      last = values.at(-1);
      tell({ table, column, done, of: Math.max(of, done) });
    }
  }
  // A replica that still seals under the former key writes on meanwhile.
  const others = await Promise.all(SEALED_COLUMNS.map((place) => countSealedUnderOthers(db.sql, place, key_id)));
  return { moved: moved_in_all, left: others.reduce((sum, one) => sum + one, 0), faults };
};
