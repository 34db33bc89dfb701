import { Redis } from "ioredis";

/** An entry as Redis has it. */
export type RawEntry = { readonly id: string; readonly fields: Readonly<Record<string, string>> };

/** What somebody who holds the Redis, but not the key that signs, can do to a stream. */
export type StreamVandal = {
  /** The newest entries first. */
  newest(stream: string, count: number): Promise<readonly RawEntry[]>;
  /** Puts the fields in once more, as a new entry. */
  play(stream: string, fields: Readonly<Record<string, string>>): Promise<void>;
  remove(stream: string, id: string): Promise<void>;
  length(stream: string): Promise<number>;
  close(): void;
};

/** Opens a connection of its own to the Redis at `url`. */
export const createStreamVandal = (url: string): StreamVandal => {
  const client = new Redis(url);
  client.on("error", () => undefined); // it is stopped and killed in these tests; the next command says so
  return {
    async newest(stream, count) {
      const raw = await client.xrevrange(stream, "+", "-", "COUNT", count);
      return raw.map(([id, flat]) => ({
        id,
        fields: Object.fromEntries(flat.flatMap((name, at) => (at % 2 === 0 ? [[name, flat[at + 1] ?? ""]] : []))),
      }));
    },
    async play(stream, fields) {
      await client.xadd(stream, "*", ...Object.entries(fields).flat());
    },
    async remove(stream, id) {
      await client.xdel(stream, id);
    },
    length: (stream) => client.xlen(stream),
    close: () => client.disconnect(),
  };
};
