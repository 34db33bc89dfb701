import type { PresentedToken, PresentedTokens } from "../../authority/presented-tokens.ts";
import type { Claims, VerifyFailure } from "../../domain/token.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
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

/** `zone`: the one that the request names; a token of another is none here, verified before or not. */
const verify = (
  tokens: PresentedTokens,
  presented: PresentedToken,
  { zone_id, keys }: ZoneSnapshot,
  now_ms: number,
): Claims | VerifyFailure | "unknown_key" => {
  if (presented.kind === "verified") return presented.claims.zone_id === zone_id ? presented.claims : "zone";
  if (presented.decoded.zone_id !== zone_id) return "zone";
  const key = keys.verifying.get(presented.decoded.kid);
  return key === undefined
    ? "unknown_key"
    : tokens.verify(presented, { zone_id, key, version: () => keys.version }, now_ms);
};

type Asks = Pick<Facts, "request" | "presented" | "now_ms"> & { readonly zone: ZoneSnapshot };
type Judged = { readonly zone: ZoneSnapshot; readonly subject: Claims };

const judged = (zone: ZoneSnapshot, subject: ReturnType<typeof verify>) =>
  typeof subject === "string" ? deny(REASONS[subject], subject) : ({ zone, subject } satisfies Judged);

/**
 * Signature by a key of this zone, then claims, issuer, zone and time. Another replica may have heard of a new key sooner and
 * signed by it: the zone is read anew before a key is refused as unknown.
 */
export const subjectToken = (snapshots: Pick<Snapshots, "latest">, tokens: PresentedTokens) =>
  load("subject_token", (f: Asks) => {
    const presented =
      f.presented ?? (f.request.subject_token === undefined ? undefined : tokens.read(f.request.subject_token));
    if (presented === undefined) return deny("subject_token_malformed");
    const subject = verify(tokens, presented, f.zone, f.now_ms);
    if (subject !== "unknown_key") return judged(f.zone, subject);
    return snapshots.latest(f.zone.zone_id).then(
      (zone) =>
        zone === undefined ? judged(f.zone, subject) : judged(zone, verify(tokens, presented, zone, f.now_ms)),
      () => deny("zone_unavailable"),
    );
  });

/** A mandate is for one call and is never exchanged again, nor is what an actor or an edge took part in, as yet. */
export const subjectTokenUse = check("subject_token_use", (f: Pick<Facts, "subject">) => {
  const { subject } = f;
  if (subject.use !== "ambient") return deny("subject_token_not_ambient");
  const bound = subject.act ?? subject.agent_session_id ?? subject.delegation_edge_id ?? subject.grant_id;
  return bound === undefined ? undefined : deny("subject_token_bound");
});

/** A stolen token is worth nothing to another client. */
export const subjectTokenClient = check("subject_token_client", (f: Pick<Facts, "subject" | "application">) =>
  f.subject.client_id === f.application.id ? undefined : deny("subject_token_client", f.subject.client_id),
);
