import type { Clock } from "../kernel/clock.ts";

/** Something that may take so long and no longer. */
export type Limited = {
  /** Milliseconds until its nearest limit. Ends itself where one is reached, and says Infinity then. */
  left_ms(): number;
};

export type Limits = {
  /** From now on `limited` is asked when its time has come; again where its nearest limit has come nearer. */
  watch(limited: Limited): void;
};

/** Two looks are at least so far apart, so that thousands of streams cost no more than ten: a limit is met this exactly. */
const LOOK_MS = 100;
/** What a timer can wait for is bounded; a look too many costs little. */
const MAX_WAIT_MS = 60_000;

/**
 * One timer for the limits of all that is under way, set to the nearest of them. Most calls have ended long before: a
 * timer for each would be made and thrown away for nothing. `all`: what is under way.
 */
export const createLimits = (clock: Clock, all: () => readonly Limited[]): Limits => {
  let timer: NodeJS.Timeout | undefined;
  let due_ms = Infinity;
  let looked_ms = -Infinity;

  const wake = (left_ms: number): void => {
    const now_ms = clock.monotonic_ms();
    const at_ms = Math.max(now_ms + left_ms, looked_ms + LOOK_MS);
    if (at_ms >= due_ms) return;
    clearTimeout(timer);
    due_ms = at_ms;
    timer = setTimeout(look, Math.ceil(Math.min(at_ms - now_ms, MAX_WAIT_MS)));
    timer.unref(); // what is under way holds the process by its sockets
  };
  const look = (): void => {
    timer = undefined;
    due_ms = Infinity;
    looked_ms = clock.monotonic_ms();
    let nearest_ms = Infinity;
    for (const limited of all()) nearest_ms = Math.min(nearest_ms, limited.left_ms());
    if (nearest_ms !== Infinity) wake(nearest_ms);
  };

  return {
    watch(limited) {
      const left_ms = limited.left_ms();
      if (left_ms !== Infinity) wake(left_ms);
    },
  };
};
