import { type DestinationStream, pino } from "pino";

/** Structured log lines: facts first, then a short constant message. */
export type Log = {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
  child(facts: object): Log;
};

/** Names whose values never reach a log line, at any depth. */
const SECRET_NAME =
  /authorization|cookie|secret|password|passwd|token$|_token|assertion|private|credential|_kek|hmac_key|head_key|^key$/i;
/** Values that look like a token wherever they stand: a JWT, a Bearer header, a URL's user info. */
const JWT = /eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*\.?[A-Za-z0-9_-]*/g;
const BEARER = /\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+/gi;
const USER_INFO = /(\/\/[^\s/@:]*):[^\s/@]*@/g;
const MAX_DEPTH = 6;
const MAX_TEXT = 2048;
const MAX_ITEMS = 64;

const scrubText = (text: string): string =>
  (text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text)
    .replace(JWT, "[token]")
    .replace(BEARER, "$1 [token]")
    .replace(USER_INFO, "$1:[secret]@");

const scrubError = (error: Error, depth: number): object => ({
  type: error.name,
  message: scrubText(error.message),
  ...("code" in error ? { code: scrub(error.code, depth + 1) } : {}),
  stack: scrubText(error.stack ?? ""),
  ...(error.cause === undefined ? {} : { cause: scrub(error.cause, depth + 1) }),
});

/** A copy of `value` that is fit for a log: no secrets by name, none by look, bounded in depth and length. */
export const scrub = (value: unknown, depth = 0): unknown => {
  if (typeof value === "string") return scrubText(value);
  if (typeof value !== "object" || value === null) return typeof value === "bigint" ? String(value) : value;
  if (depth >= MAX_DEPTH) return "[deep]";
  if (value instanceof Error) return scrubError(value, depth);
  if (Array.isArray(value)) return value.slice(0, MAX_ITEMS).map((item) => scrub(item, depth + 1));
  if (ArrayBuffer.isView(value)) return "[bytes]";
  const out: Record<string, unknown> = {};
  for (const [name, item] of Object.entries(value).slice(0, MAX_ITEMS)) {
    out[name] = SECRET_NAME.test(name) && item !== undefined && item !== null ? "[secret]" : scrub(item, depth + 1);
  }
  return out;
};

export type LogOptions = {
  readonly level: "debug" | "info" | "warn" | "error" | "silent";
  /** Where lines go; standard output by default. */
  readonly destination?: DestinationStream;
};

/** Standard output, written in place. One per process: two threads that write to a full pipe would break each other's lines. */
export const standardOutput = (): DestinationStream => pino.destination({ dest: 1, sync: true });

/** JSON lines on standard output, scrubbed: the last line of defence, not a licence to log a secret. */
export const createLog = (options: LogOptions): Log => {
  const destination = options.destination ?? standardOutput();
  // Whoever read our lines is gone. That is no reason to end the process, and there is nobody to report it to.
  if ("on" in destination && typeof destination.on === "function") destination.on("error", () => undefined);
  return pino(
    {
      level: options.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      messageKey: "message",
      formatters: {
        level: (label) => ({ level: label }),
        log: (facts) => scrub(facts) as Record<string, unknown>,
        bindings: (facts) => scrub(facts) as Record<string, unknown>,
      },
    },
    destination,
  );
};
