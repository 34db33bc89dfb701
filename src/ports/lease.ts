import type { Transaction } from "./database.ts";

/** Held by one process at a time. `fence` grows with every new holder. */
export type Held = { readonly name: string; readonly owner: string; readonly fence: number };

/** Rows in the database, by the database's clock, so that a leader that was stopped for a while can't believe it still is. */
export type Lease = {
  /** Takes or renews; undefined while another holds it. */
  acquire(name: string, ttl_ms: number): Promise<Held | undefined>;
  /** Inside a transaction: locks the lease's row and throws `LeaseLost` where it is not ours any more. */
  hold(tx: Transaction, held: Held): Promise<void>;
  release(held: Held): Promise<void>;
};

export class LeaseLost extends Error {
  constructor(name: string) {
    super(`the lease ${name} is held by another process`);
    this.name = "LeaseLost";
  }
}
