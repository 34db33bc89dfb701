import { type MarkResult, type Marks, markLife_ms } from "../../ports/marks.ts";
import { Unavailable } from "../../ports/streams.ts";
import type { Commands } from "./connection.ts";
import { createGatherer } from "./gather.ts";
import { SCRIPTS } from "./scripts.ts";

const EPOCH_KEY = "caracal:marks:epoch";
/** Marks of one call: the server does nothing else meanwhile. */
const MAX_AT_ONCE = 128;

type Mark = { readonly key: string; readonly issued_ms: number; readonly keep_ms: number };

const resultOf = (letter: string | undefined): MarkResult => {
  if (letter === "m") return "marked";
  if (letter === "s") return "seen";
  if (letter === "l") return "lost";
  throw new Unavailable("Redis", new Error("the answer about a mark is none that was agreed on"));
};

/**
 * Marks in Redis; those of one tick in one call of the script, which looks once whether the memory is still the same. How
 * long a mark stays is told as a length, so that no difference between clocks shortens it. Whether the memory is older than
 * `issued_ms` is judged by the server's clock; the issuer's may be ahead of it by as much as clocks differ, and what was
 * issued within that difference before a loss is not noticed: keep clocks together.
 */
export const createMarks = (commands: Commands): Marks => {
  const mark = createGatherer<Mark, MarkResult>(MAX_AT_ONCE, async (_key, close) => {
    let asked = 0;
    const letters = await commands.run<string>(SCRIPTS.once, () => {
      const marks = close();
      asked = marks.length;
      return [
        1 + asked,
        EPOCH_KEY,
        ...marks.map(({ key }) => key),
        ...marks.flatMap(({ issued_ms, keep_ms }) => [issued_ms, keep_ms]),
      ];
    });
    return Array.from({ length: asked }, (_, i) => resultOf(letters[i]));
  });
  return {
    once: (kind, id, issued_ms, expires_ms) =>
      mark("", { key: `caracal:mark:${kind}:${id}`, issued_ms, keep_ms: markLife_ms(issued_ms, expires_ms) }),
    prime: async () => {
      await commands.run(SCRIPTS.prime, [1, EPOCH_KEY]);
    },
  };
};
