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
