import assert from "node:assert/strict";
import { appendFile, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import { JournalFull, openJournal } from "../../src/adapters/journal/index.ts";
import { quietLog } from "../support/quiet-log.ts";
import { StartupFault } from "../../src/kernel/problem.ts";
import type { Journal } from "../../src/ports/journal.ts";

const text = (value: string): Buffer => Buffer.from(value);
const readAll = async (journal: Journal): Promise<string[]> => {
  const out: string[] = [];
  let after = 0;
  for (;;) {
    const records = await journal.read(after, 7);
    if (records.length === 0) return out;
    for (const record of records) {
      assert.ok(record.seq > after);
      after = record.seq;
      out.push(record.payload.toString());
    }
  }
};

describe("the journal", () => {
  let root = "";
  let unique = 0;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), "caracal-journal-"));
  });
  after(() => rm(root, { recursive: true, force: true }));
  const folder = (): string => join(root, `j${++unique}`);
  const options = (dir: string) => ({
    dir,
    name: "audit",
    max_bytes: 1024 * 1024,
    segment_bytes: 256,
    log: quietLog(),
  });
  const segmentsOf = async (dir: string) => (await readdir(dir)).filter((file) => file.endsWith(".log")).sort();

  it("reads back in order what it took, over a restart, numbered without gaps", async () => {
    const dir = folder();
    const journal = await openJournal(options(dir));
    const numbers = await Promise.all(
      Array.from({ length: 50 }, (_, i) => journal.append([text(`a${i}`), text(`b${i}`)])),
    );
    assert.deepEqual(
      numbers.flat(),
      Array.from({ length: 100 }, (_, i) => i + 1),
    );
    const expected = Array.from({ length: 50 }, (_, i) => [`a${i}`, `b${i}`]).flat();
    assert.deepEqual(await readAll(journal), expected);
    await journal.close();
    const again = await openJournal(options(dir));
    assert.deepEqual(await readAll(again), expected);
    assert.deepEqual(await again.append([text("next")]), [101]);
    await again.close();
  });

  it("forgets what was released, deletes its segments, and never gives a number twice", async () => {
    const dir = folder();
    const journal = await openJournal(options(dir));
    for (let i = 1; i <= 60; i += 1) await journal.append([text(`record ${i}`)]);
    const many = (await segmentsOf(dir)).length;
    assert.ok(many > 3);
    await journal.release(40);
    assert.equal(journal.size, 20);
    assert.ok((await segmentsOf(dir)).length < many);
    assert.equal((await readAll(journal))[0], "record 41");
    await journal.release(60);
    assert.equal(journal.size, 0);
    await journal.close();
    const again = await openJournal(options(dir));
    assert.equal(again.size, 0);
    assert.deepEqual(await again.append([text("x")]), [61]);
    assert.deepEqual(await readAll(again), ["x"]);
    await again.close();
    const third = await openJournal(options(dir));
    assert.deepEqual(await readAll(third), ["x"]);
    await third.close();
  });

  it("refuses what goes beyond its bound, and takes again once something was released", async () => {
    const dir = folder();
    const journal = await openJournal({ ...options(dir), max_bytes: 2000 });
    let taken = 0;
    await assert.rejects(async () => {
      for (;;) {
        await journal.append([Buffer.alloc(100)]);
        taken += 1;
      }
    }, JournalFull);
    assert.ok(taken >= 15 && taken <= 20);
    await journal.release(taken);
    await journal.append([Buffer.alloc(100)]);
    await journal.close();
    await assert.rejects(journal.append([text("late")]), /closed/);
  });

  it("names the bound that an append went over: its folder's, or that of what waits for the disk", async () => {
    const mib = 1024 * 1024;
    const journal = await openJournal({ ...options(folder()), max_bytes: 36 * mib });
    const waiting = journal.append([Buffer.alloc(31 * mib)]);
    await assert.rejects(journal.append([Buffer.alloc(2 * mib)]), /33554432 bytes may wait for the disk$/);
    await assert.rejects(journal.append([Buffer.alloc(6 * mib)]), /its folder may hold 37748736 bytes$/);
    await waiting;
    await journal.append([Buffer.alloc(2 * mib)]);
    await journal.close();
  });

  it("is readable by its owner only", async () => {
    const dir = folder();
    const journal = await openJournal(options(dir));
    await journal.append([text("secret enough")]);
    await journal.release(1);
    assert.equal((await stat(dir)).mode & 0o777, 0o700);
    for (const file of await readdir(dir)) {
      if (!file.endsWith(".held")) assert.equal((await stat(join(dir, file))).mode & 0o777, 0o600, file);
    }
    await journal.close();
  });

  it("is one process's: a second opening is told so, and the folder is free again after a close", async () => {
    const dir = folder();
    const journal = await openJournal(options(dir));
    await assert.rejects(
      openJournal(options(dir)),
      (error) => error instanceof StartupFault && /in use by another process/.test(error.message),
    );
    await journal.close();
    const again = await openJournal(options(dir));
    await again.close();
  });

  it("names a folder that can't be used", async () => {
    const dir = folder();
    await writeFile(dir, "a file");
    await assert.rejects(
      openJournal(options(dir)),
      (error) => error instanceof StartupFault && error.message.includes(dir),
    );
  });

  it("loses to a flipped bit the record that it hits, keeps all others, and says which is gone", async () => {
    for (const segment_bytes of [256, 100_000]) {
      const dir = folder();
      const journal = await openJournal({ ...options(dir), segment_bytes });
      for (let i = 1; i <= 20; i += 1) await journal.append([text(`record ${i}`)]);
      await journal.release(2);
      await journal.close();
      const all = Array.from({ length: 18 }, (_, i) => `record ${i + 3}`);
      for (const file of await segmentsOf(dir)) {
        const path = join(dir, file);
        const bytes = await readFile(path);
        for (let at = 0; at < bytes.byteLength; at += 1) {
          const harmed = Buffer.from(bytes);
          harmed[at] = (harmed[at] as number) ^ (1 << (at % 8));
          await writeFile(path, harmed);
          const log = quietLog();
          const again = await openJournal({ ...options(dir), segment_bytes, log });
          const found = await readAll(again);
          const gone = all.filter((one) => !found.includes(one));
          assert.deepEqual(
            found,
            all.filter((one) => !gone.includes(one)),
          );
          assert.ok(gone.length <= 1, `${file}, byte ${at}: ${gone.join(", ")}`);
          assert.equal(again.size, found.length);
          // At the very end alone, a mark that is no mark may be what a crash left of an append that nobody was promised.
          const torn = gone.length === 1 && again.damaged === 0;
          assert.ok(!torn || gone[0] === "record 20", `${file}, byte ${at}`);
          assert.equal(log.lines.filter((line) => /journal_damage/.test(line.message)).length, again.damaged);
          await again.close();
        }
        await writeFile(path, bytes);
      }
    }
  });

  it("goes past what is gone: what stands behind it is released, and its number is not given again", async () => {
    const dir = folder();
    const journal = await openJournal(options(dir));
    for (let i = 1; i <= 60; i += 1) await journal.append([text(`record ${i}`)]);
    await journal.close();
    const segments = await segmentsOf(dir);
    await rm(join(dir, segments[1] as string)); // a whole segment in the middle
    const last = join(dir, segments.at(-1) as string);
    const bytes = await readFile(last);
    bytes[bytes.byteLength - 1] = (bytes.at(-1) as number) ^ 1; // and the last record
    await writeFile(last, bytes);
    const again = await openJournal(options(dir));
    const found = await readAll(again);
    assert.equal(found.length + again.damaged, 60);
    assert.ok(again.damaged > 2);
    let after = 0;
    while (again.size > 0) {
      const [record] = await again.read(after, 1);
      assert.ok(record !== undefined);
      after = record.seq;
      await again.release(after);
    }
    assert.deepEqual(await again.append([text("next")]), [61]);
    await again.close();
  });

  it("takes no text of a record for a record, where its own header is damaged", async () => {
    const dir = folder();
    const journal = await openJournal({ ...options(dir), segment_bytes: 100_000 });
    await journal.append([text("inner")]);
    await journal.close();
    const path = join(dir, "audit.0000000000000001.log");
    const inner = (await readFile(path)).toString(); // as a caller could put it into a path, say
    await rm(dir, { recursive: true });
    const victim = await openJournal({ ...options(dir), segment_bytes: 100_000 });
    await victim.append([text(inner)]);
    await victim.append([text("next")]);
    await victim.close();
    const bytes = await readFile(path);
    bytes[5] = (bytes[5] as number) ^ 1;
    await writeFile(path, bytes);
    const again = await openJournal({ ...options(dir), segment_bytes: 100_000 });
    assert.deepEqual(await readAll(again), ["next"]);
    assert.equal(again.damaged, 1);
    await again.close();
  });

  it("reads every promised record again, and invents none, wherever a crash tore its last segment", async () => {
    const payloads = fc.array(fc.uint8Array({ maxLength: 40 }), { minLength: 1, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(
        fc.array(payloads, { minLength: 1, maxLength: 8 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.uint8Array({ maxLength: 30 }),
        async (batches, cut, garbage) => {
          const dir = folder();
          const journal = await openJournal({ ...options(dir), segment_bytes: 100_000 });
          const path = join(dir, "audit.0000000000000001.log");
          const ends: number[] = []; // the file's length when each batch was promised
          for (const batch of batches) {
            await journal.append(batch);
            ends.push((await stat(path)).size);
          }
          await journal.close();
          const all = batches.flat().map((one) => Buffer.from(one).toString("hex"));
          const length = Math.floor(cut * (ends.at(-1) as number));
          await truncate(path, length);
          await appendFile(path, garbage);
          const again = await openJournal({ ...options(dir), segment_bytes: 100_000 });
          const found = (await again.read(0, 1000)).map((record) => record.payload.toString("hex"));
          const promised = batches.slice(0, ends.filter((end) => end <= length).length).flat().length;
          assert.ok(found.length >= promised, `${found.length} of ${promised}`);
          assert.deepEqual(found, all.slice(0, found.length));
          const [next] = await again.append([text("after the crash")]);
          assert.ok((next as number) > found.length);
          await again.close();
          const third = await openJournal({ ...options(dir), segment_bytes: 100_000 });
          assert.equal((await third.read(0, 1000)).at(-1)?.payload.toString(), "after the crash");
          assert.equal(third.size, found.length + 1);
          await third.close();
          await rm(dir, { recursive: true });
        },
      ),
      { numRuns: 150 },
    );
  });

  it("shares one sync among the appends of a tick", async () => {
    const dir = folder();
    const journal = await openJournal({ ...options(dir), segment_bytes: 10_000_000, max_bytes: 10_000_000 });
    const began = performance.now();
    await Promise.all(Array.from({ length: 5000 }, (_, i) => journal.append([text(String(i))])));
    assert.ok(performance.now() - began < 2000, "5000 syncs of their own would take far longer");
    assert.equal(journal.size, 5000);
    await journal.close();
  });
});
