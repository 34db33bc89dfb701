import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { trustedCa } from "./trust.ts";

/**
 * HTTP/1.1 over a socket of our own: what a client library hides or mends (whether an answer was whole, which trailers
 * came, what a malformed request gets) is seen as it is on the wire.
 */

export type RawAnswer = {
  readonly status: number;
  /** Lower-case names; what came several times is joined by commas. */
  readonly headers: Readonly<Record<string, string>>;
  readonly trailers: Readonly<Record<string, string>>;
  readonly body: string;
  /** The framing says that nothing is missing: the last chunk came, or as many bytes as were announced. */
  readonly complete: boolean;
  /** The peer has closed the connection. */
  readonly closed: boolean;
};

export type RawConnection = {
  write(bytes: string | Buffer): void;
  /** Sends the end of our side. */
  end(): void;
  /** The answer as far as it is here; undefined before its headers. */
  seen(): RawAnswer | undefined;
  /** The next answer, once it is complete or the connection ended. Undefined where it ended before any headers. */
  answer(timeout_ms?: number): Promise<RawAnswer | undefined>;
  /** Calls back with each piece of the body as it arrives, the framing taken off. */
  onBody(listener: (text: string) => void): void;
  /** The peer's end, whichever way. */
  closed(timeout_ms?: number): Promise<void>;
  destroy(): void;
};

type Parser = { push(bytes: Buffer): void; answer(): RawAnswer | undefined; end(): void; reset(): void };

const parseFields = (lines: readonly string[]): Record<string, string> => {
  const fields: Record<string, string> = {};
  for (const line of lines) {
    const at = line.indexOf(":");
    if (at <= 0) continue;
    const name = line.slice(0, at).toLowerCase();
    const value = line.slice(at + 1).trim();
    fields[name] = fields[name] === undefined ? value : `${fields[name]}, ${value}`;
  }
  return fields;
};

const CRLF = Buffer.from("\r\n");
const BLANK = Buffer.from("\r\n\r\n");

const createParser = (head_only: boolean, onBody: (text: string) => void): Parser => {
  let buffer: Buffer = Buffer.alloc(0);
  let status = 0;
  let headers: Record<string, string> | undefined;
  let trailers: Record<string, string> = {};
  let body: Buffer[] = [];
  let left = 0; // bytes of the body (or of the chunk in hand) that are still to come
  let state: "head" | "length" | "chunk-size" | "chunk" | "trailers" | "until-close" | "done" = "head";
  let ended = false;

  const take = (length: number): Buffer => {
    const taken = buffer.subarray(0, length);
    buffer = buffer.subarray(length);
    return taken;
  };

  const bodyPiece = (bytes: Buffer): void => {
    if (bytes.byteLength === 0) return;
    body.push(bytes);
    onBody(bytes.toString("utf8"));
  };

  const readHead = (): boolean => {
    const at = buffer.indexOf(BLANK);
    if (at < 0) return false;
    const [first = "", ...lines] = take(at + 4)
      .toString("latin1")
      .split("\r\n");
    status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(first)?.[1] ?? 0);
    if (status >= 100 && status < 200) return true; // an interim answer: the real one follows
    headers = parseFields(lines);
    const length = headers["content-length"];
    if (head_only || status === 204 || status === 304) state = "done";
    else if (/chunked/i.test(headers["transfer-encoding"] ?? "")) state = "chunk-size";
    else if (length !== undefined) {
      left = Number(length);
      state = left === 0 ? "done" : "length";
    } else state = "until-close";
    return true;
  };

  const readChunkSize = (): boolean => {
    const at = buffer.indexOf(CRLF);
    if (at < 0) return false;
    left = Number.parseInt(take(at + 2).toString("latin1"), 16);
    state = left === 0 ? "trailers" : "chunk";
    return true;
  };

  const readChunk = (): boolean => {
    if (left > 0) {
      if (buffer.byteLength === 0) return false;
      const piece = take(Math.min(left, buffer.byteLength));
      left -= piece.byteLength;
      bodyPiece(piece);
      return true;
    }
    if (buffer.byteLength < 2) return false;
    take(2);
    state = "chunk-size";
    return true;
  };

  const readTrailers = (): boolean => {
    if (buffer.subarray(0, 2).equals(CRLF)) {
      take(2);
      state = "done";
      return true;
    }
    const at = buffer.indexOf(BLANK);
    if (at < 0) return false;
    trailers = parseFields(
      take(at + 4)
        .toString("latin1")
        .split("\r\n"),
    );
    state = "done";
    return true;
  };

  const readLength = (): boolean => {
    if (buffer.byteLength === 0) return false;
    const piece = take(Math.min(left, buffer.byteLength));
    left -= piece.byteLength;
    bodyPiece(piece);
    if (left === 0) state = "done";
    return state !== "done";
  };

  const STEPS = {
    head: readHead,
    length: readLength,
    "chunk-size": readChunkSize,
    chunk: readChunk,
    trailers: readTrailers,
    "until-close": () => {
      bodyPiece(take(buffer.byteLength));
      return false;
    },
    done: () => false,
  } as const;

  const advance = (): void => {
    while (STEPS[state]()) {
      // each step takes what it can
    }
  };

  return {
    push(bytes) {
      buffer = Buffer.concat([buffer, bytes]);
      advance();
    },
    end() {
      ended = true;
    },
    answer: () =>
      headers === undefined
        ? undefined
        : {
            status,
            headers,
            trailers,
            body: Buffer.concat(body).toString("utf8"),
            // An answer that is framed by the connection's end can't show that it is whole.
            complete: state === "done",
            closed: ended,
          },
    reset() {
      headers = undefined;
      trailers = {};
      body = [];
      state = "head";
      advance();
    },
  };
};

