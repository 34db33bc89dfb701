/** What can lose its authority at once. */
export const REVOCABLE_KINDS = ["session", "agent_session", "delegation_edge", "grant"] as const;
export type RevocableKind = (typeof REVOCABLE_KINDS)[number];

/** The ids under which what a token allows can be ended, by the names of its claims: one for each kind. */
export type AuthorityIds = {
  readonly sid: string;
  readonly agent_session_id?: string | undefined;
  readonly delegation_edge_id?: string | undefined;
  readonly grant_id?: string | undefined;
};

const CLAIM_OF = {
  session: "sid",
  agent_session: "agent_session_id",
  delegation_edge: "delegation_edge_id",
  grant: "grant_id",
} as const satisfies Readonly<Record<RevocableKind, keyof AuthorityIds>>;

export const AUTHORITY_CLAIMS: readonly (keyof AuthorityIds)[] = Object.values(CLAIM_OF);

/** By what an authority was taken; undefined while it holds. */
export const revokedBy = (
  revocations: Pick<Revocations, "revoked">,
  zone_id: string,
  authority: AuthorityIds,
): RevocableKind | undefined => {
  for (const kind of REVOCABLE_KINDS) {
    const id = authority[CLAIM_OF[kind]];
    if (id !== undefined && revocations.revoked(zone_id, kind, id)) return kind;
  }
  return undefined;
};

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
