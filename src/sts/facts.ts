import type { KeyObject } from "node:crypto";
import type { SetEvaluation } from "../domain/policy-evaluation.ts";
import type { CredentialType, PolicyFacts } from "../domain/policy-input.ts";
import type { DelegationPath } from "../domain/delegation.ts";
import type { PolicyVerdict } from "../domain/policy-verdict.ts";
import type { Claims } from "../domain/token.ts";
import type { PresentedToken } from "../authority/presented-tokens.ts";
import type { CallNonce } from "./edge/gateway-calls.ts";
import type { TokenRequest } from "./edge/request.ts";
import type { AgentSession } from "./known/delegations.ts";
import type { Session } from "./known/sessions.ts";
import type { Application, Resource, ZoneSnapshot } from "./known/snapshot.ts";

/** What a run begins with. Time is a fact: milliseconds since the epoch. */
export type Start = {
  readonly request: TokenRequest;
  readonly request_id: string;
  readonly trace_id: string | undefined;
  readonly now_ms: number;
};

/** One resource that was judged. `scopes`: those that policy was asked for, and that are granted where it allowed. */
export type Judged = {
  readonly resource: Resource;
  readonly scopes: readonly string[];
  /** What the input was made of. */
  readonly asked: PolicyFacts;
  readonly evaluation: SetEvaluation;
};

/** A challenge that somebody approved. `bound_sha256`: of the call that it is for. */
export type Approval = { readonly id: string; readonly bound_sha256: string };

/** Every fact that some step adds, by name: what the ledger may find in a run that ended anywhere. */
export type Facts = Start & {
  /** undefined: there is no such zone. Only the step `client` may look at it then. */
  readonly zone: ZoneSnapshot | undefined;
  /** The client that asks; through the Gateway, the application that the subject token was issued to. */
  readonly application: Application;
  readonly credential_type: CredentialType;
  readonly presented: PresentedToken | undefined;
  /** What this request was authenticated by is good once, which is still to be asked. */
  readonly single_use: CallNonce | undefined;
  /** Before the rate limit says no. */
  readonly calls_left: number;
  readonly ttl_s: number;
  readonly subject: Claims;
  readonly session: Session;
  /** Whether the revocation stream has a mark on it, asked after it was read. So are the marks below. */
  readonly session_marked: boolean;
  /** The challenge that the request answered, where it was approved. Whether it is for this call is another question. */
  readonly approval: Approval | undefined;
  /** Of the actor token, where one was sent. */
  readonly actor: Claims | undefined;
  readonly actor_session: Session | undefined;
  readonly actor_session_marked: boolean;
  /** As the subject or actor token carries them, or else as the request names them. */
  readonly agent_session_id: string | undefined;
  readonly delegation_edge_id: string | undefined;
  /** Who runs, where the request or its token says so. */
  readonly agent_session: AgentSession | undefined;
  readonly agent_session_marked: boolean;
  /** By whose authority, where it is not the application's own. */
  readonly delegation: DelegationPath | undefined;
  /** On an edge of it, or on an agent session that it leads through. */
  readonly delegation_marked: boolean;
  /** The application whose own scopes limit the token: the one that asks, or the one that the delegation began at. */
  readonly scope_owner: Application;
  readonly resource: Resource;
  readonly resources: readonly Resource[];
  /** The scopes that are asked for, within every limit but policy. */
  readonly scopes: readonly string[];
  readonly judged: readonly Judged[];
  /** A refusal of the set as a whole: none is active, or a member is missing. */
  readonly set_refusal: PolicyVerdict | undefined;
  readonly granted: readonly Judged[];
  readonly claims: Claims;
  /** The claims as JSON text: what is measured is what is signed. */
  readonly payload: string;
  readonly signer: { readonly kid: string; readonly key: KeyObject };
  readonly access_token: string;
  readonly decision_id: string;
};
