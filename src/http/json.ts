import { Buffer, isUtf8 } from "node:buffer";
import { Problem } from "../kernel/problem.ts";

/** A body's bytes as JSON. Throws the 400 that says why they are none; nothing of them is repeated. */
export const parseJson = (bytes: Uint8Array): unknown => {
  const refuse = (fault: string, cause?: unknown): Problem =>
    new Problem(400, "invalid_body", `The request's body ${fault}.`, { issues: [{ path: "", message: fault }], cause });
  if (!isUtf8(bytes)) throw refuse("is not UTF-8");
  try {
    return JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8"));
  } catch (cause) {
    throw refuse("is not well-formed JSON", cause);
  }
};
