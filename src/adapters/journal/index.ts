import { type FileHandle, mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { lockFolder } from "../../kernel/folder-lock.ts";
import type { Log } from "../../kernel/log.ts";
import { StartupFault } from "../../kernel/problem.ts";
import type { Journal, JournalRecord } from "../../ports/journal.ts";
import { encodeRecord, firstSeqOf, HEADER_BYTES, LOST, type Places, scanRecords, segmentName } from "./segment.ts";

export type JournalOptions = {
  /** Made with mode 0700 where it is missing. */
  readonly dir: string;
  /** Several journals may share a folder. `[a-z0-9_-]`. */
  readonly name: string;
  /** On disk, released records in unfinished segments included; an append beyond it is rejected. */
  readonly max_bytes: number;
  /** A segment is closed, and may later be deleted, once it is at least so long. 4 MiB by default. */
  readonly segment_bytes?: number;
  readonly log: Log;
};

/** The journal takes no more for now. The message names the bound: its folder's, or that of what waits for the disk. */
export class JournalFull extends Error {
  constructor(name: string, bound: string) {
    super(`the journal ${name} is full: ${bound}`);
    this.name = "JournalFull";
  }
}

type Segment = Places & {
  readonly first_seq: number;
  readonly path: string;
  readonly file: FileHandle;
  end: number;
};
/** Numbers `first` to `last`, whose records were promised and can't be read. */
type Gap = { readonly first: number; readonly last: number };
type Waiting = {
  readonly payloads: readonly Uint8Array[];
  readonly resolve: (seqs: readonly number[]) => void;
  readonly reject: (error: unknown) => void;
};

const SEGMENT_BYTES = 4 * 1024 * 1024;
/** What may wait in memory for the disk. */
const MAX_WAITING_BYTES = 32 * 1024 * 1024;
/** A read returns 4 MiB at most, but always one record. */
const MAX_READ_BYTES = 4 * 1024 * 1024;

/** Gaps that the line about them names. */
const MAX_GAPS_TOLD = 20;

const lastSeqOf = (segment: Segment): number => segment.first_seq + segment.starts.length - 1;

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
  const file = await open(path, "a+", 0o600); // "a": a write can only ever land after what is there
  await syncFolder(dir);
  return { first_seq, path, file, starts: [], ends: [], end: 0 };
};

/**
 * Reads the segments. Only the last can be torn, since the next is made when the one before is synced: that tail is cut off.
 * Damage anywhere else is the disk's; it costs what it hit.
 */
const recover = async (dir: string, name: string): Promise<Segment[]> => {
  const firsts = (await readdir(dir)).map((file) => firstSeqOf(name, file)).filter((seq) => seq !== undefined);
  firsts.sort((a, b) => a - b);
  const segments: Segment[] = [];
  for (const [i, first_seq] of firsts.entries()) {
    const path = join(dir, segmentName(name, first_seq));
    const bytes = await readFile(path);
    const { starts, ends, end } = scanRecords(bytes, first_seq);
    const next = firsts[i + 1];
    if (next !== undefined && first_seq + starts.length > next) {
      await Promise.all(segments.map((segment) => segment.file.close()));
      throw new StartupFault(`${path}: holds the next file's records, too; move one of the two away`);
    }
    const file = await open(path, "a+", 0o600);
    if (next === undefined && end !== bytes.byteLength) {
      await file.truncate(end);
      await file.sync();
    }
    segments.push({ first_seq, path, file, starts, ends, end });
  }
  return segments;
};

/** The numbers above `released` that no segment has a record of, in order. */
const gapsIn = (segments: readonly Segment[], released: number): Gap[] => {
  const gaps: Gap[] = [];
  const miss = (from: number, last: number): void => {
    const first = Math.max(from, released + 1);
    if (first > last) return;
    const before = gaps.at(-1);
    if (before?.last === first - 1) gaps[gaps.length - 1] = { first: before.first, last };
    else gaps.push({ first, last });
  };
  let expected = segments[0]?.first_seq ?? 1;
  for (const segment of segments) {
    miss(expected, segment.first_seq - 1);
    for (const [i, start] of segment.starts.entries())
      if (start === LOST) miss(segment.first_seq + i, segment.first_seq + i);
    expected = lastSeqOf(segment) + 1;
  }
  return gaps;
};

