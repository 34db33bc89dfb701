import type { Revocations } from "../domain/revocation.ts";
import type { AuditWriter } from "../domain/audit-event.ts";
import type { Log } from "../kernel/log.ts";
import { pipeline } from "../kernel/pipeline.ts";
import type { RateLimit } from "../ports/rate-limit.ts";
import type { ClientAssertions } from "./known/client-assertions.ts";
import type { ClientSecrets } from "./known/client-secrets.ts";
import type { Start } from "./facts.ts";
import type { PresentedTokens } from "../authority/presented-tokens.ts";
import type { Sessions } from "./known/sessions.ts";
import type { SigningKeys } from "./known/signing-keys.ts";
import type { Snapshots } from "./known/snapshots.ts";
import type { Delegations } from "./known/delegations.ts";
import { actorSession, actorSessionActive, actorToken, actorTokenUse } from "./steps/actor-token.ts";
import { agentSession, agentSessionActive, authorityKept, inheritedAuthority } from "./steps/agent-session.ts";
import { call } from "./steps/call.ts";
import { mandateClaims, tokenSize } from "./steps/claims.ts";
import { client } from "./steps/client.ts";
import { delegation, delegationHolds, resourceDelegated } from "./steps/delegation.ts";
import { exchangeFields, supportedFields } from "./steps/fields.ts";
import { ledger } from "./steps/ledger.ts";
import { mandateLifetime } from "./steps/lifetime.ts";
import { exchangePolicy, policyAllows, type PolicyPorts } from "./steps/policy.ts";
import { rateLimit } from "./steps/rate-limit.ts";
import { oneResource } from "./steps/resource-count.ts";
import { resource, resourceInTarget, withoutProvider } from "./steps/resource.ts";
import { exchangeScope } from "./steps/scope.ts";
import { session, sessionActive, sessionMatches } from "./steps/session.ts";
import { sign } from "./steps/sign.ts";
import { signingKey } from "./steps/signing-key.ts";
import { spend, type SpendPorts } from "./steps/spend.ts";
import { stepUpAnswer, type StepUpPorts } from "./steps/step-up-answer.ts";
import { stepUpBound } from "./steps/step-up-bound.ts";
import { stepUpChallenge } from "./steps/step-up-challenge.ts";
import { stepUpFields } from "./steps/step-up-fields.ts";
import { subjectToken, subjectTokenClient, subjectTokenUse } from "./steps/subject-token.ts";
import { zone } from "./steps/zone.ts";

/** What both pipelines are made with. */
export type PipelinePorts = {
  readonly snapshots: Snapshots;
  readonly secrets: ClientSecrets;
  readonly assertions: ClientAssertions;
  readonly tokens: PresentedTokens;
  readonly limits: RateLimit;
  readonly rate_limit_per_minute: number;
  readonly sessions: Sessions;
  readonly revocations: Revocations;
  readonly delegations: Delegations;
  readonly policy: PolicyPorts;
  readonly step_up: StepUpPorts;
  readonly spend: SpendPorts;
  readonly keys: SigningKeys;
  readonly audit: AuditWriter;
  readonly issuer_url: string;
  /** `GATEWAY_PUBLIC_URL`; undefined: resources have no URL there. */
  readonly gateway_url: string | undefined;
  readonly onSignature: () => void;
  readonly log: Log;
};

/**
 * An ambient token and one resource → a mandate for one call. On a warm zone, session and path: no SQL, two round trips. Only a
 * challenge, asked for or answered, and a budget need the database.
 */
export const exchange = (ports: PipelinePorts) =>
  pipeline<Start>()
    .load(zone(ports.snapshots))
    .load(client(ports.snapshots, ports, ports.tokens))
    .load(rateLimit(ports.limits, ports.rate_limit_per_minute))
    .check(supportedFields)
    .check(exchangeFields)
    .check(stepUpFields)
    .check(call)
    .check(oneResource)
    .load(mandateLifetime)
    .load(subjectToken(ports.snapshots, ports.tokens))
    .check(subjectTokenUse)
    .check(subjectTokenClient)
    .load(session(ports.sessions))
    .check(sessionActive)
    .check(sessionMatches)
    .check(authorityKept)
    .load(actorToken(ports.snapshots, ports.tokens))
    .check(actorTokenUse)
    .load(actorSession(ports.sessions))
    .check(actorSessionActive)
    .load(stepUpAnswer(ports.step_up))
    .load(inheritedAuthority)
    .load(agentSession(ports.delegations))
    .check(agentSessionActive)
    .load(delegation(ports.delegations, ports.snapshots))
    .check(delegationHolds)
    .load(resource(ports.snapshots, ports.gateway_url))
    .check(resourceInTarget)
    .check(withoutProvider)
    .check(resourceDelegated)
    .load(exchangeScope)
    .check(stepUpBound)
    .load(exchangePolicy(ports.policy))
    .check(policyAllows)
    .denied("step_up_required", stepUpChallenge(ports.step_up))
    .load(mandateClaims(ports.issuer_url))
    .check(tokenSize)
    .load(signingKey(ports.keys, ports.log))
    .commit(spend(ports.spend))
    .commit(sign(ports.onSignature))
    .commit(ledger(ports.audit, ports.log, "token.exchange"))
    .seal();
