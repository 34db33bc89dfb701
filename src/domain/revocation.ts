/** What can lose its authority at once. */
export const REVOCABLE_KINDS = ["session", "agent_session", "delegation_edge", "grant"] as const;
export type RevocableKind = (typeof REVOCABLE_KINDS)[number];

/** Something revoked. `expires_at`: seconds since the epoch from which no token of it can live (leeway included). */
export type RevocationMark = { readonly kind: RevocableKind; readonly id: string; readonly expires_at: number };

/** One message of `caracal.sessions.revoke`. `resume` takes a mark back. */
export type RevocationEvent = RevocationMark & { readonly op: "revoke" | "resume"; readonly zone_id: string };

/** Whether a token's authority is gone, and by what. Synchronous: asked for each call and every 4 KiB of each answer. */
export type Revocations = {
  revoked(zone_id: string, kind: RevocableKind, id: string): boolean;
  /**
   * Milliseconds since the last signed head that matched what was read (a snapshot of the database, counted from when it
   * was asked for, is worth one); Infinity before the first.
   */
  age_ms(): number;
  /** Marks still enforced. */
  readonly size: number;
  /** Calls `changed` with each event as it is applied. Returns the function that ends it. */
  onEvent(changed: (event: RevocationEvent) => void): () => void;
  /** Calls `changed` when the whole state was replaced by a snapshot. Returns the function that ends it. */
  onSnapshot(changed: () => void): () => void;
};
