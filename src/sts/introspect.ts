import { pipeline } from "../kernel/pipeline.ts";
import type { PipelinePorts } from "./exchange.ts";
import type { InquiryStart } from "./inquiry.ts";
import { client } from "./steps/client.ts";
import { tokenAlive, tokenSent, tokenVisible } from "./steps/inquiry.ts";
import { rateLimit } from "./steps/rate-limit.ts";
import { nothingRevoked, session, sessionActive } from "./steps/session.ts";
import { subjectToken } from "./steps/subject-token.ts";
import { zone } from "./steps/zone.ts";

/** A token → whether it would be taken now, told to its own application and to the server that it is for (RFC 7662). */
export const introspect = (ports: PipelinePorts) =>
  pipeline<InquiryStart>()
    .load(zone(ports.snapshots))
    .load(client(ports.snapshots, ports, ports.tokens))
    .load(rateLimit(ports.limits, ports.rate_limit_per_minute))
    .check(tokenSent)
    .load(subjectToken(ports.snapshots, ports.tokens))
    .load(tokenVisible(ports.snapshots))
    .check(tokenAlive)
    .load(session(ports.sessions))
    .check(sessionActive)
    .check(nothingRevoked(ports.revocations))
    .seal();
