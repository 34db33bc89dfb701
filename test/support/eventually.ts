import { setTimeout as pause } from "node:timers/promises";

export type EventuallyOptions = {
  /** How long to go on asking; 5 s by default. */
  readonly timeout_ms?: number;
  /** The pause between two questions; 10 ms by default. */
  readonly every_ms?: number;
};

/**
 * Asks `probe` until it neither throws nor answers `false` or `null`, and gives back its answer; fails with the probe's
 * last error or answer when the time is up. A probe made of assertions may answer nothing. The only way in which a test
 * may wait.
 */
export const eventually = async <T>(
  probe: () => T | Promise<T>,
  options: EventuallyOptions = {},
): Promise<Exclude<T, false | null>> => {
  const timeout_ms = options.timeout_ms ?? 5_000;
  const until = performance.now() + timeout_ms;
  for (;;) {
    let last: unknown;
    try {
      const answer = await probe();
      if (answer !== false && answer !== null) return answer as Exclude<T, false | null>;
      last = new Error(`still ${String(answer)}`);
    } catch (error) {
      last = error;
    }
    if (performance.now() >= until) {
      // In the message, too: a runner that passes errors between processes loses the cause.
      const why = last instanceof Error ? last.message : String(last);
      throw new Error(`it did not come about within ${timeout_ms} ms; at last: ${why}`, { cause: last });
    }
    await pause(options.every_ms ?? 10);
  }
};
