/** PostgreSQL's wire protocol, version 3, as far as one must understand it to stand between the driver and the server. */

/** Message types, by their byte. The same byte means another thing in each direction. */
export const FRONTEND = {
  bind: 0x42,
  close: 0x43,
  describe: 0x44,
  execute: 0x45,
  flush: 0x48,
  parse: 0x50,
  query: 0x51,
  sync: 0x53,
  terminate: 0x58,
} as const;
export const BACKEND = { authentication: 0x52, error: 0x45, key_data: 0x4b, notification: 0x41, ready: 0x5a } as const;

/** Codes of the first message, which has no type byte. */
export const STARTUP = { cancel: 80_877_102, tls: 80_877_103, gss: 80_877_104 } as const;

/** The last byte of ReadyForQuery: idle, in a transaction, in a transaction that failed. */
export type TransactionStatus = "I" | "T" | "E";

const HEADER = 5;
/** No message of ours or of a server that we know comes near; what claims to be longer is no PostgreSQL. */
const MAX_MESSAGE_BYTES = 256 * 1024 * 1024;

/** The stream that was read is not PostgreSQL's protocol. */
export class ProtocolFault extends Error {
  constructor(what: string) {
    super(`what came is not PostgreSQL's protocol: ${what}`);
    this.name = "ProtocolFault";
  }
}

/** The length of the message that begins at `at`, its type byte included; undefined where its header is not all there. */
const messageLength = (bytes: Buffer, at: number): number | undefined => {
  if (bytes.length - at < HEADER) return undefined;
  const length = bytes.readInt32BE(at + 1);
  if (length < 4 || length > MAX_MESSAGE_BYTES) throw new ProtocolFault(`a message of ${length} bytes`);
  return 1 + length;
};

/** Calls `each` with every message in `bytes`, which holds whole ones only. */
export const eachMessage = (bytes: Buffer, each: (type: number, message: Buffer) => void): void => {
  for (let at = 0; at < bytes.length;) {
    const length = messageLength(bytes, at);
    if (length === undefined || at + length > bytes.length) throw new ProtocolFault("a message in pieces");
    each(bytes[at] as number, bytes.subarray(at, at + length));
    at += length;
  }
};

/**
 * Cuts a stream at the ends of messages: takes what arrived, gives back all that is whole (undefined: nothing yet), and
 * keeps the rest. Pieces of a long message are kept as they are and joined once.
 */
export const wholeMessages = (): ((chunk: Buffer) => Buffer | undefined) => {
  let pieces: Buffer[] = [];
  let held = 0;
  /** Bytes that make the message at the front of `pieces` whole; 0 where its header is not known. */
  let wanted = 0;
  return (chunk) => {
    pieces.push(chunk);
    held += chunk.length;
    if (held < Math.max(wanted, HEADER)) return undefined;
    const bytes = pieces.length === 1 ? chunk : Buffer.concat(pieces, held);
    let end = 0;
    wanted = 0;
    for (;;) {
      const length = messageLength(bytes, end);
      if (length === undefined) break;
      if (end + length > bytes.length) {
        wanted = length;
        break;
      }
      end += length;
    }
    pieces = end === bytes.length ? [] : [bytes.subarray(end)];
    held = bytes.length - end;
    return end === 0 ? undefined : bytes.subarray(0, end);
  };
};

/** The zero-terminated texts at the head of a message's body, `count` of them. */
export const leadingTexts = (message: Buffer, count: number): readonly string[] => {
  const texts: string[] = [];
  let at = HEADER;
  while (texts.length < count) {
    const end = message.indexOf(0, at);
    if (end < 0) throw new ProtocolFault("a text without an end");
    texts.push(message.toString("utf8", at, end));
    at = end + 1;
  }
  return texts;
};

/** A message of `type` with `body`. */
export const message = (type: number, body: Buffer): Buffer => {
  const out = Buffer.allocUnsafe(HEADER + body.length);
  out[0] = type;
  out.writeInt32BE(4 + body.length, 1);
  body.copy(out, HEADER);
  return out;
};

const COMMAND_COMPLETE = 0x43;

/** ErrorResponse, severity ERROR. `code` is an SQLSTATE. */
export const errorResponse = (code: string, text: string): Buffer =>
  message(BACKEND.error, Buffer.from(`SERROR\0VERROR\0C${code}\0M${text}\0\0`));

export const commandComplete = (tag: string): Buffer => message(COMMAND_COMPLETE, Buffer.from(`${tag}\0`));

export const readyForQuery = (status: TransactionStatus): Buffer => message(BACKEND.ready, Buffer.from(status));

/** The status that a ReadyForQuery tells. */
export const statusOf = (ready: Buffer): TransactionStatus =>
  String.fromCharCode(ready[HEADER] ?? 0) as TransactionStatus;

/** The fields of an ErrorResponse, by their letters: `V` severity, `C` SQLSTATE, `M` text. */
export const errorFields = (error: Buffer): Readonly<Record<string, string>> =>
  Object.fromEntries(
    error
      .toString("utf8", HEADER)
      .split("\0")
      .filter((field) => field !== "")
      .map((field) => [field.slice(0, 1), field.slice(1)]),
  );

/**
 * An ErrorResponse without the name of the server's routine (`R`). postgres.js looks at that name alone, and for some of
 * them sends a statement again in the middle of its pipeline: every answer after it then belongs to another question.
 */
export const withoutRoutine = (error: Buffer): Buffer => {
  const fields = error.toString("latin1", HEADER).split("\0");
  const kept = fields.filter((field) => field !== "" && !field.startsWith("R"));
  return message(BACKEND.error, Buffer.from(`${kept.join("\0")}\0\0`, "latin1"));
};

/** The name and value pairs of a startup message. */
export const startupParameters = (startup: Buffer): Readonly<Record<string, string>> => {
  const texts = startup.toString("utf8", 8).split("\0");
  const pairs: Record<string, string> = {};
  for (let i = 0; i + 1 < texts.length && texts[i] !== ""; i += 2) pairs[texts[i] as string] = texts[i + 1] as string;
  return pairs;
};

const PROTOCOL_3 = 196_608;

export const startupMessage = (parameters: Readonly<Record<string, string>>): Buffer => {
  const body = Buffer.from(`${Object.entries(parameters).flat().join("\0")}\0\0`);
  const out = Buffer.allocUnsafe(8 + body.length);
  out.writeInt32BE(out.length, 0);
  out.writeInt32BE(PROTOCOL_3, 4);
  body.copy(out, 8);
  return out;
};
