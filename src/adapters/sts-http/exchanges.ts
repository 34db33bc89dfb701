import type { Pool } from "undici";
import {
  batchText,
  type ExchangeAnswer,
  exchangeBytes,
  type GatewayExchange,
  MAX_EXCHANGE_BYTES,
  MAX_EXCHANGES,
  MAX_EXCHANGES_BYTES,
  readLine,
} from "../../contracts/exchange.ts";
import type { Cancellation } from "../../kernel/cancel.ts";
import { StsTimeout } from "../../ports/sts.ts";
import { createLineReader } from "./lines.ts";
import { unusable } from "./unusable.ts";

/** Exchanges at once, those that wait for a batch to end included. */
const MAX_PENDING = 4_096;
/** What stands around the exchanges in a batch. */
const ENVELOPE_BYTES = 32;
/** What is read of an answer that is no answer, for the reason in it. */
const MAX_REFUSAL_BYTES = 16 * 1024;
const REASON = /^[a-z_]{1,64}$/;

export type ExchangesOptions = {
  readonly pool: Pool;
  readonly path: string;
  /** Names and values that sign this body. */
  readonly sign: (body: Buffer) => readonly string[];
  /**
   * How long an answer may be silent. Callers leave by their own time, and the last one takes the request along. This frees the
   * connection of an answer that has said everything and does not end.
   */
  readonly silent_ms: number;
  /** Under way at once; a connection each. What comes while there are so many waits, and goes together. */
  readonly max_batches: number;
};

type Pending = {
  readonly request: GatewayExchange;
  readonly bytes: number;
  readonly signal: Cancellation;
  readonly resolve: (answer: ExchangeAnswer) => void;
  readonly reject: (error: Error) => void;
  readonly onAbort: () => void;
  /** The batch that it is in, and its place there, for as long as it is waited for. */
  batch: Batch | undefined;
  place: number;
  settled: boolean;
};

type Batch = {
  /**
   * Those that are still waited for, each at its place. A settled one is removed. A batch in the collector's old generation
   * would else keep its callers, and through them all later calls, until the next full collection.
   */
  readonly exchanges: (Pending | undefined)[];
  /** Those whose line has come; another one would contradict it. */
  readonly told: Set<number>;
  /** Those that somebody still waits for. */
  waiting: number;
  abort: ((error: Error) => void) | undefined;
  ended: Error | undefined;
};

/** What the token endpoint says to a form of that size: too much was asked for, and nothing failed. */
const tooLarge = (request_id: string): ExchangeAnswer => ({
  ok: false,
  status: 413,
  body: {
    error: "invalid_request",
    error_description: `The exchange has more than ${MAX_EXCHANGE_BYTES} bytes.`,
    reason: "form_too_large",
    requestId: request_id,
  },
});

const reasonIn = (body: Buffer): string => {
  try {
    const { reason } = JSON.parse(body.toString("utf8")) as { readonly reason?: unknown };
    return typeof reason === "string" && REASON.test(reason) ? `, ${reason}` : "";
  } catch {
    return "";
  }
};

const isTooSlow = (error: Error): boolean => "code" in error && error.code === "UND_ERR_CONNECT_TIMEOUT";

/**
 * Exchanges over HTTP. Those of one tick go in one signed request, a batch. Its answer brings a line for each as soon as it is
 * decided. An exchange is in one batch, and is sent once at most. It is waited for until its signal says that nobody waits any
 * more. It is `Unavailable` where the batch has no line for it: the connection broke, the answer ended, or it is not as agreed.
 */
