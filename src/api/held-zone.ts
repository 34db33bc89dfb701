import type { Transaction } from "../ports/database.ts";
import { missing } from "./faults.ts";
import { holdThing } from "./store/things.ts";

/** 404 where the zone is not live; else it stays live until the commit. First in every transaction that makes something. */
export const requireHeldZone = async (tx: Transaction, zone_id: string): Promise<void> => {
  if (!(await holdThing(tx, "zone", zone_id, zone_id))) throw missing("zone");
};
