import { Duplex } from "node:stream";
import type { MessagePort } from "node:worker_threads";

/** Bytes that may be on their way, unread by the other side, before a writer waits. */
const WINDOW_BYTES = 1024 * 1024;

/** Bytes; or how many of ours the other side has read; or that nothing more will come. */
type Parcel = Uint8Array | number | null;

/**
 * A byte stream over a message port, the same on both sides. The other side tells what it has read, so that a writer
 * waits for a reader that is slow; a port that closes without its end having been sent destroys the stream.
 */
export const portStream = (port: MessagePort): Duplex => {
  let unread = 0;
  let waiting: (() => void) | undefined;
  /** Read from the port, and not yet taken by whoever reads the stream. */
  let owed = 0;

  const stream: Duplex = new Duplex({
    allowHalfOpen: true,
    read() {
      if (owed === 0) return;
      const taken = owed;
      owed = 0;
      port.postMessage(taken satisfies Parcel);
    },
    write(chunk: Buffer, _encoding, done) {
      const bytes = new Uint8Array(chunk); // a copy of its own, whose memory goes along
      unread += bytes.length;
      port.postMessage(bytes satisfies Parcel, [bytes.buffer]);
      if (unread < WINDOW_BYTES) done();
      else waiting = () => done();
    },
    final(done) {
      port.postMessage(null satisfies Parcel);
      done();
    },
    destroy(error, done) {
      waiting = undefined;
      port.close();
      done(error);
    },
  });

  port.on("message", (parcel: Parcel) => {
    if (stream.destroyed) return;
    if (parcel === null) {
      stream.push(null);
    } else if (typeof parcel === "number") {
      unread -= parcel;
      if (unread >= WINDOW_BYTES) return;
      const go_on = waiting;
      waiting = undefined;
      go_on?.();
    } else {
      owed += parcel.length;
      if (!stream.push(Buffer.from(parcel.buffer, parcel.byteOffset, parcel.byteLength))) return;
      // Taken at once: `read` is not called for what never waited.
      const taken = owed;
      owed = 0;
      port.postMessage(taken satisfies Parcel);
    }
  });
  port.on("close", () => stream.destroy());
  return stream;
};
