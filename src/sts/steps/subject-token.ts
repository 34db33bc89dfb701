import type { PresentedToken, PresentedTokens } from "../../authority/presented-tokens.ts";
import type { Claims, VerifyFailure } from "../../domain/token.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { TokenRequest } from "../edge/request.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";
import type { Snapshots } from "../known/snapshots.ts";

const REASONS = {
  unknown_key: "subject_token_signature",
  signature: "subject_token_signature",
  claims: "subject_token_claims",
  issuer: "subject_token_issuer",
  zone: "subject_token_zone",
  not_yet_valid: "subject_token_not_yet_valid",
  expired: "subject_token_expired",
} as const satisfies Record<VerifyFailure | "unknown_key", string>;

/** The claims of a token, or why there are none; and the zone as it was known then. */
type Verified = { readonly zone: ZoneSnapshot; readonly claims: Claims | VerifyFailure | "unknown_key" };

/** `zone`: the one that the request names; a token of another is none here, verified before or not. */
const verify = (
  tokens: PresentedTokens,
  presented: PresentedToken,
  { zone_id, keys }: ZoneSnapshot,
  now_ms: number,
): Verified["claims"] => {
  if (presented.kind === "verified") return presented.claims.zone_id === zone_id ? presented.claims : "zone";
  if (presented.decoded.zone_id !== zone_id) return "zone";
  const key = keys.verifying.get(presented.decoded.kid);
  return key === undefined
    ? "unknown_key"
    : tokens.verify(presented, { zone_id, key, version: () => keys.version }, now_ms);
};

type Asks = Pick<Facts, "presented" | "now_ms"> & {
  readonly request: Pick<TokenRequest, "subject_token">;
  readonly zone: ZoneSnapshot;
};

/**
 * Signature by a key of this zone, then claims, issuer, zone and time. Another replica may have heard of a new key sooner and
 * signed by it: the zone is read anew before a key is refused as unknown. Rejects where it can't be.
 */
export const verifyIn = (
  zone: ZoneSnapshot,
  presented: PresentedToken,
  { snapshots, tokens }: { readonly snapshots: Pick<Snapshots, "latest">; readonly tokens: PresentedTokens },
  now_ms: number,
): Verified | Promise<Verified> => {
  const claims = verify(tokens, presented, zone, now_ms);
  if (claims !== "unknown_key") return { zone, claims };
  return snapshots
    .latest(zone.zone_id)
    .then((latest) =>
      latest === undefined ? { zone, claims } : { zone: latest, claims: verify(tokens, presented, latest, now_ms) },
    );
};

const judged = ({ zone, claims }: Verified) =>
  typeof claims === "string" ? deny(REASONS[claims], claims) : { zone, subject: claims };

export const subjectToken = (snapshots: Pick<Snapshots, "latest">, tokens: PresentedTokens) =>
  load("subject_token", (f: Asks) => {
    const presented =
      f.presented ?? (f.request.subject_token === undefined ? undefined : tokens.read(f.request.subject_token));
    if (presented === undefined) return deny("subject_token_malformed");
    const verified = verifyIn(f.zone, presented, { snapshots, tokens }, f.now_ms);
    return verified instanceof Promise ? verified.then(judged, () => deny("zone_unavailable")) : judged(verified);
  });

/** A mandate is for one call and is never exchanged again, nor is what a grant limits, as yet. */
export const subjectTokenUse = check("subject_token_use", (f: Pick<Facts, "subject">) => {
  const { subject } = f;
  if (subject.use !== "ambient") return deny("subject_token_not_ambient");
  return subject.grant_id === undefined ? undefined : deny("subject_token_bound");
});

/** A stolen token is worth nothing to another client. */
export const subjectTokenClient = check("subject_token_client", (f: Pick<Facts, "subject" | "application">) =>
  f.subject.client_id === f.application.id ? undefined : deny("subject_token_client", f.subject.client_id),
);
