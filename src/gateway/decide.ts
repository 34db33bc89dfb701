import type { PresentedTokens } from "../authority/presented-tokens.ts";
import type { Revocations } from "../domain/revocation.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { pipeline, type ReasonOf } from "../kernel/pipeline.ts";
import type { Shares } from "../kernel/shares.ts";
import type { Egress, Upstreams } from "../ports/egress.ts";
import type { Marks } from "../ports/marks.ts";
import type { Sts } from "../ports/sts.ts";
import type { BindingTable } from "./known/bindings.ts";
import type { Start } from "./facts.ts";
import type { ZoneKeys } from "./known/keys.ts";
import type { Ledger } from "./ledger.ts";
import { bearer } from "./steps/bearer.ts";
import { bound } from "./steps/binding.ts";
import { boundCall } from "./steps/bound-call.ts";
import { exchange } from "./steps/exchange.ts";
import { notExpiring } from "./steps/expiry.ts";
import { notOurOwnMandate } from "./steps/own-mandate.ts";
import { pathClean } from "./steps/path.ts";
import { admitted } from "./steps/admission.ts";
import { authority, notRevoked, revocationFresh } from "./steps/revocation.ts";
import { routing } from "./steps/routing.ts";
import { signature } from "./steps/signature.ts";
import { singleUse } from "./steps/single-use.ts";
import { withinSize } from "./steps/size.ts";
import { targeted } from "./steps/target.ts";
import { tokenForm } from "./steps/token-form.ts";
import { createUsedMandates, unused } from "./steps/unused.ts";
import { upstreamAllowed } from "./steps/upstream-allowed.ts";
import { upstreamPlace } from "./steps/upstream-place.ts";
import { written } from "./steps/written.ts";

export type DecideDeps = {
  readonly sts: Sts;
  readonly revocations: Revocations;
  readonly marks: Marks;
  readonly egress: Egress;
  readonly upstreams: Upstreams;
  readonly bindings: BindingTable;
  readonly keys: ZoneKeys;
  readonly tokens: PresentedTokens;
  readonly ledger: Ledger;
  readonly shares: Shares;
  readonly max_request_bytes: number;
  readonly sts_timeout_ms: number;
  /** Where a challenge is waited for. */
  readonly issuer_url: string;
  readonly jti_fail_open: boolean;
  readonly clock: Clock;
  readonly log: Log;
};

/** Whether a request may pass, and to where: the Gateway's checks in their order, the first failure ends it. */
export const decide = (deps: DecideDeps) => {
  const used = createUsedMandates();
  return pipeline<Start>()
    .load(bearer)
    .load(tokenForm(deps.tokens))
    .check(notExpiring)
    .load(routing)
    .check(pathClean)
    .load(signature(deps))
    .check(notOurOwnMandate)
    .load(admitted(deps.shares))
    .load(bound(deps.bindings))
    .check(targeted)
    .check(boundCall)
    .load(authority(deps.revocations))
    .check(notRevoked)
    .check(revocationFresh)
    .check(withinSize(deps.max_request_bytes))
    .check(unused(used))
    .load(exchange(deps))
    .load(upstreamAllowed(deps.egress))
    .load(upstreamPlace(deps.upstreams))
    .commit(written({ ledger: deps.ledger, used }))
    .commit(singleUse({ ...deps, used }))
    .seal();
};

export type Decide = ReturnType<typeof decide>;
export type DenyReason = ReasonOf<Decide>;
/** Everything that an allowed call was decided on. */
export type Decision = Extract<Awaited<ReturnType<Decide["run"]>>, { denial?: undefined }>["facts"];
