import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { createLease } from "../../src/adapters/postgres/lease.ts";
import type { Database } from "../../src/ports/database.ts";
import { type Held, LeaseLost } from "../../src/ports/lease.ts";

/** What a lease must do, over any database. `open`: a migrated one. */
export const leaseContract = (
  adapter: string,
  open: () => Promise<{ readonly db: Database; close(): Promise<void> }>,
): void => {
  describe(`a lease (${adapter})`, () => {
    let db: Database;
    let close: () => Promise<void>;
    before(async () => {
      ({ db, close } = await open());
    });
    after(() => close());

    const TTL_MS = 60_000;
    const holds = (owner: string, held: Held): Promise<void> =>
      db.sql.begin((tx) => createLease(db, owner).hold(tx, held)) as Promise<void>;
    /** As if the time to live had passed. */
    const expire = async (name: string): Promise<void> => {
      await db.sql`update leases set expires_at = clock_timestamp() where name = ${name}`;
    };

    it("goes to one of many that ask at once", async () => {
      const answers = await Promise.all(
        Array.from({ length: 20 }, (_, i) => createLease(db, `owner ${i}`).acquire("race", TTL_MS)),
      );
      assert.equal(answers.filter((held) => held !== undefined).length, 1);
    });

    it("goes to one of many that find it run out", async () => {
      await createLease(db, "old").acquire("again", TTL_MS);
      await expire("again");
      const answers = await Promise.all(
        Array.from({ length: 20 }, (_, i) => createLease(db, `owner ${i}`).acquire("again", TTL_MS)),
      );
      const held = answers.filter((one) => one !== undefined);
      assert.deepEqual(
        held.map((one) => one.fence),
        [2],
      );
    });

    it("is renewed by its holder under the same fence, and refused to others", async () => {
      const mine = await createLease(db, "a").acquire("renewed", TTL_MS);
      assert.deepEqual(await createLease(db, "a").acquire("renewed", TTL_MS), mine);
      assert.equal(await createLease(db, "b").acquire("renewed", TTL_MS), undefined);
    });

    it("has a higher fence for each new holder, and for the old one that comes back", async () => {
      const fences: (number | undefined)[] = [];
      for (const owner of ["a", "b", "b", "a"]) {
        fences.push((await createLease(db, owner).acquire("fenced", TTL_MS))?.fence);
        await expire("fenced");
      }
      assert.deepEqual(fences, [1, 2, 3, 4]);
    });

    it("lets its holder into a transaction, and nobody who lost it", async () => {
      const first = await createLease(db, "a").acquire("held", TTL_MS);
      assert.ok(first);
      await holds("a", first);
      await expire("held");
      await assert.rejects(holds("a", first), LeaseLost, "it ran out");
      const second = await createLease(db, "b").acquire("held", TTL_MS);
      assert.ok(second);
      await assert.rejects(holds("a", first), LeaseLost, "another has it");
      await assert.rejects(holds("b", { ...second, fence: first.fence }), LeaseLost, "an old fence");
      await holds("b", second);
    });

    it("is free once it is released, and only its holder can release it", async () => {
      const mine = await createLease(db, "a").acquire("released", TTL_MS);
      assert.ok(mine);
      await createLease(db, "b").release({ ...mine, owner: "b" });
      assert.equal(await createLease(db, "b").acquire("released", TTL_MS), undefined);
      await createLease(db, "a").release(mine);
      assert.equal((await createLease(db, "b").acquire("released", TTL_MS))?.fence, 2);
      await assert.rejects(holds("a", mine), LeaseLost);
    });
  });
};
