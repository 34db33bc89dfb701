/** The streams between the roles. What stops or resumes authority travels on `revoke` alone; the others tell caches to read again. */
export const STREAMS = {
  revoke: "caracal.sessions.revoke",
  policy: "caracal.policy.invalidate",
  keys: "caracal.keys.invalidate",
  config: "caracal.config.invalidate",
  audit: "caracal.audit.events",
} as const;

/** Streams fed by the outbox: their entries are numbered per zone, and signed heads go with them. */
export const OUTBOX_STREAMS = [STREAMS.revoke, STREAMS.policy, STREAMS.keys, STREAMS.config] as const;
export type OutboxStream = (typeof OUTBOX_STREAMS)[number];

/** Where what can't be processed waits for a person. */
export const deadLetterOf = (stream: string): string => (stream === STREAMS.audit ? `${stream}.dlq` : `${stream}.dead`);

/** The consumer group that chains the ledger. */
export const AUDIT_GROUP = "audit-ingestor";

/** What a role may cache of a zone's configuration; a `challenge` is one that somebody waits for, and was decided. */
export type ConfigKind = "zone" | "application" | "resource" | "provider" | "issuer" | "grant" | "challenge";

/**
 * A message of `caracal.config.invalidate`: this object of the zone changed. The others carry `{zone_id, kind, id}` alike:
 * policy: kind `activation`, id the version's; keys: kind `key`, id the `kid`.
 */
export type Invalidation = {
  readonly zone_id: string;
  readonly kind: ConfigKind | "activation" | "key";
  readonly id: string;
};
