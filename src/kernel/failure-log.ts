import type { Clock } from "./clock.ts";
import type { Log } from "./log.ts";

/** The longest that failures of one key are silent in the log, once one was logged. */
const EVERY_MS = 1_000;
const MAX_KEYS = 1_024;

/** `not_logged` is added to the facts: how many of the same key were left out since its last line. */
export type FailureLog = (level: "warn" | "error", key: string, facts: object, message: string) => void;

/**
 * Failures that callers bring about, or an outage for each of them: one line a second and key. Else whoever has an upstream
 * that fails, or asks for what is not there, writes the log as fast as they can ask; a line is written in place.
 */
export const createFailureLog = (log: Log, clock: Clock): FailureLog => {
  const seen = new Map<string, { readonly next_ms: number; not_logged: number }>();
  return (level, key, facts, message) => {
    const now_ms = clock.monotonic_ms();
    const last = seen.get(key);
    if (last !== undefined && now_ms < last.next_ms) {
      last.not_logged += 1;
      return;
    }
    if (seen.size >= MAX_KEYS) seen.clear();
    seen.set(key, { next_ms: now_ms + EVERY_MS, not_logged: 0 });
    log[level]({ ...facts, not_logged: last?.not_logged ?? 0 }, message);
  };
};