export const createExchanges = (
  options: ExchangesOptions,
): ((request: GatewayExchange, signal: Cancellation) => Promise<ExchangeAnswer>) => {
  const { pool, path, silent_ms } = options;
  let queue: Pending[] = [];
  let pending = 0;
  let under_way = 0;
  let scheduled = false;

  /** Whether it was still waited for. */
  const settle = (one: Pending): boolean => {
    if (one.settled) return false;
    one.settled = true;
    pending -= 1;
    one.signal.removeEventListener("abort", one.onAbort);
    const { batch } = one;
    if (batch === undefined) return true;
    batch.waiting -= 1;
    batch.exchanges[one.place] = undefined;
    one.batch = undefined;
    return true;
  };

  const stop = (batch: Batch, error: Error): void => {
    batch.ended ??= error;
    batch.abort?.(error);
  };

  /** One gives up; the last one to do so takes the request along. */
  const leave = (one: Pending, error: Error): void => {
    const { batch } = one;
    if (!settle(one)) return;
    one.reject(error);
    if (batch?.waiting === 0) stop(batch, error);
  };

  const failRest = (batch: Batch, error: Error): void => {
    for (const one of batch.exchanges) if (one !== undefined && settle(one)) one.reject(error);
  };

  const fail = (batch: Batch, error: Error): void => {
    failRest(batch, error);
    stop(batch, error);
  };

  const onLine = (batch: Batch, text: string): void => {
    if (batch.ended !== undefined) return;
    const line = readLine(text, batch.exchanges.length);
    if (line === undefined || batch.told.has(line.exchange)) {
      // Whose it was can't be known, so nothing that is still to come can be believed.
      fail(batch, unusable("a line of its answer is not what was agreed on"));
      return;
    }
    batch.told.add(line.exchange);
    const one = batch.exchanges[line.exchange];
    if (one === undefined || !settle(one)) return;
    if (line.answer === undefined) one.reject(unusable("its answer has another form than agreed"));
    else one.resolve(line.answer);
    // Those that have no line yet are waited for by nobody: their connection is somebody else's.
    if (batch.waiting === 0 && batch.told.size < batch.exchanges.length) stop(batch, unusable("the callers gave up"));
  };

  /** The request is over, whichever way. `why` is asked where somebody still waits: an error is dear to make. */
  const end = (batch: Batch, why: () => Error): void => {
    under_way -= 1;
    batch.abort = undefined;
    if (batch.waiting > 0) failRest(batch, why());
    if (queue.length > 0) schedule();
  };

  const send = (exchanges: Pending[]): void => {
    const batch: Batch = {
      exchanges,
      told: new Set(),
      waiting: exchanges.length,
      abort: undefined,
      ended: undefined,
    };
    for (const [place, one] of exchanges.entries()) {
      one.batch = batch;
      one.place = place;
    }
    const body = Buffer.from(batchText(exchanges.map((one) => one.request)));
    const lines = createLineReader((text) => onLine(batch, text));
    const refusal: Buffer[] = [];
    let refusal_bytes = 0;
    let status = 0;
    under_way += 1;
    pool.dispatch(
      {
        method: "POST",
        path,
        headers: ["content-type", "application/json", "accept", "application/x-ndjson", ...options.sign(body)],
        body,
        bodyTimeout: silent_ms,
      },
      {
        onConnect(abort) {
          if (batch.ended === undefined) batch.abort = abort;
          else abort(batch.ended); // all gave up while it was waiting for a connection: never sent
        },
        onHeaders(code) {
          if (code >= 200) status = code;
          return true;
        },
        onData(chunk) {
          if (batch.ended !== undefined) return true; // being broken off: undici asserts that nothing is paused when it ends
          if (status === 200) {
            if (!lines.push(chunk)) fail(batch, unusable("a line of its answer is too long"));
            return true;
          }
          refusal_bytes += chunk.byteLength;
          if (refusal_bytes > MAX_REFUSAL_BYTES) fail(batch, unusable(`it answered with status ${status}`));
          else refusal.push(chunk);
          return true;
        },
        onComplete() {
          end(batch, () => {
            if (status !== 200) return unusable(`it answered with status ${status}${reasonIn(Buffer.concat(refusal))}`);
            return unusable(lines.unfinished ? "its answer broke off in a line" : "its answer lacks a line");
          });
        },
        onError(error) {
          end(batch, () => (isTooSlow(error) ? new StsTimeout() : unusable("unreachable", error)));
        },
      },
    );
  };

  /** The next batch of those that are still waited for, in the order in which they came. */
  const takeBatch = (): Pending[] => {
    const batch: Pending[] = [];
    let bytes = ENVELOPE_BYTES;
    let taken = 0;
    for (const one of queue) {
      if (!one.settled) {
        if (batch.length === MAX_EXCHANGES || bytes + one.bytes + 1 > MAX_EXCHANGES_BYTES) break;
        batch.push(one);
        bytes += one.bytes + 1; // and a comma
      }
      taken += 1;
    }
    queue = taken === queue.length ? [] : queue.slice(taken);
    return batch;
  };

  const flush = (): void => {
    scheduled = false;
    while (queue.length > 0 && under_way < options.max_batches) {
      const batch = takeBatch();
      if (batch.length > 0) send(batch);
    }
  };

  const schedule = (): void => {
    if (scheduled) return;
    scheduled = true;
    setImmediate(flush); // after every callback of this tick, so that what they ask for goes along
  };

  return (request, signal) =>
    new Promise((resolve, reject) => {
      if (pending >= MAX_PENDING) {
        reject(unusable("too many calls are under way"));
        return;
      }
      if (signal.aborted) {
        reject(unusable("the caller gave up"));
        return;
      }
      const bytes = exchangeBytes(request);
      if (bytes > MAX_EXCHANGE_BYTES) {
        resolve(tooLarge(request.request_id));
        return;
      }
      const one: Pending = {
        request,
        bytes,
        signal,
        resolve,
        reject,
        onAbort: () => leave(one, unusable("the caller gave up")),
        batch: undefined,
        place: 0,
        settled: false,
      };
      signal.addEventListener("abort", one.onAbort, { once: true });
      pending += 1;
      // While every batch is held up, those whose callers left would pile up here.
      if (queue.length >= 2 * MAX_PENDING) queue = queue.filter((other) => !other.settled);
      queue.push(one);
      schedule();
    });
};
