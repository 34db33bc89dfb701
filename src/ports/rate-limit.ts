/** `retry_after_ms`: when the next call can pass. */
export type RateResult =
  | { readonly allowed: true; readonly remaining: number }
  | { readonly allowed: false; readonly retry_after_ms: number };

/**
 * A limit that slides (GCRA): of one key, at most `burst` pass at once and, over any stretch of `t` minutes wherever it
 * begins, at most `burst + per_minute × t`. No window, so no window's edge to pass twice at. Both at least 1.
 * Calls at one instant are decided as if one came after the other; a refused one changes nothing.
 * Shared by all replicas, by the server's clock. Rejects with `Unavailable`; the caller refuses then, it never passes.
 */
export type RateLimit = {
  take(key: string, per_minute: number, burst: number): Promise<RateResult>;
};
