import type { IncomingMessage } from "node:http";

const ignore = (): void => undefined;

/**
 * Whether a request's connection is read. `request.pause()` does not stop it: node:http goes on until 64 KiB are buffered,
 * which are 65 536 buffers where a chunk is one byte, all of them handed out in one go. This stops the socket itself, and
 * `_read`, by which each chunk that is on its way would start it again; what came with the last read still comes, at most
 * 64 KiB of the wire. One for each request: whoever shuts it opens it, and a connection that is not read never ends.
 */
export class Tap {
  private readonly request: IncomingMessage;
  private shut = false;
  private stopped = false;

  constructor(request: IncomingMessage) {
    this.request = request;
  }

  close(): void {
    this.shut = true;
    if (this.stopped) return;
    this.stopped = true;
    this.request._read = ignore;
    this.request.socket.pause();
  }

  /** At the end of the tick: a socket that is stopped again in the tick in which it was started would be read. */
  open(): void {
    if (!this.shut) return;
    this.shut = false;
    process.nextTick(settle, this);
  }

  settle(): void {
    if (this.shut || !this.stopped) return;
    this.stopped = false;
    Reflect.deleteProperty(this.request, "_read"); // the class's own is there again
    this.request.socket.resume();
  }
}

const settle = (tap: Tap): void => tap.settle();
