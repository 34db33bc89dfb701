import { Problem } from "../kernel/problem.ts";
import { isUniqueViolation } from "../ports/database.ts";
import type { Dependent } from "./store/things.ts";

/** What does not exist, is archived, or is another zone's: one answer, so that ids of other zones can't be probed. */
export const missing = (what: string): Problem => new Problem(404, "not_found", `There is no such ${what} here.`);

/** A field that names something that can't be used. */
export const unusable = (path: string, message: string): Problem =>
  new Problem(400, "invalid_body", "The request's body is not what this operation takes; see issues.", {
    issues: [{ path, message }],
  });

/** A value that must be unique and is not. `field`: its path in the body. */
export const taken = (field: string, of: string): Problem =>
  new Problem(409, `${field}_taken`, `Another ${of} has this ${field}; choose another one.`, {
    issues: [{ path: field, message: `is taken by another ${of}` }],
  });

/** `If-Match` names another revision than the one that is there: what the caller would overwrite, it has not seen. */
export const lostUpdate = (revision: number | string): Problem =>
  new Problem(412, "precondition_failed", `This was changed meanwhile; read it again. Its ETag is now "${revision}".`);

/** What has no entity tag matches none (RFC 9110, 13.1.1): a change that was to be made on a condition is not made without it. */
export const untagged = (): Problem =>
  new Problem(412, "precondition_failed", "What this changes has no ETag, so If-Match can't hold; leave it out.");

/** What others refer to stays. `diagnostics` name them. */
export const inUse = (what: string, dependents: readonly Dependent[]): Problem =>
  new Problem(
    409,
    "in_use",
    `This ${what} can't be archived while others depend on it: ${[...new Set(dependents.map(({ kind }) => kind))].join(", ")}; see diagnostics.`,
    { diagnostics: dependents },
  );

/** The zone has as much as it may have. */
export const quotaExceeded = (quota: {
  readonly name: string;
  readonly limit: number;
  readonly use: number;
}): Problem =>
  new Problem(
    409,
    "quota_exceeded",
    `This zone may have ${quota.limit} of ${quota.name}; a global admin can change that. See diagnostics.`,
    { diagnostics: [quota] },
  );

/** The key that would fall out of the published two still has tokens that live. */
export const rotationTooSoon = (until: string | null): Problem =>
  new Problem(
    409,
    "rotation_too_soon",
    `Tokens of an older key live until ${until ?? "it is replaced"}; rotate after that, or with force where a key was stolen.`,
  );

export const bootstrapUsed = (): Problem =>
  new Problem(
    410,
    "bootstrap_used",
    "The bootstrap token was used already and does nothing any more; use the admin token that it made.",
  );

/** Unique constraint → the answer. The database is the judge, so that of two that race one wins and one is told. */
const TAKEN: Readonly<Record<string, () => Problem>> = {
  zones_slug: () => taken("slug", "zone"),
  resources_identifier: () => taken("identifier", "resource of the zone"),
  policies_name: () => taken("name", "policy of the zone"),
  policy_sets_name: () => taken("name", "policy set of the zone"),
  providers_name: () => taken("name", "provider of the zone"),
  issuers_issuer_url: () => taken("issuer_url", "issuer of the zone with this audience"),
  grants_target: () => taken("subject", "grant of this application and resource"),
  admin_tokens_token_sha256_key: () => taken("token", "admin token"),
  bootstrap_use_pkey: bootstrapUsed,
};

/** The conflict that a database error stands for; the error itself where it is none. */
export const conflictOf = (error: unknown): unknown => {
  const constraint = Object.keys(TAKEN).find((name) => isUniqueViolation(error, name));
  return constraint === undefined ? error : TAKEN[constraint]?.();
};

export const unauthorized = (message: string): Problem => new Problem(401, "invalid_token", message);

export const tokenUnusable = (): Problem => unauthorized("This admin token does not exist, or is expired or revoked.");
