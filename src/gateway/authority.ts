/** Revocation state older than this proves nothing: new calls are refused, running answers wait. */
export const REVOCATION_MAX_AGE_MS = 10_000;
