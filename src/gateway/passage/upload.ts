import type { IncomingMessage } from "node:http";
import { Readable } from "node:stream";
import type { Inbound } from "../facts.ts";
import { Gather, GATHER_BYTES } from "./gather.ts";
import { type Pace, type Paced, SMALL_BYTES } from "./pace.ts";
import type { Tap } from "./tap.ts";

/** A body that is here already, a body that is still coming, or none. `length`: for a body that is still coming. */
export type Outgoing = { readonly body: Buffer | Upload | null; readonly length: number | undefined };

const NO_BODY: Outgoing = { body: null, length: undefined };

export type UploadEvents = { readonly max_bytes: number; onBytes(): void; onTooLarge(): void };

/**
 * A small body has come in whole while the call was decided on: it goes out in one piece, with its length. Any other is
 * streamed with back-pressure, and counted: past the limit the call ends before the upstream sees the end of it. `pace`:
 * of the client; asked for only where a body is streamed.
 */
export const outgoingBody = (
  request: IncomingMessage,
  inbound: Inbound,
  events: UploadEvents,
  tap: Tap,
  pace: () => Pace,
): Outgoing => {
  if (!inbound.chunked && (inbound.content_length ?? 0) === 0) return NO_BODY;
  if (request.complete && request.readableLength <= events.max_bytes) {
    const whole = request.read() as Buffer | null;
    return { body: whole, length: undefined };
  }
  return { body: new Upload(request, events, tap, pace()), length: inbound.content_length };
};

/**
 * The request's body as a stream of its own: destroying it ends the upstream's call, not the client's connection. The
 * chunks of one turn of the loop go on as one.
 */
export class Upload extends Readable implements Paced {
  private readonly request: IncomingMessage;
  private readonly events: UploadEvents;
  private readonly pace: Pace;
  private readonly tap: Tap;
  private readonly gathered = new Gather();
  private bytes = 0;
  private flushing = false;
  /** The client owes for small chunks: nothing is read until this is over. */
  private paced: NodeJS.Timeout | undefined = undefined;
  /** The upstream takes no more for now. */
  private full = false;

  constructor(request: IncomingMessage, events: UploadEvents, tap: Tap, pace: Pace) {
    super({ highWaterMark: 64 * 1024 });
    this.request = request;
    this.events = events;
    this.pace = pace;
    this.tap = tap;
    this.on("error", () => undefined);
    pace.reading.add(this);
    const rest_ms = pace.rest_ms(); // of the client's other calls
    if (rest_ms > 0) this.holdFor(rest_ms);
    request.on("data", this.onData).on("end", this.onEnd).on("close", this.onGone).on("error", this.onGone);
  }

  override _read(): void {
    this.full = false;
    if (this.paced === undefined) this.tap.open();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    const { request } = this;
    clearTimeout(this.paced);
    this.pace.reading.delete(this);
    this.gathered.take();
    request.off("data", this.onData).off("end", this.onEnd).off("close", this.onGone).off("error", this.onGone);
    request.on("error", () => undefined); // whatever else happens to it concerns nobody any more
    this.tap.open(); // what is left of it is read by whoever answers
    done(error);
  }

  private readonly onData = (chunk: Buffer): void => {
    this.bytes += chunk.byteLength;
    if (this.bytes > this.events.max_bytes) {
      this.events.onTooLarge();
      return;
    }
    if (this.gathered.bytes + chunk.byteLength > GATHER_BYTES) this.pushGathered();
    if (chunk.byteLength > GATHER_BYTES) this.pass(chunk);
    else {
      this.gathered.add(chunk);
      if (!this.flushing) {
        this.flushing = true;
        setImmediate(flush, this); // not nextTick: node:http empties that queue after each chunk of one read
      }
    }
    if (chunk.byteLength < SMALL_BYTES) this.pace.small();
  };

  holdFor(pause_ms: number): void {
    if (this.paced !== undefined) return;
    this.tap.close();
    this.paced = setTimeout(() => this.goOn(), pause_ms);
  }

  private goOn(): void {
    this.paced = undefined;
    const rest_ms = this.pace.rest_ms(); // what came with the last read counts, too, and what the client's other calls spent
    if (rest_ms > 0) this.holdFor(rest_ms);
    else if (!this.full) this.tap.open();
  }

  flush(): void {
    this.flushing = false;
    this.pushGathered();
  }

  private pass(chunk: Buffer): void {
    this.events.onBytes();
    if (this.push(chunk)) return;
    this.full = true;
    this.tap.close();
  }

  private pushGathered(): void {
    const chunk = this.gathered.take();
    if (chunk !== undefined && !this.destroyed) this.pass(chunk);
  }

  private readonly onEnd = (): void => {
    clearTimeout(this.paced);
    this.pace.reading.delete(this);
    this.pushGathered();
    this.push(null);
    this.tap.open(); // what the connection carries next is no part of this
  };

  private readonly onGone = (): void => {
    if (!this.request.complete) this.destroy(new Error("the client went away"));
  };
}

const flush = (upload: Upload): void => upload.flush();
