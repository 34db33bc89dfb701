/** Where time comes from, so that a test can move it. `now_ms`: since the epoch; `monotonic_ms`: never goes back. */
export type Clock = { now_ms(): number; monotonic_ms(): number };

export const systemClock: Clock = { now_ms: () => Date.now(), monotonic_ms: () => performance.now() };
