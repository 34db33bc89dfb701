import type { Clock } from "./clock.ts";

/** A token bucket, full at first. */
export type Bucket = {
  /** Takes one, if there is one. */
  take(): boolean;
};

/** `per_s`: how many come back a second; `burst`: how many it holds. */
export const createBucket = (
  clock: Clock,
  { per_s, burst }: { readonly per_s: number; readonly burst: number },
): Bucket => {
  let left = burst;
  let at_ms = clock.monotonic_ms();
  return {
    take() {
      const now_ms = clock.monotonic_ms();
      left = Math.min(burst, left + ((now_ms - at_ms) / 1_000) * per_s);
      at_ms = now_ms;
      if (left < 1) return false;
      left -= 1;
      return true;
    },
  };
};
