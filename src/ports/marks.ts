import { LEEWAY_S } from "../domain/token.ts";

/**
 * For how long a mark is kept, from the moment it is made: all of the id's life, by the one clock that both times are of,
 * once the leeway of the check, and once more for clocks that differ. The id was made before its mark, so it ends before.
 */
export const markLife_ms = (issued_ms: number, expires_ms: number): number =>
  Math.ceil(Math.max(0, expires_ms - issued_ms) + 2 * LEEWAY_S * 1000);

/**
 * `marked`: first seen, and remembered until it expires. `seen`: somebody used it before. `lost`: it was issued before the
 * moment from which the memory of marks is known to be whole, so it may have been used.
 */
export type MarkResult = "marked" | "seen" | "lost";

/**
 * Single use. Contract: for one id, at most one caller in the whole deployment is ever told `marked`, over restarts,
 * fail-overs and losses of the server's memory. A store that can't tell says so: it rejects with `Unavailable`, whatever
 * its fault, and never resolves to `seen` or `lost`. The caller refuses then, and counts an outage, not a replay.
 */
export type Marks = {
  /**
   * One atomic step. `issued_ms`: when what the id names was made; `expires_ms`: when it can't be used any more
   * (both since the epoch, by the issuer's clock). The mark outlives `expires_ms`, whatever the clocks of callers and store say.
   */
  once(kind: string, id: string, issued_ms: number, expires_ms: number): Promise<MarkResult>;
  /** Starts the memory where there is none, so that the first id that is marked later is not `lost`. Idempotent. */
  prime(): Promise<void>;
};
