import type { Clock } from "../../kernel/clock.ts";
import { type Marks, markLife_ms } from "../../ports/marks.ts";
import { Unavailable } from "../../ports/streams.ts";

/** Marks that may be held at once; beyond it nothing is marked, which refuses, rather than an older mark forgotten. */
const MAX_MARKS = 1_000_000;
/** Marks looked at for each one that is made: more than one, so that the memory shrinks faster than it grows. */
const SWEEP = 4;

/**
 * Marks of this process, kept by the monotonic clock: setting the wall clock forgets none. What was issued before it began
 * may have been used under the process before it: `lost`.
 */
export const createMarks = (clock: Clock): Marks => {
  const since_ms = clock.now_ms();
  const marks = new Map<string, number>();

  const sweep = (at_ms: number): void => {
    let left = Math.min(SWEEP, marks.size);
    for (const [key, forget_ms] of marks) {
      if (left === 0) return;
      left -= 1;
      marks.delete(key);
      if (forget_ms > at_ms) marks.set(key, forget_ms); // to the end: a long-lived one does not hide those behind it
    }
  };

  return {
    async once(kind, id, issued_ms, expires_ms) {
      const at_ms = clock.monotonic_ms();
      const key = `${kind}:${id}`;
      if ((marks.get(key) ?? -Infinity) > at_ms) return "seen";
      if (issued_ms < since_ms) return "lost";
      sweep(at_ms);
      if (marks.size >= MAX_MARKS)
        throw new Unavailable("the memory of marks", new Error(`${MAX_MARKS} marks are held`));
      marks.set(key, at_ms + markLife_ms(issued_ms, expires_ms));
      return "marked";
    },
    prime: async () => undefined,
  };
};
