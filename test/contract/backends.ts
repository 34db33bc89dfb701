import { createMemory } from "../../src/adapters/memory/index.ts";
import { createRedis } from "../../src/adapters/redis/index.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import type { Marks } from "../../src/ports/marks.ts";
import type { RateLimit } from "../../src/ports/rate-limit.ts";
import type { Streams } from "../../src/ports/streams.ts";
import { quietLog } from "../support/quiet-log.ts";
import { startRedis } from "../support/redis.ts";

/** What a contract suite runs on. `another`: a further client of the same server (memory: the same). */
export type Backend = {
  readonly streams: Streams;
  readonly marks: Marks;
  readonly rateLimit: RateLimit;
  readonly another: () => { readonly streams: Streams; readonly marks: Marks; readonly rateLimit: RateLimit };
  close(): Promise<void>;
};

const onMemory = async (): Promise<Backend> => {
  const memory = await createMemory({ clock: systemClock });
  return { ...memory, another: () => memory, close: () => memory.close() };
};

const onRedis = async (): Promise<Backend> => {
  const server = await startRedis();
  const clients = [createRedis({ url: server.url, log: quietLog() })];
  const first = clients[0] as ReturnType<typeof createRedis>;
  return {
    ...first,
    another: () => {
      const one = createRedis({ url: server.url, log: quietLog() });
      clients.push(one);
      return one;
    },
    close: async () => {
      await Promise.all(clients.map((one) => one.close()));
      await server.close();
    },
  };
};

export const BACKENDS: Readonly<Record<string, () => Promise<Backend>>> = { memory: onMemory, redis: onRedis };
