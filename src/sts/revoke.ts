import type { Author } from "../authority/admin-audit.ts";
import type { Change } from "../authority/change.ts";
import { pipeline } from "../kernel/pipeline.ts";
import type { PipelinePorts } from "./exchange.ts";
import type { InquiryStart } from "./inquiry.ts";
import { client } from "./steps/client.ts";
import { endSession } from "./steps/end-session.ts";
import { tokenOwn, tokenSent } from "./steps/inquiry.ts";
import { rateLimit } from "./steps/rate-limit.ts";
import { subjectToken } from "./steps/subject-token.ts";
import { zone } from "./steps/zone.ts";

/** A token of the caller's → its session is over, and with it all that was made from it (RFC 7009, 2.1). */
export const revoke = (ports: PipelinePorts & { readonly change: Change<Author> }) =>
  pipeline<InquiryStart>()
    .load(zone(ports.snapshots))
    .load(client(ports.snapshots, ports, ports.tokens))
    .load(rateLimit(ports.limits, ports.rate_limit_per_minute))
    .check(tokenSent)
    .load(subjectToken(ports.snapshots, ports.tokens))
    .check(tokenOwn)
    .commit(endSession(ports.change, ports.sessions, ports.log))
    .seal();
