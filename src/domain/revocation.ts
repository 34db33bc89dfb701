/** What can lose its authority at once. */
export const REVOCABLE_KINDS = ["session", "agent_session", "delegation_edge", "grant"] as const;
export type RevocableKind = (typeof REVOCABLE_KINDS)[number];

/** One agent session that authority came through, and the edge by which it received it; the root received none. */
export type DelegationLink = {
  readonly application_id: string;
  readonly agent_session_id: string;
  readonly delegation_edge_id?: string | undefined;
};

/** Who acts for the subject, by session, and who acted before it. */
export type ActingSession = { readonly sid?: string | undefined; readonly act?: ActingSession | undefined };

/** The ids under which what a token allows can be ended, by the names of its claims. */
export type AuthorityIds = {
  readonly sid: string;
  readonly agent_session_id?: string | undefined;
  readonly delegation_edge_id?: string | undefined;
  readonly grant_id?: string | undefined;
  /** From the root on: whatever is revoked on the way ends what came through it. */
  readonly delegation_chain?: readonly DelegationLink[] | undefined;
  readonly act?: ActingSession | undefined;
};

const CLAIM_OF = {
  session: "sid",
  agent_session: "agent_session_id",
  delegation_edge: "delegation_edge_id",
  grant: "grant_id",
} as const satisfies Readonly<Record<RevocableKind, keyof AuthorityIds>>;

const NO_LINKS: readonly DelegationLink[] = [];

/** Every id that an authority depends on, each once: the session's first. */
export const idsOf = (authority: AuthorityIds): readonly string[] => {
  const ids: string[] = [];
  const add = (id: string | undefined): void => {
    if (id !== undefined && !ids.includes(id)) ids.push(id);
  };
  add(authority.sid);
  add(authority.agent_session_id);
  add(authority.delegation_edge_id);
  add(authority.grant_id);
  for (const link of authority.delegation_chain ?? NO_LINKS) {
    add(link.agent_session_id);
    add(link.delegation_edge_id);
  }
  for (let actor = authority.act; actor !== undefined; actor = actor.act) add(actor.sid);
  return ids;
};

type State = Pick<Revocations, "revoked">;

/** By what a chain was broken; undefined while it holds. */
export const chainRevokedBy = (
  revocations: State,
  zone_id: string,
  chain: readonly DelegationLink[],
): RevocableKind | undefined => {
  for (const { agent_session_id, delegation_edge_id } of chain) {
    if (revocations.revoked(zone_id, "agent_session", agent_session_id)) return "agent_session";
    if (delegation_edge_id !== undefined && revocations.revoked(zone_id, "delegation_edge", delegation_edge_id))
      return "delegation_edge";
  }
  return undefined;
};

/** By what an authority was taken; undefined while it holds. */
export const revokedBy = (revocations: State, zone_id: string, authority: AuthorityIds): RevocableKind | undefined => {
  for (const kind of REVOCABLE_KINDS) {
    const id = authority[CLAIM_OF[kind]];
    if (id !== undefined && revocations.revoked(zone_id, kind, id)) return kind;
  }
  for (let actor = authority.act; actor !== undefined; actor = actor.act) {
    if (actor.sid !== undefined && revocations.revoked(zone_id, "session", actor.sid)) return "session";
  }
  return chainRevokedBy(revocations, zone_id, authority.delegation_chain ?? NO_LINKS);
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
