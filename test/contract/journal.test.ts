import assert from "node:assert/strict";
import { appendFile, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import { JournalFull, openJournal } from "../../src/adapters/journal/index.ts";
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
  const options = (dir: string) => ({ dir, name: "audit", max_bytes: 1024 * 1024, segment_bytes: 256 });
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

  it("does not start on damage in the middle, where promised records may be gone", async () => {
    const dir = folder();
    const journal = await openJournal(options(dir));
    for (let i = 1; i <= 60; i += 1) await journal.append([text(`record ${i}`)]);
    await journal.close();
    const [first] = await segmentsOf(dir);
    const path = join(dir, first as string);
    const bytes = await readFile(path);
    bytes[20] = (bytes[20] as number) ^ 1;
    await writeFile(path, bytes);
    await assert.rejects(
      openJournal(options(dir)),
      (error) => error instanceof StartupFault && error.message.includes(path),
    );
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
          assert.equal(next, found.length + 1);
          await again.close();
          const third = await openJournal({ ...options(dir), segment_bytes: 100_000 });
          assert.equal((await third.read(found.length, 10))[0]?.payload.toString(), "after the crash");
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
