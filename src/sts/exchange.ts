import type { AuditWriter } from "../domain/audit-event.ts";
import type { Log } from "../kernel/log.ts";
import { pipeline } from "../kernel/pipeline.ts";
import type { RateLimit } from "../ports/rate-limit.ts";
import type { ClientSecrets } from "./known/client-secrets.ts";
import type { Start } from "./facts.ts";
import type { PresentedTokens } from "../authority/presented-tokens.ts";
import type { Sessions } from "./known/sessions.ts";
import type { SigningKeys } from "./known/signing-keys.ts";
import type { Snapshots } from "./known/snapshots.ts";
import { call } from "./steps/call.ts";
import { mandateClaims, tokenSize } from "./steps/claims.ts";
import { client } from "./steps/client.ts";
import { exchangeFields, supportedFields } from "./steps/fields.ts";
import { ledger } from "./steps/ledger.ts";
import { mandateLifetime } from "./steps/lifetime.ts";
import { exchangePolicy, policyAllows, type PolicyPorts } from "./steps/policy.ts";
import { rateLimit } from "./steps/rate-limit.ts";
import { oneResource } from "./steps/resource-count.ts";
import { resource, resourceInTarget } from "./steps/resource.ts";
import { exchangeScope } from "./steps/scope.ts";
import { session, sessionActive, sessionMatches } from "./steps/session.ts";
import { sign } from "./steps/sign.ts";
import { signingKey } from "./steps/signing-key.ts";
import { stepUpAnswer, type StepUpPorts } from "./steps/step-up-answer.ts";
import { stepUpBound } from "./steps/step-up-bound.ts";
import { stepUpChallenge } from "./steps/step-up-challenge.ts";
import { stepUpConsumed } from "./steps/step-up-consumed.ts";
import { stepUpFields } from "./steps/step-up-fields.ts";
import { subjectToken, subjectTokenClient, subjectTokenUse } from "./steps/subject-token.ts";
import { zone } from "./steps/zone.ts";

/** What both pipelines are made with. */
export type PipelinePorts = {
  readonly snapshots: Snapshots;
  readonly secrets: ClientSecrets;
  readonly tokens: PresentedTokens;
  readonly limits: RateLimit;
  readonly rate_limit_per_minute: number;
  readonly sessions: Sessions;
  readonly policy: PolicyPorts;
  readonly step_up: StepUpPorts;
  readonly keys: SigningKeys;
  readonly audit: AuditWriter;
  readonly issuer_url: string;
  readonly onSignature: () => void;
  readonly log: Log;
};

/**
 * An ambient token and one resource → a mandate for one call. On a warm zone and session: no SQL, two round trips; only a
 * challenge, asked for or answered, needs the database.
 */
export const exchange = (ports: PipelinePorts) =>
  pipeline<Start>()
    .load(zone(ports.snapshots))
    .load(client(ports.snapshots, ports.secrets, ports.tokens))
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
    .load(stepUpAnswer(ports.step_up))
    .load(resource(ports.snapshots))
    .check(resourceInTarget)
    .load(exchangeScope)
    .check(stepUpBound)
    .load(exchangePolicy(ports.policy))
    .check(policyAllows)
    .denied("step_up_required", stepUpChallenge(ports.step_up))
    .load(mandateClaims(ports.issuer_url))
    .check(tokenSize)
    .load(signingKey(ports.keys, ports.log))
    .commit(stepUpConsumed(ports.step_up))
    .commit(sign(ports.onSignature))
    .commit(ledger(ports.audit, ports.log, "token.exchange"))
    .seal();