const DEFAULT_TIMEOUT_MS = 10_000;

/** Opens a connection to a URL's host. `head_only`: the answers are to HEAD. */
export const openRaw = async (
  url: string,
  options: { readonly head_only?: boolean; readonly ca?: string } = {},
): Promise<RawConnection> => {
  const { protocol, hostname, port } = new URL(url);
  const ca = options.ca ?? trustedCa();
  const socket: Socket =
    protocol === "https:"
      ? connectTls({ host: hostname, port: Number(port), ...(ca === undefined ? {} : { ca }) })
      : connect({ host: hostname, port: Number(port) });
  socket.setNoDelay(true);
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.once(protocol === "https:" ? "secureConnect" : "connect", () => resolve());
  });
  socket.removeAllListeners("error");
  socket.on("error", () => undefined); // a reset is an end; `close` follows

  const listeners: ((text: string) => void)[] = [];
  const parser = createParser(options.head_only === true, (text) => {
    for (const listener of listeners) listener(text);
  });
  const waiting = new Set<() => void>();
  const wake = (): void => {
    for (const check of [...waiting]) check();
  };
  socket.on("data", (bytes: Buffer) => {
    parser.push(bytes);
    wake();
  });
  let closed = false;
  for (const event of ["end", "close"] as const) {
    socket.on(event, () => {
      closed = true;
      parser.end();
      wake();
    });
  }

  const until = (holds: () => boolean, what: string, timeout_ms: number): Promise<void> =>
    new Promise((resolve, reject) => {
      const done = (): void => {
        clearTimeout(timer);
        waiting.delete(check);
      };
      const check = (): void => {
        if (!holds()) return;
        done();
        resolve();
      };
      const timer = setTimeout(() => {
        done();
        reject(new Error(`${what} did not come within ${timeout_ms} ms; so far: ${JSON.stringify(parser.answer())}`));
      }, timeout_ms);
      waiting.add(check);
      check();
    });

  return {
    write: (bytes) => void socket.write(bytes),
    end: () => void socket.end(),
    seen: parser.answer,
    async answer(timeout_ms = DEFAULT_TIMEOUT_MS) {
      await until(() => closed || parser.answer()?.complete === true, "an answer", timeout_ms);
      const answer = parser.answer();
      parser.reset();
      return answer;
    },
    onBody: (listener) => void listeners.push(listener),
    closed: (timeout_ms = DEFAULT_TIMEOUT_MS) => until(() => closed, "the connection's end", timeout_ms),
    destroy: () => void socket.destroy(),
  };
};

/** One exchange on a connection of its own: sends the bytes, gives back the answer. */
export const rawRequest = async (
  url: string,
  bytes: string | Buffer,
  options: { readonly timeout_ms?: number; readonly head_only?: boolean; readonly ca?: string } = {},
): Promise<RawAnswer | undefined> => {
  const connection = await openRaw(url, options);
  try {
    connection.write(bytes);
    return await connection.answer(options.timeout_ms);
  } finally {
    connection.destroy();
  }
};

/** The text of a request. Header values go out as they are given, several of one name where the value is a list. */
export const requestText = (
  method: string,
  target: string,
  headers: Readonly<Record<string, string | readonly string[]>>,
  body?: string,
): string => {
  const lines = Object.entries(headers).flatMap(([name, value]) =>
    (typeof value === "string" ? [value] : value).map((one) => `${name}: ${one}`),
  );
  if (body !== undefined) lines.push(`Content-Length: ${Buffer.byteLength(body)}`);
  return `${method} ${target} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n${body ?? ""}`;
};
