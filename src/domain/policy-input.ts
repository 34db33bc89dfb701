/**
 * The longest path that a policy is asked about, and the longest input, in bytes of UTF-8. The caller chooses the path:
 * without a limit it could make any policy run out of steps, and have the version quarantined for its whole zone.
 */
export const MAX_POLICY_PATH_BYTES = 4096;
export const MAX_POLICY_INPUT_BYTES = 64 * 1024;

/** How the principal proved who it is. `ambient_token`: it presented its token at the Gateway, which asks for it. */
export type CredentialType = "client_secret" | "private_key_jwt" | "workload" | "ambient_token";
export type Weekday = "Sunday" | "Monday" | "Tuesday" | "Wednesday" | "Thursday" | "Friday" | "Saturday";

/** The edge through which authority was received. */
export type PolicyDelegationEdge = {
  readonly id: string;
  readonly source_session_id: string;
  readonly target_session_id: string;
  readonly issuer_application_id: string;
  readonly receiver_application_id: string;
  readonly resource_id: string | null;
  readonly scopes: readonly string[];
  readonly edge_version: number;
  /** The ids of the edges from the root to this one. */
  readonly path: readonly string[];
  readonly graph_epoch: number;
  readonly constraints_json: unknown;
};

/** The document that a policy sees as `input`. It holds no token and no secret, because the ledger keeps it. */
export type PolicyInput = {
  readonly principal: {
    readonly type: "Application";
    readonly id: string;
    readonly zone_id: string;
    readonly credential_type: CredentialType;
    readonly traits: readonly string[];
    readonly agent_session_id: string | null;
  };
  readonly resource: {
    readonly type: "Resource";
    readonly id: string;
    readonly identifier: string;
    /** All that the resource has; what is asked for is `context.requested_scopes`. */
    readonly scopes: readonly string[];
  };
  /** `method` and `path` as the Gateway saw them; absent where the exchange is for no call. */
  readonly action: {
    readonly id: "TokenExchange";
    readonly use: "ambient" | "per_call";
    readonly method?: string;
    readonly path?: string;
  };
  readonly session: { readonly id: string } | null;
  readonly delegation_edge: PolicyDelegationEdge | null;
  readonly context: {
    readonly actor_claims: object | null;
    readonly subject_claims: object | null;
    readonly trace_id: string | null;
    readonly session_id: string | null;
    readonly agent_session_id: string | null;
    readonly delegation_edge_id: string | null;
    readonly challenge_resolved: boolean;
    readonly requested_scopes: readonly string[];
    /** RFC 3339 in UTC. */
    readonly now: string;
    /** UTC; `weekday` is the English name, as Rego's own `time.weekday` says it. */
    readonly time: {
      readonly unix_s: number;
      readonly weekday: Weekday;
      readonly hour: number;
      readonly minute: number;
    };
  };
};

/** The facts that an input is built from. What is absent is null in the input. */
export type PolicyFacts = {
  readonly zone_id: string;
  readonly application: { readonly id: string; readonly traits: readonly string[] };
  readonly credential_type: CredentialType;
  readonly resource: { readonly id: string; readonly identifier: string; readonly scopes: readonly string[] };
  readonly use: "ambient" | "per_call";
  readonly requested_scopes: readonly string[];
  /** Milliseconds since the epoch. */
  readonly now_ms: number;
  readonly method?: string | undefined;
  readonly path?: string | undefined;
  readonly session_id?: string | undefined;
  readonly agent_session_id?: string | undefined;
  readonly delegation_edge?: PolicyDelegationEdge | undefined;
  /** Verified claims, never the token. */
  readonly subject_claims?: object | undefined;
  readonly actor_claims?: object | undefined;
  readonly trace_id?: string | undefined;
  readonly challenge_resolved?: boolean | undefined;
};
