import { pipeline } from "../kernel/pipeline.ts";
import type { PipelinePorts } from "./exchange.ts";
import type { Start } from "./facts.ts";
import { client } from "./steps/client.ts";
import { rateLimit } from "./steps/rate-limit.ts";
import { nothingRevoked, session, sessionActive, sessionMatches } from "./steps/session.ts";
import { subjectToken, subjectTokenUse } from "./steps/subject-token.ts";
import { zone } from "./steps/zone.ts";

/**
 * Who asks about a challenge: an application, by its ambient token alone. The rate limit comes after the token was verified, so that
 * nobody spends the calls of an application by naming it.
 */
export const challengeReader = (ports: PipelinePorts) =>
  pipeline<Start>()
    .load(zone(ports.snapshots))
    .load(client(ports.snapshots, ports, ports.tokens))
    .load(subjectToken(ports.snapshots, ports.tokens))
    .check(subjectTokenUse)
    .load(session(ports.sessions))
    .check(sessionActive)
    .check(sessionMatches)
    .check(nothingRevoked(ports.revocations))
    .load(rateLimit(ports.limits, ports.rate_limit_per_minute))
    .seal();
