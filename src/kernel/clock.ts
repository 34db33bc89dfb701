/** Where time comes from, so that a test can move it. `now_ms`: since the epoch; `monotonic_ms`: never goes back. */
export type Clock = { now_ms(): number; monotonic_ms(): number };

export const systemClock: Clock = { now_ms: () => Date.now(), monotonic_ms: () => performance.now() };

let text_ms = -1;
let text = "";

/**
 * RFC 3339 in UTC with milliseconds, of milliseconds since the epoch. The last one is remembered: what happens in one tick
 * shares its millisecond, and making a date costs more than the rest of an event.
 */
export const isoText = (ms: number): string => {
  if (ms !== text_ms) {
    text = new Date(ms).toISOString();
    text_ms = ms;
  }
  return text;
};
