/**
 * `marked`: first seen, and remembered until it expires. `seen`: somebody used it before. `lost`: it was issued before the
 * moment from which the memory of marks is known to be whole, so it may have been used.
 */
export type MarkResult = "marked" | "seen" | "lost";

/**
 * Single use. Contract: for one id, at most one caller in the whole deployment is ever told `marked`, over restarts,
 * fail-overs and losses of the server's memory. Rejects with `Unavailable`; the caller refuses then.
 */
export type Marks = {
  /**
   * One atomic step. `issued_ms`: when what the id names was made; `expires_ms`: when it can't be used any more
   * (both since the epoch). The mark outlives `expires_ms` by the leeway for clocks.
   */
  once(kind: string, id: string, issued_ms: number, expires_ms: number): Promise<MarkResult>;
  /** Starts the memory where there is none, so that the first id that is marked later is not `lost`. Idempotent. */
  prime(): Promise<void>;
};
