import type { PresentedToken } from "../authority/presented-tokens.ts";
import type { AuthorityIds } from "../domain/revocation.ts";
import type { Claims } from "../domain/token.ts";
import type { Share } from "../kernel/shares.ts";
import type { Binding } from "./known/bindings.ts";
import type { Inbound } from "./edge/inbound.ts";

/** Whether the caller is still there. */
export type Client = {
  gone(): boolean;
  /** Tells `watcher`, in place of the one before it; `undefined` takes that back. */
  whenClosed(watcher: Watcher | undefined): void;
  /** Gives the place back once the caller's answer is closed, at once where it is. A call may hold several. */
  hold(share: Share): void;
};

/** `closed`: called once. The client went away, or, where an answer has begun, it was sent as a whole. */
export type Watcher = { closed(): void };

/** What a decision begins with. `now_ms`: since the epoch. */
export type Start = { readonly inbound: Inbound; readonly client: Client; readonly now_ms: number };

/** The token as presented, before it is verified. */
export type Presented = {
  readonly token: string;
  readonly presented: PresentedToken;
  /** A key into the known zones, and nothing else. */
  readonly token_zone_id: string;
  /** Seconds since the epoch, as the token says. */
  readonly exp: number;
};

/**
 * Which resource the request names: by its identifier (header), or by zone and id (path form). `prefix`: what the Gateway
 * adds in front of the path on its side. `path`: what goes on. `query`: with its `?`.
 */
export type Route = {
  readonly identifier: string | undefined;
  readonly by_path: { readonly zone_id: string; readonly resource_id: string } | undefined;
  readonly prefix: string;
  readonly path: string;
  readonly query: string;
};

/** Who runs and by whose authority, as the request's headers say; what a token carries has the word. */
export type NamedAuthority = {
  readonly agent_session_id: string | undefined;
  readonly delegation_edge_id: string | undefined;
};

/** What the revocation state says at one moment. */
export type Authority = { readonly revoked_by: string | undefined; readonly revocation_age_ms: number };

/** What a call shows its upstream in place of the caller's token. Each kind is a member, and a row in `edge/outbound.ts`. */
export type Credential = { readonly kind: "mandate"; readonly token: string };

/** What goes to the upstream, and for how long. `auth_exp`: seconds since the epoch; a stream ends there. */
export type Passage = {
  /** The ids under which the running call can be cut: the mandate's own. */
  readonly cut_by: AuthorityIds;
  readonly credential: Credential;
  readonly upstream: URL;
  readonly auth_exp: number | undefined;
  /** The ledger event that allowed the call, where the STS made one. */
  readonly decision_id: string | undefined;
};

export type { Binding, Claims, Inbound };
