import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { type AgedEntry, type Entry, START, type Streams, type Subscription } from "../../src/ports/streams.ts";
import { eventually } from "../support/eventually.ts";
import { type Backend, BACKENDS } from "./backends.ts";

let unique = 0;
const streamName = (): string => `test.stream.${++unique}`;
const numbered = (count: number, from = 1): Record<string, string>[] =>
  Array.from({ length: count }, (_, i) => ({ n: String(from + i) }));
const numbersOf = (entries: readonly Entry[]): number[] => entries.map((entry) => Number(entry.fields["n"]));

for (const [name, start] of Object.entries(BACKENDS)) {
  describe(`streams on ${name}`, () => {
    let backend: Backend;
    let streams: Streams;
    const open: Subscription[] = [];
    before(async () => {
      backend = await start();
      streams = backend.streams;
    });
    after(async () => {
      await Promise.all(open.map((one) => one.close()));
      await backend.close();
    });

    const broadcast = async (
      stream: string,
      from: string,
      on: Streams = streams,
      onEntries?: (entries: readonly AgedEntry[]) => Promise<void>,
    ) => {
      const got: AgedEntry[] = [];
      const errors: unknown[] = [];
      const subscription = await on.subscribeAll({
        owner: `owner-${++unique}`,
        from: { [stream]: from },
        onEntries: async (_stream, entries) => {
          await onEntries?.(entries);
          got.push(...entries);
        },
        onError: (error) => errors.push(error),
      });
      open.push(subscription);
      return { got, errors, subscription };
    };

    const consume = async (
      stream: string,
      onEntries: (entries: readonly (Entry & { deliveries: number })[]) => Promise<readonly string[]>,
      consumer = "one",
      on: Streams = streams,
      claim_after_ms = 60_000,
    ) => {
      const errors: unknown[] = [];
      const subscription = await on.consumeGroup({
        stream,
        group: "workers",
        consumer,
        count: 10,
        claim_after_ms,
        onEntries,
        onError: (error) => errors.push(error),
      });
      open.push(subscription);
      return { errors, subscription };
    };

    it("reads back what was appended, in order, with ids that grow", async () => {
      const stream = streamName();
      const ids = await streams.append(stream, numbered(5));
      await streams.append(stream, numbered(5, 6));
      const entries = await streams.range(stream, START, 100);
      assert.deepEqual(numbersOf(entries), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
      assert.deepEqual(
        entries.slice(0, 5).map((entry) => entry.id),
        ids,
      );
      assert.deepEqual(numbersOf(await streams.range(stream, ids[2] as string, 2)), [4, 5]);
      assert.equal(await streams.length(stream), 10);
      assert.equal(await streams.position(stream), entries.at(-1)?.id);
    });

    it("says START for a stream that nobody wrote to, and counts nothing in it", async () => {
      const stream = streamName();
      assert.equal(await streams.position(stream), START);
      assert.equal(await streams.length(stream), 0);
      assert.equal(await streams.backlog(stream, "nobody"), 0);
      await streams.trim(stream, 0);
      await streams.trim(stream, undefined);
    });

    it("keeps any text in names and values", async () => {
      const stream = streamName();
      const fields = { "": "empty name", "a=b\n": "x\r\n\0", ünï: "🦊", __proto__x: "y", constructor: "z" };
      await streams.append(stream, [fields]);
      assert.deepEqual({ ...(await streams.range(stream, START, 1))[0]?.fields }, fields);
    });

    it("gives every broadcast reader every entry behind its place, on another client too", async () => {
      const stream = streamName();
      const [first] = await streams.append(stream, numbered(3));
      const all = await broadcast(stream, START);
      const later = await broadcast(stream, first as string, backend.another().streams);
      await streams.append(stream, numbered(3, 4));
      await eventually(() => assert.deepEqual(numbersOf(all.got), [1, 2, 3, 4, 5, 6]));
      await eventually(() => assert.deepEqual(numbersOf(later.got), [2, 3, 4, 5, 6]));
      assert.ok(all.got.every((entry) => entry.age_ms >= 0 && entry.age_ms < 5000));
      assert.ok((all.subscription.polledAt_ms() ?? -1) > 0);
    });

    it("reads several streams through one subscription", async () => {
      const [a, b] = [streamName(), streamName()];
      const got: string[] = [];
      open.push(
        await streams.subscribeAll({
          owner: `owner-${++unique}`,
          from: { [a]: START, [b]: START },
          onEntries: async (stream, entries) =>
            void got.push(...entries.map((entry) => `${stream}:${entry.fields["n"]}`)),
          onError: () => undefined,
        }),
      );
      await streams.append(a, numbered(2));
      await streams.append(b, numbered(1));
      await eventually(() => assert.deepEqual([...got].sort(), [`${a}:1`, `${a}:2`, `${b}:1`].sort()));
    });

    it("brings a broadcast reader the entries again whose handler failed", async () => {
      const stream = streamName();
      let failures = 2;
      const reader = await broadcast(stream, START, streams, async () => {
        if (failures-- > 0) throw new Error("not now");
      });
      await streams.append(stream, numbered(3));
      await eventually(() => assert.deepEqual(numbersOf(reader.got), [1, 2, 3]));
      assert.equal(reader.errors.length, 2);
    });

    it("calls nobody any more once a subscription is closed", async () => {
      const stream = streamName();
      const reader = await broadcast(stream, START);
      await streams.append(stream, numbered(1));
      await eventually(() => assert.equal(reader.got.length, 1));
      await reader.subscription.close();
      const witness = await broadcast(stream, START);
      await streams.append(stream, numbered(1, 2));
      await eventually(() => assert.equal(witness.got.length, 2));
      assert.equal(reader.got.length, 1);
    });

    it("gives each entry of a group to one consumer, those from before the group too", async () => {
      const stream = streamName();
      await streams.append(stream, numbered(5));
      const got: number[] = [];
      const take = async (entries: readonly Entry[]) => {
        got.push(...numbersOf(entries));
        return entries.map((entry) => entry.id);
      };
      await consume(stream, take, "one");
      await consume(stream, take, "two", backend.another().streams);
      for (let i = 0; i < 10; i += 1) await streams.append(stream, numbered(5, 6 + i * 5));
      await eventually(() => assert.equal(got.length, 55));
      assert.equal(new Set(got).size, 55);
      await eventually(async () => assert.equal(await streams.backlog(stream, "workers"), 0));
    });

    it("tells how much a stream holds, how much it can take, and for how long its oldest entry waits", async () => {
      const stream = streamName();
      const empty = await streams.load(stream, "workers");
      assert.deepEqual([empty.bytes, empty.oldest_ms], [0, 0]);
      await streams.append(stream, [{ n: "1", text: "x".repeat(100_000) }]);
      const full = await streams.load(stream, "workers");
      assert.ok(full.bytes >= 100_000 && full.bytes < 300_000, String(full.bytes));
      assert.ok(full.room_bytes > 0 && full.room_bytes < empty.room_bytes);
      let held = true;
      let reads = 0;
      await consume(stream, async (entries) => {
        reads += entries.length;
        return held ? [] : entries.map((entry) => entry.id);
      });
      await eventually(async () => assert.ok((await streams.load(stream, "workers")).oldest_ms > 20));
      await eventually(() => assert.ok(reads > 0));
      assert.ok((await streams.load(stream, "workers")).oldest_ms > 20, "what was read and not acknowledged waits");
      held = false;
      await eventually(async () => assert.equal((await streams.load(stream, "workers")).oldest_ms, 0));
    });

    it("brings unacknowledged entries again with one delivery more, and lets others through meanwhile", async () => {
      const stream = streamName();
      const seen = new Map<number, number[]>();
      await consume(stream, async (entries) => {
        for (const entry of entries) {
          const n = Number(entry.fields["n"]);
          seen.set(n, [...(seen.get(n) ?? []), entry.deliveries]);
        }
        return entries.filter((entry) => entry.fields["n"] !== "2" || entry.deliveries >= 3).map((entry) => entry.id);
      });
      await streams.append(stream, numbered(4));
      await eventually(() => assert.deepEqual(seen.get(2), [1, 2, 3]));
      assert.deepEqual(seen.get(1), [1]);
      assert.deepEqual(seen.get(4), [1]);
      await eventually(async () => assert.equal(await streams.backlog(stream, "workers"), 0));
    });

    it("lets new entries through beside as many that are never acknowledged as are read at once", async () => {
      const stream = streamName();
      const got = new Set<number>();
      await consume(stream, async (entries) => {
        for (const n of numbersOf(entries)) got.add(n);
        return entries.filter((entry) => Number(entry.fields["n"]) > 10).map((entry) => entry.id);
      });
      await streams.append(stream, numbered(10));
      await eventually(() => assert.equal(got.size, 10));
      await streams.append(stream, numbered(10, 11));
      await eventually(() => assert.equal(got.size, 20));
    });

    it("acknowledges nothing when a consumer's handler fails, and counts what it holds as backlog", async () => {
      const stream = streamName();
      let broken = true;
      const got: number[] = [];
      const consumer = await consume(stream, async (entries) => {
        if (broken) throw new Error("the database is away");
        got.push(...numbersOf(entries));
        return entries.map((entry) => entry.id);
      });
      await streams.append(stream, numbered(3));
      await eventually(() => assert.ok(consumer.errors.length >= 2));
      assert.equal(await streams.backlog(stream, "workers"), 3);
      broken = false;
      await eventually(() => assert.deepEqual(got, [1, 2, 3]));
    });

    it("finishes and acknowledges what a consumer has in hand when it is closed", async () => {
      const stream = streamName();
      let goOn = (): void => undefined;
      const gate = new Promise<void>((resolve) => (goOn = resolve));
      let begun = false;
      const { subscription } = await consume(stream, async (entries) => {
        begun = true;
        await gate;
        return entries.map((entry) => entry.id);
      });
      await streams.append(stream, numbered(3));
      await eventually(() => assert.ok(begun));
      const closed = subscription.close();
      goOn();
      await closed;
      assert.equal(await streams.backlog(stream, "workers"), 0);
    });

    it("rests behind an acknowledgement for as long as it is asked to, and not beyond its close", async () => {
      const stream = streamName();
      const got: number[] = [];
      const subscription = await streams.consumeGroup({
        stream,
        group: "workers",
        consumer: "one",
        count: 10,
        claim_after_ms: 60_000,
        onEntries: async (entries) => {
          got.push(...numbersOf(entries));
          return entries.map((entry) => entry.id);
        },
        rest_ms: () => (got.length < 2 ? 1 : 600_000),
        onError: (error) => assert.fail(String(error)),
      });
      await streams.append(stream, numbered(1));
      await eventually(() => assert.deepEqual(got, [1]));
      await streams.append(stream, numbered(1, 2)); // a short rest goes by
      await eventually(async () => {
        assert.deepEqual(got, [1, 2]);
        assert.equal(await streams.backlog(stream, "workers"), 0);
      });
      await streams.append(stream, numbered(1, 3));
      // Time enough for one that does not rest: others read what was appended later.
      const other = streamName();
      const others: number[] = [];
      await consume(other, async (entries) => {
        others.push(...numbersOf(entries));
        return entries.map((entry) => entry.id);
      });
      for (let n = 1; n <= 5; n += 1) {
        await streams.append(other, numbered(1, n));
        await eventually(() => assert.equal(others.at(-1), n));
      }
      assert.deepEqual(got, [1, 2]);
      await subscription.close();
      assert.equal(await streams.backlog(stream, "workers"), 1);
    });

    it("hands what a consumer left unfinished to another one", async () => {
      const stream = streamName();
      const held = new Set<number>();
      const first = await consume(
        stream,
        async (entries) => {
          for (const n of numbersOf(entries)) held.add(n);
          return [];
        },
        "gone",
      );
      await streams.append(stream, numbered(2));
      await eventually(() => assert.equal(held.size, 2));
      await first.subscription.close();
      const got: number[] = [];
      await consume(
        stream,
        async (entries) => {
          got.push(...numbersOf(entries));
          return entries.map((entry) => entry.id);
        },
        "heir",
        streams,
        200,
      );
      await eventually(() => assert.deepEqual(got.sort(), [1, 2]), { timeout_ms: 10_000 });
    });

    it("moves a dead entry to the dead letters once, however many readers do it, and acknowledges it", async () => {
      const stream = streamName();
      const dead = `${stream}.dead`;
      await consume(stream, async (entries) => {
        await Promise.all(entries.map((entry) => streams.moveDead(stream, "workers", entry, dead, "unreadable")));
        return [];
      });
      await streams.append(stream, [{ n: "1", _sig: "forged" }]);
      await eventually(async () => assert.equal(await streams.length(dead), 1));
      const [entry] = await streams.range(stream, START, 1);
      await streams.moveDead(stream, undefined, entry as Entry, dead, "unreadable");
      await backend.another().streams.moveDead(stream, undefined, entry as Entry, dead, "unreadable");
      const buried = await streams.range(dead, START, 10);
      assert.equal(buried.length, 1);
      assert.deepEqual(
        { ...buried[0]?.fields },
        { n: "1", _sig: "forged", _dead_id: entry?.id, _dead_reason: "unreadable" },
      );
      await eventually(async () => assert.equal(await streams.backlog(stream, "workers"), 0));
    });

    it("removes entries by their ids", async () => {
      const stream = streamName();
      const ids = await streams.append(stream, numbered(3));
      await streams.remove(stream, [ids[1] as string]);
      await streams.remove(stream, []);
      assert.deepEqual(numbersOf(await streams.range(stream, START, 10)), [1, 3]);
    });

    it("never trims what a consuming group has not acknowledged, nor a stream that nobody consumes yet", async () => {
      const stream = streamName();
      await streams.append(stream, numbered(3));
      await streams.trim(stream, undefined);
      assert.equal(await streams.length(stream), 3);
      await consume(stream, async (entries) =>
        entries.filter((entry) => entry.fields["n"] !== "2").map((entry) => entry.id),
      );
      await eventually(async () => assert.equal(await streams.backlog(stream, "workers"), 1));
      await streams.trim(stream, undefined);
      assert.deepEqual(numbersOf(await streams.range(stream, START, 10)), [2, 3]);
    });

    it("trims a broadcast stream behind its readers, and nothing that is younger than asked", async () => {
      const stream = streamName();
      const fast = await broadcast(stream, START);
      await streams.append(stream, numbered(3));
      await eventually(() => assert.equal(fast.got.length, 3));
      await streams.trim(stream, 60_000);
      assert.equal(await streams.length(stream), 3);
      await eventually(async () => {
        await streams.trim(stream, 0);
        assert.equal(await streams.length(stream), 0);
      });
    });

    it("names the memory that it keeps the streams in, always the same", async () => {
      assert.equal(await streams.identity(), await backend.another().streams.identity());
      assert.notEqual(await streams.identity(), "");
    });
  });
}
