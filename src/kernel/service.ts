/**
 * A background worker as a value. Tests call `tick()` and never sleep; the supervisor calls `start`.
 * `start` resolves once the work is under way and reports a later, final failure through `failed`;
 * `stop` ends it and resolves when nothing of it runs any more, or when `deadline_ms` have passed.
 */
export type Service = {
  readonly name: string;
  start(failed: (error: unknown) => void): Promise<void>;
  stop(deadline_ms: number): Promise<void>;
};

/** One round of work, repeated. */
export type Worker = Service & { tick(): Promise<void> };

export type WorkerOptions = {
  readonly name: string;
  /** The pause after a round, in milliseconds. */
  readonly every_ms: number;
  readonly tick: (signal: AbortSignal) => Promise<void>;
  /** A round that failed; the worker goes on with the next. */
  readonly onError: (error: unknown) => void;
  /** Runs once when the worker stops, after the last round. */
  readonly onStop?: () => Promise<void>;
};

/**
 * Repeats `tick`, one round at a time. `wake()` starts the next round at once. If it comes during a round, another follows,
 * because the running one may have looked too early.
 */
export const worker = (options: WorkerOptions): Worker & { wake(): void } => {
  const abort = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> | undefined;
  let again = false;
  let started = false;

  const round = (): Promise<void> => {
    if (running !== undefined) return running;
    running = options
      .tick(abort.signal)
      .catch((error: unknown) => {
        if (!abort.signal.aborted) options.onError(error);
      })
      .finally(() => {
        running = undefined;
        if (!started || abort.signal.aborted) return;
        const wait_ms = again ? 0 : options.every_ms;
        again = false;
        timer = setTimeout(round, wait_ms);
      });
    return running;
  };

  return {
    name: options.name,
    async start() {
      started = true;
      timer = setTimeout(round, 0);
    },
    wake() {
      if (running !== undefined) {
        again = true;
        return;
      }
      if (!started || abort.signal.aborted) return;
      clearTimeout(timer);
      void round();
    },
    /** One round now, or the one that is running; a failure is thrown to the caller. */
    tick: () => options.tick(abort.signal),
    async stop(deadline_ms) {
      abort.abort();
      clearTimeout(timer);
      await within(deadline_ms, running);
      await within(deadline_ms, options.onStop?.());
    },
  };
};

/** Resolves with the work, or after `deadline_ms` without it. Never rejects for the deadline. */
export const within = async (deadline_ms: number, work: Promise<unknown> | undefined): Promise<void> => {
  if (work === undefined) return;
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, deadline_ms);
  });
  try {
    await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
};
