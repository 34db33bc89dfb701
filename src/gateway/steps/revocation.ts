import { type AuthorityIds, type Revocations, revokedBy } from "../../domain/revocation.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import { REVOCATION_MAX_AGE_MS } from "../authority.ts";
import type { Authority, Claims } from "../facts.ts";

/** What the revocation state says of these ids now, in memory. */
export const authorityOf = (revocations: Revocations, zone_id: string, ids: AuthorityIds): Authority => ({
  revoked_by: revokedBy(revocations, zone_id, ids),
  revocation_age_ms: revocations.age_ms(),
});

/** Of the presented token. The mandate's own ids are asked just before the upstream is called, and after. */
export const authority = (revocations: Revocations) =>
  load("authority", ({ claims }: { readonly claims: Claims }) => authorityOf(revocations, claims.zone_id, claims));

export const notRevoked = check("not_revoked", ({ revoked_by }: Authority) =>
  revoked_by === undefined ? undefined : deny("token_revoked", revoked_by),
);

/** A state that nobody has confirmed for 10 s may lack a revocation: no call passes on it. */
export const revocationFresh = check("revocation_fresh", ({ revocation_age_ms }: Authority) =>
  revocation_age_ms <= REVOCATION_MAX_AGE_MS
    ? undefined
    : deny("revocation_stale", `${Math.round(revocation_age_ms)} ms old`),
);
