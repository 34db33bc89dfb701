import type { Clock } from "../../kernel/clock.ts";
import type { Journal } from "../../ports/journal.ts";
import type { Marks } from "../../ports/marks.ts";
import type { RateLimit } from "../../ports/rate-limit.ts";
import type { Streams } from "../../ports/streams.ts";
import { createMarks } from "./marks.ts";
import { createRateLimit } from "./rate-limit.ts";
import { createStreams } from "./streams.ts";

export type MemoryOptions = {
  readonly clock: Clock;
  /** Streams whose entries survive the process, each with a journal of its own (the audit stream; its dead letters). */
  readonly journals?: Readonly<Record<string, Journal>>;
};

export type Memory = {
  readonly streams: Streams;
  readonly marks: Marks;
  readonly rateLimit: RateLimit;
  ping(): Promise<void>;
  /** Ends the readers. The caller closes the journals afterwards. */
  close(): Promise<void>;
};

/** Streams, marks and limits of one process, for the embedded mode. */
export const createMemory = async (options: MemoryOptions): Promise<Memory> => {
  const streams = await createStreams({ clock: options.clock, journals: options.journals ?? {} });
  return {
    streams,
    marks: createMarks(options.clock),
    rateLimit: createRateLimit(options.clock),
    ping: async () => undefined,
    close: () => streams.close(),
  };
};
