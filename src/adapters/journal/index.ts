import { type FileHandle, mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { lockFolder } from "../../kernel/folder-lock.ts";
import { StartupFault } from "../../kernel/problem.ts";
import type { Journal, JournalRecord } from "../../ports/journal.ts";
import { encodeRecord, firstSeqOf, HEADER_BYTES, scanRecords, segmentName } from "./segment.ts";

export type JournalOptions = {
  /** Made with mode 0700 where it is missing. */
  readonly dir: string;
  /** Several journals may share a folder. `[a-z0-9_-]`. */
  readonly name: string;
  /** On disk, released records in unfinished segments included; an append beyond it is rejected. */
  readonly max_bytes: number;
  /** A segment is closed, and may later be deleted, once it is at least so long. 4 MiB by default. */
  readonly segment_bytes?: number;
};

/** The journal holds `max_bytes`; what should go in has to wait until something was released. */
export class JournalFull extends Error {
  constructor(name: string, max_bytes: number) {
    super(`the journal ${name} is full (${max_bytes} bytes)`);
    this.name = "JournalFull";
  }
}

type Segment = {
  readonly first_seq: number;
  readonly path: string;
  readonly file: FileHandle;
  offsets: number[];
  end: number;
};
type Waiting = {
  readonly payloads: readonly Uint8Array[];
  readonly resolve: (seqs: readonly number[]) => void;
  readonly reject: (error: unknown) => void;
};

const SEGMENT_BYTES = 4 * 1024 * 1024;
/** What may wait in memory for the disk. */
const MAX_WAITING_BYTES = 32 * 1024 * 1024;
/** One `read` gives back so much at most, beyond its first record. */
const MAX_READ_BYTES = 4 * 1024 * 1024;

const lastSeqOf = (segment: Segment): number => segment.first_seq + segment.offsets.length - 1;

/** A new name is durable only once its folder is. */
const syncFolder = async (dir: string): Promise<void> => {
  const folder = await open(dir, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
};

const openSegment = async (dir: string, name: string, first_seq: number): Promise<Segment> => {
  const path = join(dir, segmentName(name, first_seq));
  const file = await open(path, "a+", 0o600); // "a": a write can only ever land behind what is there
  await syncFolder(dir);
  return { first_seq, path, file, offsets: [], end: 0 };
};

/**
 * Reads the segments. Only the last can be torn, since the next is made when the one before is synced: damage anywhere
 * else is the disk's, and records that were promised may be gone, which is for a person to look at.
 */
const recover = async (dir: string, name: string): Promise<Segment[]> => {
  const firsts = (await readdir(dir)).map((file) => firstSeqOf(name, file)).filter((seq) => seq !== undefined);
  firsts.sort((a, b) => a - b);
  const segments: Segment[] = [];
  for (const [i, first_seq] of firsts.entries()) {
    const path = join(dir, segmentName(name, first_seq));
    const bytes = await readFile(path);
    const { offsets, end } = scanRecords(bytes, first_seq);
    const next = firsts[i + 1];
    if (next !== undefined && (end !== bytes.byteLength || first_seq + offsets.length !== next)) {
      await Promise.all(segments.map((segment) => segment.file.close()));
      throw new StartupFault(
        `${path}: is damaged at byte ${end}; move the file away to start without the records that follow there`,
      );
    }
    const file = await open(path, "a+", 0o600);
    if (end !== bytes.byteLength) {
      await file.truncate(end);
      await file.sync();
    }
    segments.push({ first_seq, path, file, offsets, end });
  }
  return segments;
};

/** Opens, and cuts a torn tail off. Throws `StartupFault` where the folder is another process's, damaged or unusable. */
export const openJournal = async (options: JournalOptions): Promise<Journal> => {
  const { dir, name, max_bytes } = options;
  const segment_bytes = options.segment_bytes ?? SEGMENT_BYTES;
  const released_path = join(dir, `${name}.released`);
  await mkdir(dir, { recursive: true, mode: 0o700 }).catch((error: Error) => {
    throw new StartupFault(`${dir}: can't be made (${error.message}); give a folder that this user may write to`);
  });
  const unlock = await lockFolder(join(dir, `${name}.held`)).catch((error: Error) => {
    throw new StartupFault(`${dir}: can't be written to (${error.message}); give a folder that this user may write to`);
  });
  if (unlock === undefined)
    throw new StartupFault(
      `${dir}: its journal ${name} is in use by another process; give each process a folder of its own`,
    );

  const load = async (): Promise<{ segments: Segment[]; released: number }> => {
    try {
      const segments = await recover(dir, name);
      const text = await readFile(released_path, "utf8").catch(() => "0");
      return { segments, released: /^\d{1,15}$/.test(text.trim()) ? Number(text) : 0 };
    } catch (error) {
      await unlock();
      throw error;
    }
  };
  const loaded = await load();
  const segments = loaded.segments;
  let released = Math.max(loaded.released, (segments[0]?.first_seq ?? 1) - 1);
  /** Above everything that ever had a number, also where its segment is deleted already. */
  let next_seq = Math.max(released, segments.length === 0 ? 0 : lastSeqOf(segments.at(-1) as Segment)) + 1;
  // Whole segments that a crash left behind their release. Those in front of a gap in the numbers are such, always.
  while (
    segments[0] !== undefined &&
    lastSeqOf(segments[0]) <= released &&
    (segments.length > 1 || lastSeqOf(segments[0]) < released)
  ) {
    const gone = segments.shift() as Segment;
    await gone.file.close();
    await rm(gone.path, { force: true });
  }
  let broken: Error | undefined;
  let closed = false;
  let waiting: Waiting[] = [];
  let waiting_bytes = 0;
  let writing: Promise<void> | undefined;
  let noting: Promise<void> | undefined;
  let note_again = false;

  const diskBytes = (): number => segments.reduce((sum, segment) => sum + segment.end, 0);

  /** The segment that the next record goes to: its numbers must go on without a gap. */
  const current = async (): Promise<Segment> => {
    const last = segments.at(-1);
    if (last !== undefined && last.end < segment_bytes && lastSeqOf(last) + 1 === next_seq) return last;
    const segment = await openSegment(dir, name, next_seq);
    segments.push(segment);
    return segment;
  };

  /** All that waits, in one write and one sync. Crash before the sync's return: nobody was told, so nothing was promised. */
  const writeBatch = async (batch: readonly Waiting[]): Promise<void> => {
    const segment = await current();
    let seq = next_seq;
    const records: Buffer[] = [];
    const numbers = batch.map((one) =>
      one.payloads.map((payload) => {
        records.push(encodeRecord(seq, payload));
        return seq++;
      }),
    );
    try {
      const bytes = Buffer.concat(records);
      let at = 0;
      while (at < bytes.byteLength) at += (await segment.file.write(bytes, at)).bytesWritten;
      await segment.file.datasync();
    } catch (error) {
      // What stands behind the last good record is not to be found by anybody. Where even that fails, the file's state is
      // not known (a failed sync may have dropped pages), and nothing more is promised by this journal.
      await segment.file
        .truncate(segment.end)
        .then(() => segment.file.datasync())
        .catch((cause: unknown) => {
          broken = new Error(`the journal ${name} can't be written to any more`, { cause });
        });
      throw error;
    }
    for (const record of records) {
      segment.offsets.push(segment.end);
      segment.end += record.byteLength;
    }
    next_seq = seq;
    batch.forEach((one, i) => one.resolve(numbers[i] as number[]));
  };

  const write = async (): Promise<void> => {
    while (waiting.length > 0) {
      const batch = waiting;
      waiting = [];
      waiting_bytes = 0;
      try {
        if (broken !== undefined) throw broken;
        await writeBatch(batch);
      } catch (error) {
        for (const one of batch) one.reject(error);
      }
    }
    writing = undefined;
  };

  /** Lost in a crash, the note only brings records again that were done with: whoever reads takes each once in effect. */
  const note = async (): Promise<void> => {
    try {
      do {
        note_again = false;
        const file = await open(`${released_path}.new`, "w", 0o600);
        await file.writeFile(String(released));
        await file.datasync(); // segments are deleted on the strength of this note
        await file.close();
        await rename(`${released_path}.new`, released_path);
        await syncFolder(dir);
      } while (note_again);
    } finally {
      noting = undefined;
    }
  };

  return {
    append(payloads) {
      if (closed) return Promise.reject(new Error(`the journal ${name} is closed`));
      if (payloads.length === 0) return Promise.resolve([]);
      const bytes = payloads.reduce((sum, payload) => sum + HEADER_BYTES + payload.byteLength, 0);
      if (diskBytes() + waiting_bytes + bytes > max_bytes || waiting_bytes + bytes > MAX_WAITING_BYTES) {
        return Promise.reject(new JournalFull(name, max_bytes));
      }
      return new Promise((resolve, reject) => {
        waiting.push({ payloads, resolve, reject });
        waiting_bytes += bytes;
        // Behind every callback of this tick; while a sync runs, what comes is the next batch.
        writing ??= new Promise<void>((next) => setImmediate(next)).then(write);
      });
    },

    async read(after, count) {
      const from = Math.max(after, released) + 1;
      const out: JournalRecord[] = [];
      let bytes = 0;
      for (const segment of [...segments]) {
        const first = Math.max(0, from - segment.first_seq);
        const wanted = Math.min(segment.offsets.length, first + count - out.length);
        let last = first;
        const begin = segment.offsets[first] ?? segment.end;
        const endOf = (i: number): number => segment.offsets[i + 1] ?? segment.end;
        while (last < wanted && ((last === first && out.length === 0) || bytes + endOf(last) - begin <= MAX_READ_BYTES))
          last += 1;
        if (last === first) {
          if (first < segment.offsets.length) break;
          continue;
        }
        const end = endOf(last - 1);
        const chunk = Buffer.allocUnsafe(end - begin);
        await segment.file.read(chunk, 0, chunk.byteLength, begin);
        for (let i = first; i < last; i += 1) {
          const at = (segment.offsets[i] as number) - begin + HEADER_BYTES;
          out.push({ seq: segment.first_seq + i, payload: chunk.subarray(at, endOf(i) - begin) });
        }
        bytes += chunk.byteLength;
        if (out.length >= count || last < segment.offsets.length) break;
      }
      return out;
    },

    async release(seq) {
      if (seq <= released) return;
      released = Math.min(seq, next_seq - 1);
      if (noting === undefined) noting = note();
      else note_again = true;
      await noting; // before the records go: without the note and without them, their numbers would be given again
      // The last segment goes too, once it is full: the next append opens another.
      while (
        segments[0] !== undefined &&
        lastSeqOf(segments[0]) <= released &&
        (segments.length > 1 || segments[0].end >= segment_bytes)
      ) {
        if (segments.length === 1 && writing !== undefined) break; // it is being written to
        const gone = segments.shift() as Segment;
        await gone.file.close();
        await rm(gone.path, { force: true });
      }
    },

    get size() {
      return next_seq - 1 - released;
    },

    async close() {
      if (closed) return;
      closed = true;
      await writing;
      await noting;
      await Promise.all(segments.map((segment) => segment.file.close()));
      await unlock();
    },
  };
};
