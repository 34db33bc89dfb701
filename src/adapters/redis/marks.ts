import { LEEWAY_S } from "../../domain/token.ts";
import type { MarkResult, Marks } from "../../ports/marks.ts";
import type { Commands } from "./connection.ts";

const EPOCH_KEY = "caracal:marks:epoch";

/**
 * Marks in Redis. The clock that judges `issued_ms` is the server's; the issuer's may be ahead of it by as much as
 * clocks differ, and what was issued within that difference before a loss is not noticed: keep clocks together.
 */
export const createMarks = (commands: Commands): Marks => ({
  once: (kind, id, issued_ms, expires_ms) =>
    commands.send<MarkResult>((pipeline) =>
      pipeline.caracalOnce(EPOCH_KEY, `caracal:mark:${kind}:${id}`, issued_ms, expires_ms + LEEWAY_S * 1000),
    ),
  prime: async () => {
    await commands.send((pipeline) => pipeline.caracalPrime(EPOCH_KEY));
  },
});
