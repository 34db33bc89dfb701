import type { IncomingMessage } from "node:http";

/** A form that has not come whole by then is given up: a client that sends a byte a minute holds nothing open. */
const BODY_TIMEOUT_MS = 10_000;

export type BodyFault = "too_large" | "too_slow" | "broken_off";

/** The body, whole, within `max_bytes`; past it nothing more is kept. */
export const readBody = (request: IncomingMessage, max_bytes: number): Promise<Buffer | BodyFault> =>
  new Promise((resolve) => {
    if (Number(request.headers["content-length"] ?? 0) > max_bytes) {
      resolve("too_large");
      return;
    }
    const chunks: Buffer[] = [];
    let size = 0;
    const end = (result: Buffer | BodyFault): void => {
      clearTimeout(timer);
      request.off("data", onData).off("end", onEnd).off("error", onBreak).off("close", onBreak);
      resolve(result);
    };
    const onData = (chunk: Buffer): void => {
      size += chunk.byteLength;
      if (size > max_bytes) end("too_large");
      else chunks.push(chunk);
    };
    const onEnd = (): void => end(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size));
    const onBreak = (): void => end("broken_off");
    const timer = setTimeout(() => end("too_slow"), BODY_TIMEOUT_MS);
    request.on("data", onData).on("end", onEnd).on("error", onBreak).on("close", onBreak);
  });
