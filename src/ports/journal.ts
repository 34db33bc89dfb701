/** A record on disk: its number within the journal, and its bytes. */
export type JournalRecord = { readonly seq: number; readonly payload: Buffer };

/**
 * A bounded queue on disk. Contract: what `append` resolved has been synced and is read again after a crash, in order,
 * until it is released; a record that was torn by the crash is not (its append never resolved). What the disk damaged is told
 * when the journal is opened, and costs itself alone. One process per folder.
 */
export type Journal = {
  /** Calls of one tick share one write and one sync. Rejects when the journal is full or the disk refuses. */
  append(payloads: readonly Uint8Array[]): Promise<readonly number[]>;
  /** The oldest records after `after` (0: from the first). */
  read(after: number, count: number): Promise<readonly JournalRecord[]>;
  /** Everything up to and with `seq` is done with and may go from the disk. */
  release(seq: number): Promise<void>;
  /** Records not released. */
  readonly size: number;
  /** Records that could not be read any more when it was opened. */
  readonly damaged: number;
  close(): Promise<void>;
};
