/** What is put together goes on at the latest when it weighs so much; a chunk of this size goes on by itself. */
export const GATHER_BYTES = 16 * 1024;

/** Small chunks that are waiting to go on as one. A single one is handed on as it is, without a copy. */
export class Gather {
  private first: Buffer | undefined = undefined;
  private others: Buffer[] | undefined = undefined;
  bytes = 0;

  add(chunk: Buffer): void {
    this.bytes += chunk.byteLength;
    if (this.first === undefined) this.first = chunk;
    else if (this.others === undefined) this.others = [this.first, chunk];
    else this.others.push(chunk);
  }

  /** All that was added, in one piece; undefined where nothing was. */
  take(): Buffer | undefined {
    const { first, others, bytes } = this;
    this.first = undefined;
    this.others = undefined;
    this.bytes = 0;
    return others === undefined ? first : Buffer.concat(others, bytes);
  }
}

/** A chunk below this weighs less than the work that it makes. */
const SMALL_BYTES = 64;
/** So many small chunks a window: some 50 000 a second and direction, a twentieth of one processor. */
const SMALL_CHUNKS = 512;
const WINDOW_MS = 10;

/**
 * How fast one end may send small chunks. Each costs a parser's call-back, whatever it weighs: without a limit a call that
 * sends single bytes has the main thread for itself. Whoever is over it is paused, never refused.
 */
export class Pace {
  private left = SMALL_CHUNKS;
  private since_ms = 0;

  /** Milliseconds for which nothing more is to be read after this chunk; nearly always 0. The clock is asked once a window. */
  pause_ms(bytes: number): number {
    if (bytes >= SMALL_BYTES) return 0;
    this.left -= 1;
    if (this.left > 0) return 0;
    const now_ms = performance.now(); // a timer's own time, whatever clock a role was given
    const rest_ms = Math.max(0, this.since_ms + WINDOW_MS - now_ms);
    this.left = SMALL_CHUNKS;
    this.since_ms = now_ms + rest_ms;
    return rest_ms;
  }
}
