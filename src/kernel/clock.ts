/** Where time comes from, so that a test can move it. `now_ms`: since the epoch; `monotonic_ms`: never goes back. */
export type Clock = { now_ms(): number; monotonic_ms(): number };

export const systemClock: Clock = { now_ms: () => Date.now(), monotonic_ms: () => performance.now() };

let text_ms = -1;
let text = "";

/**
 * Milliseconds since the epoch → RFC 3339 in UTC, with milliseconds. The last text is remembered: events of one tick share
 * their millisecond, and making the text costs more than the rest of an event.
 */
export const isoText = (ms: number): string => {
  if (ms !== text_ms) {
    text = new Date(ms).toISOString();
    text_ms = ms;
  }
  return text;
};