/** Opens, and cuts a torn tail off. Throws `StartupFault` where the folder is another process's or unusable. */
export const openJournal = async (options: JournalOptions): Promise<Journal> => {
  const { dir, name, max_bytes, log } = options;
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
  const gaps = gapsIn(segments, loaded.released);
  const lostBehind = (seq: number): number =>
    gaps.reduce((sum, gap) => sum + Math.max(0, gap.last - Math.max(seq, gap.first - 1)), 0);
  /** `seq`, or the last of the lost numbers right after it: what can't be read is not waited for. */
  const pastGaps = (seq: number): number =>
    gaps.reduce((past, gap) => (gap.first <= past + 1 ? Math.max(past, gap.last) : past), seq);
  const damaged = lostBehind(0);
  if (damaged > 0)
    log.error(
      { dir, journal: name, records: damaged, gaps: gaps.slice(0, MAX_GAPS_TOLD) },
      "journal_damage: records that were promised can't be read; their neighbours were kept",
    );
  let released = pastGaps(Math.max(loaded.released, (segments[0]?.first_seq ?? 1) - 1));
  /** Above everything that ever had a number, also where its segment is deleted already. */
  let next_seq = Math.max(released, segments.length === 0 ? 0 : lastSeqOf(segments.at(-1) as Segment)) + 1;
  // Segments released before a crash that were not yet deleted.
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
      // Cut off what follows the last good record. Where even that fails, the file's state is unknown (a failed sync may
      // have dropped pages), and this journal promises nothing more.
      await segment.file
        .truncate(segment.end)
        .then(() => segment.file.datasync())
        .catch((cause: unknown) => {
          broken = new Error(`the journal ${name} can't be written to any more`, { cause });
        });
      throw error;
    }
    for (const record of records) {
      segment.starts.push(segment.end);
      segment.end += record.byteLength;
      segment.ends.push(segment.end);
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

  /** If a crash loses this note, released records are read again; readers tolerate that. */
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
      if (diskBytes() + waiting_bytes + bytes > max_bytes)
        return Promise.reject(new JournalFull(name, `its folder may hold ${max_bytes} bytes`));
      if (waiting_bytes + bytes > MAX_WAITING_BYTES)
        return Promise.reject(new JournalFull(name, `${MAX_WAITING_BYTES} bytes may wait for the disk`));
      return new Promise((resolve, reject) => {
        waiting.push({ payloads, resolve, reject });
        waiting_bytes += bytes;
        // After every callback of this tick; while a sync runs, what comes is the next batch.
        writing ??= new Promise<void>((next) => setImmediate(next)).then(write);
      });
    },

    async read(after, count) {
      const from = Math.max(after, released) + 1;
      const out: JournalRecord[] = [];
      let bytes = 0;
      let full = false;
      for (const segment of [...segments]) {
        const { first_seq, starts, ends } = segment;
        const found: number[] = [];
        for (let i = Math.max(0, from - first_seq); i < starts.length && !full; i += 1) {
          if (starts[i] === LOST) continue;
          const size = (ends[i] as number) - (starts[i] as number);
          const first = out.length === 0 && found.length === 0;
          full = out.length + found.length >= count || (!first && bytes + size > MAX_READ_BYTES);
          if (full) continue;
          bytes += size;
          found.push(i);
        }
        const begin = starts[found[0] ?? 0] ?? 0;
        const chunk = Buffer.allocUnsafe(Math.max(0, (ends[found.at(-1) ?? -1] ?? begin) - begin));
        if (found.length > 0) await segment.file.read(chunk, 0, chunk.byteLength, begin);
        for (const i of found) {
          const payload = chunk.subarray((starts[i] as number) - begin + HEADER_BYTES, (ends[i] as number) - begin);
          out.push({ seq: first_seq + i, payload });
        }
        if (full) break;
      }
      return out;
    },

    async release(seq) {
      if (seq <= released) return;
      released = pastGaps(Math.min(seq, next_seq - 1));
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
      return next_seq - 1 - released - lostBehind(released);
    },

    damaged,

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
