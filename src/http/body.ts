import { Buffer, isUtf8 } from "node:buffer";
import type { IncomingMessage } from "node:http";
import { Problem } from "../kernel/problem.ts";
import { headerNamed } from "./headers.ts";

/** A body that has not come whole by then is given up: a client that sends a byte a minute holds nothing open. */
const BODY_TIMEOUT_MS = 10_000;

/** What a body may be. UTF-8 is the only charset. */
const MEDIA_TYPES = {
  "application/json": /^application\/json\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?$/i,
  "application/x-www-form-urlencoded": /^application\/x-www-form-urlencoded\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?$/i,
} as const;
export type MediaType = keyof typeof MEDIA_TYPES;

export type ContentFault = "content_type" | "content_encoding";
export type BodyFault = "too_large" | "too_slow" | "broken_off";

/** What is wrong with what the headers say of the body; undefined: it is of that type, and as it is. */
export const contentFault = (request: IncomingMessage, type: MediaType): ContentFault | undefined => {
  if (!MEDIA_TYPES[type].test(headerNamed(request, "content-type") ?? "")) return "content_type";
  const encoding = request.headers["content-encoding"] ?? "identity";
  return encoding.toLowerCase() === "identity" ? undefined : "content_encoding";
};

/** The body, whole, within `max_bytes`; past it nothing more is kept. */
export const readBody = (request: IncomingMessage, max_bytes: number): Promise<Buffer | BodyFault> =>
  new Promise((resolve) => {
    if (Number(request.headers["content-length"] ?? 0) > max_bytes) {
      resolve("too_large");
      return;
    }
    if (request.destroyed) {
      resolve("broken_off"); // before anybody listened: no event will tell
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

const PROBLEMS: Readonly<Record<ContentFault | BodyFault, (max_bytes: number) => Problem>> = {
  content_type: () => new Problem(415, "unsupported_media_type", "Send the body as application/json in UTF-8."),
  content_encoding: () => new Problem(415, "unsupported_media_type", "Send the body without a content encoding."),
  too_large: (max_bytes) =>
    new Problem(413, "request_too_large", `The request's body has more than the ${max_bytes} bytes that are allowed.`),
  too_slow: () => new Problem(408, "request_timeout", "The request's body took too long to arrive."),
  broken_off: () => new Problem(400, "incomplete_request", "The request's body broke off."),
};

/** Throws the 415 for a body that is not JSON, by its headers. */
export const mustBeJson = (request: IncomingMessage): void => {
  const fault = contentFault(request, "application/json");
  if (fault !== undefined) throw PROBLEMS[fault](0);
};

/** As `readBody`; throws the 400, 408 or 413 for a body that did not come whole. */
export const wholeBody = async (request: IncomingMessage, max_bytes: number): Promise<Buffer> => {
  const body = await readBody(request, max_bytes);
  if (typeof body === "string") throw PROBLEMS[body](max_bytes);
  return body;
};

/** More than anything that is taken has. A value costs up to a hundred times its bytes to make, in time and in memory. */
const MAX_VALUES = 10_000;
const MAX_DEPTH = 64;

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [LIST, LIST_END, OBJECT, OBJECT_END] = [0x5b, 0x5d, 0x7b, 0x7d];

/** Whether these bytes would become too much: told without making it. Of bytes that are no JSON it may say either. */
const isTooRich = (bytes: Uint8Array): boolean => {
  let values = 1;
  let depth = 0;
  let quoted = false;
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at];
    if (quoted) {
      if (byte === BACKSLASH) at += 1;
      else if (byte === QUOTE) quoted = false;
    } else if (byte === QUOTE) quoted = true;
    else if (byte === COMMA) values += 1;
    else if (byte === LIST || byte === OBJECT) {
      values += 1;
      depth += 1;
    } else if (byte === LIST_END || byte === OBJECT_END) depth -= 1;
    if (values > MAX_VALUES || depth > MAX_DEPTH) return true;
  }
  return false;
};

/** A body's bytes as JSON. Throws the 400 that says why they are none; nothing of them is repeated. */
export const parseJson = (bytes: Uint8Array): unknown => {
  const refuse = (fault: string, cause?: unknown): Problem =>
    new Problem(400, "invalid_body", `The request's body ${fault}.`, { issues: [{ path: "", message: fault }], cause });
  if (!isUtf8(bytes)) throw refuse("is not UTF-8");
  if (isTooRich(bytes)) throw refuse(`has more than ${MAX_VALUES} values, or is more than ${MAX_DEPTH} deep`);
  try {
    return JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8"));
  } catch (cause) {
    throw refuse("is not well-formed JSON", cause);
  }
};
