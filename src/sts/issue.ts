import { pipeline } from "../kernel/pipeline.ts";
import type { Database } from "../ports/database.ts";
import type { PipelinePorts } from "./exchange.ts";
import type { Start } from "./facts.ts";
import { agentSession, agentSessionActive, namedAuthority } from "./steps/agent-session.ts";
import { ambientClaims, tokenSize } from "./steps/claims.ts";
import { client } from "./steps/client.ts";
import { delegation, delegationHolds, resourceDelegated } from "./steps/delegation.ts";
import { issueFields, supportedFields } from "./steps/fields.ts";
import { ledger } from "./steps/ledger.ts";
import { ambientLifetime } from "./steps/lifetime.ts";
import { issuePolicy, policyAllowsSome } from "./steps/policy.ts";
import { rateLimit } from "./steps/rate-limit.ts";
import { someResources } from "./steps/resource-count.ts";
import { resources } from "./steps/resource.ts";
import { issueScope, scopeLeft } from "./steps/scope.ts";
import { sign } from "./steps/sign.ts";
import { signingKey } from "./steps/signing-key.ts";
import { noStepUpFields } from "./steps/step-up-fields.ts";
import { writeSession } from "./steps/write-session.ts";
import { zone } from "./steps/zone.ts";

/** A client's secret → an ambient token and the session that it stands for: one INSERT. */
export const issue = (ports: PipelinePorts & { readonly db: Database }) =>
  pipeline<Start>()
    .load(zone(ports.snapshots))
    .load(client(ports.snapshots, ports, ports.tokens))
    .load(rateLimit(ports.limits, ports.rate_limit_per_minute))
    .check(supportedFields)
    .check(issueFields)
    .check(noStepUpFields)
    .check(someResources)
    .load(ambientLifetime)
    .load(namedAuthority)
    .load(agentSession(ports.delegations))
    .check(agentSessionActive)
    .load(delegation(ports.delegations, ports.snapshots))
    .check(delegationHolds)
    .load(resources(ports.snapshots, ports.gateway_url))
    .check(resourceDelegated)
    .load(issueScope)
    .load(issuePolicy(ports.policy))
    .load(policyAllowsSome)
    .check(scopeLeft)
    .load(ambientClaims(ports.issuer_url))
    .check(tokenSize)
    .load(signingKey(ports.keys, ports.log))
    .commit(writeSession(ports.db, ports.sessions, ports.log))
    .commit(sign(ports.onSignature))
    .commit(ledger(ports.audit, ports.log, "token.issue"))
    .seal();
