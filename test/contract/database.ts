import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import {
  type Database,
  isCheckViolation,
  isForeignKeyViolation,
  isUnavailable,
  isUniqueViolation,
} from "../../src/ports/database.ts";
import { eventually } from "../support/eventually.ts";

/** What the suite needs to know of an adapter. */
export type DatabaseUnderTest = {
  /** An empty database, and the count of its statements. */
  open(): Promise<{ readonly db: Database; readonly statements: () => number; close(): Promise<void> }>;
};

/** What every adapter of `Database` must do. */
export const databaseContract = (adapter: string, under_test: DatabaseUnderTest): void => {
  describe(`a database (${adapter})`, () => {
    let db: Database;
    let statements: () => number;
    let close: () => Promise<void>;

    before(async () => {
      ({ db, statements, close } = await under_test.open());
      await db.sql`create table kept (id text primary key, n bigint not null default 0 check (n >= 0))`;
      await db.sql`create table parts (id text primary key, kept_id text not null references kept (id))`;
    });
    after(() => close());

    const amount = async (id: string): Promise<number | undefined> => {
      const [row] = await db.sql<{ n: number }[]>`select n::float8 as n from kept where id = ${id}`;
      return row?.n;
    };

    it("answers a ping", async () => {
      await db.ping();
    });

    it("runs one text with many parameters", async () => {
      const answers = await Promise.all(
        Array.from(
          { length: 200 },
          async (_, i) => (await db.sql`select ${i}::int as n, ${`text ${i}`}::text as t`)[0],
        ),
      );
      answers.forEach((row, i) => assert.deepEqual({ ...row }, { n: i, t: `text ${i}` }));
    });

    it("gives back every kind of value as it went in", async () => {
      const at = new Date("2026-11-23T12:34:56.789Z");
      const bytes = Buffer.from([0, 1, 2, 255, 10, 92]);
      const [row] = await db.sql`
        select ${null}::text as nothing, ${"žluť \u{1f9ff} ' \" \\ \n"}::text as text, ${true}::boolean as yes,
          ${42}::integer as small, ${"9007199254740993"}::bigint as big, ${2 ** 53 - 1}::float8 as safe, ${1.5}::float8 as half,
          ${at}::timestamptz as at, ${bytes}::bytea as bytes, ${["a", 'b",{\\}', "", "NULL"]}::text[] as texts,
          ${[]}::text[] as empty, ${[1, 2, 3]}::integer[] as numbers,
          array[true, false, null] as flags, ${db.sql.json({ a: [1, "ü"], b: null })} as object, ${JSON.stringify(["x", "y"])}::jsonb as written,
          array[null, 'x', 'null']::text[] as with_null`;
      assert.deepEqual(
        { ...row },
        {
          nothing: null,
          text: "žluť \u{1f9ff} ' \" \\ \n",
          yes: true,
          small: 42,
          big: "9007199254740993", // a bigint comes as text: not every one fits a number
          safe: 2 ** 53 - 1,
          half: 1.5,
          at,
          bytes,
          texts: ["a", 'b",{\\}', "", "NULL"],
          empty: [],
          numbers: [1, 2, 3],
          flags: [true, false, null],
          object: { a: [1, "ü"], b: null },
          written: ["x", "y"],
          with_null: [null, "x", "null"],
        },
      );
    });

    it("keeps any text and any array of texts, as parameter, row, JSON and element", async () => {
      const text = fc.string({ unit: "grapheme" }).filter((value) => !value.includes("\0"));
      await fc.assert(
        fc.asyncProperty(text, fc.array(text, { maxLength: 8 }), async (one, many) => {
          const [row] = await db.sql`
            select ${one}::text as one, ${many}::text[] as many, ${JSON.stringify(many)}::jsonb as json,
              array(select jsonb_array_elements_text(${JSON.stringify(many)}::jsonb)) as elements`;
          assert.deepEqual({ ...row }, { one, many, json: many, elements: many });
        }),
        { numRuns: 100 },
      );
    });

    it("refuses a text with a zero byte, and goes on", async () => {
      await assert.rejects(async () => db.sql`select ${"a\0b"}::text as t`);
      assert.equal((await db.sql`select 1 as n`)[0]?.["n"], 1);
    });

    it("carries a value of eight megabytes both ways", async () => {
      const bytes = Buffer.alloc(8 * 1024 * 1024, 7);
      const [row] = await db.sql<{ bytes: Buffer }[]>`select ${bytes}::bytea as bytes`;
      assert.ok(row?.bytes.equals(bytes));
    });

    it("keeps what a transaction committed and nothing of one that threw", async () => {
      await db.sql.begin(async (tx) => {
        await tx`insert into kept (id, n) values ('committed', 1)`;
      });
      const thrown = new Error("no");
      await assert.rejects(
        db.sql.begin(async (tx) => {
          await tx`insert into kept (id, n) values ('thrown', 1)`;
          throw thrown;
        }),
        thrown,
      );
      assert.equal(await amount("committed"), 1);
      assert.equal(await amount("thrown"), undefined);
    });

    it("keeps nothing of a transaction whose statement failed, even where the failure was caught", async () => {
      await assert.rejects(
        db.sql.begin(async (tx) => {
          await tx`insert into kept (id) values ('before the failure')`;
          await tx`select 1 / 0`.catch(() => {});
        }),
      );
      assert.equal(await amount("before the failure"), undefined);
      assert.equal((await db.sql`select 1 as n`)[0]?.["n"], 1);
    });

    it("goes back to a savepoint and on from there", async () => {
      await db.sql.begin(async (tx) => {
        await tx`insert into kept (id) values ('outer')`;
        await tx.savepoint((inner) => inner`insert into kept (id) values ('outer')`).catch(() => {});
        await tx`update kept set n = 5 where id = 'outer'`;
      });
      assert.equal(await amount("outer"), 5);
    });

    it("lets concurrent transactions on one row pass one after the other", async () => {
      await db.sql`insert into kept (id, n) values ('counter', 0)`;
      await Promise.all(
        Array.from({ length: 40 }, () =>
          db.sql.begin(async (tx) => {
            const [row] = await tx<{ n: number }[]>`select n::float8 as n from kept where id = 'counter' for update`;
            await tx`update kept set n = ${(row?.n ?? 0) + 1} where id = 'counter'`;
          }),
        ),
      );
      assert.equal(await amount("counter"), 40);
    });

    it("keeps statements outside of transactions that others have open", async () => {
      const seen = await Promise.all([
        ...Array.from({ length: 10 }, (_, i) =>
          db.sql
            .begin(async (tx) => {
              await tx`insert into kept (id) values (${`open ${i}`})`;
              await tx`select 1`;
              throw new Error("rolled back");
            })
            .catch(() => 0),
        ),
        ...Array.from({ length: 30 }, async (_, i) => {
          await db.sql`insert into kept (id) values (${`plain ${i}`})`;
          return 1;
        }),
      ]);
      assert.equal(
        seen.reduce((sum, one) => sum + one, 0),
        30,
      );
      const [row] = await db.sql<{ open: number; plain: number }[]>`
        select count(*) filter (where id like 'open %')::int as open,
          count(*) filter (where id like 'plain %')::int as plain from kept`;
      assert.deepEqual({ ...row }, { open: 0, plain: 30 });
    });

    it("tells which rule a row broke", async () => {
      await db.sql`insert into kept (id) values ('there')`;
      const failure = (work: () => PromiseLike<unknown>): Promise<unknown> =>
        Promise.resolve(work()).then(
          () => assert.fail("it was accepted"),
          (error: unknown) => error,
        );
      const unique = await failure(() => db.sql`insert into kept (id) values ('there')`);
      assert.ok(isUniqueViolation(unique) && isUniqueViolation(unique, "kept_pkey"));
      assert.ok(!isUniqueViolation(unique, "another") && !isForeignKeyViolation(unique) && !isUnavailable(unique));
      const foreign = await failure(() => db.sql`insert into parts (id, kept_id) values ('p', 'nowhere')`);
      assert.ok(isForeignKeyViolation(foreign) && isForeignKeyViolation(foreign, "parts_kept_id_fkey"));
      const refused = await failure(() => db.sql`insert into kept (id, n) values ('negative', -1)`);
      assert.ok(isCheckViolation(refused) && isCheckViolation(refused, "kept_n_check"));
    });

    it("does not show the parameters in an error that is printed", async () => {
      const error: unknown = await db.sql`select ${"s3cret"}::text::integer`.catch((reason: unknown) => reason);
      assert.ok(error instanceof Error);
      assert.ok(!JSON.stringify({ ...error, message: "" }).includes("parameters"));
    });

    it("counts every statement that it sends", async () => {
      await db.sql`select 1`;
      const before_plain = statements();
      await db.sql`select 1`;
      assert.equal(statements() - before_plain, 1);
      const before_transaction = statements();
      await db.sql.begin(async (tx) => {
        await tx`select ${1}::int`;
        await tx`select ${2}::int`;
      });
      assert.equal(statements() - before_transaction, 4, "BEGIN, two, COMMIT");
    });

    it("listens without an error, and stops", async () => {
      let woken = 0;
      const stop = await db.listen("caracal_test", () => {
        woken += 1;
      });
      await db.sql`select pg_notify('caracal_test', '')`;
      await stop();
      const after_stop = woken;
      await db.sql`select pg_notify('caracal_test', '')`;
      await db.sql`select 1`;
      assert.equal(woken, after_stop);
    });

    it("serves more callers than it has connections", async () => {
      const rows = await Promise.all(
        Array.from({ length: 300 }, (_, i) => db.sql.begin(async (tx) => (await tx`select ${i}::int as n`)[0]?.["n"])),
      );
      assert.deepEqual(
        rows,
        Array.from({ length: 300 }, (_, i) => i),
      );
    });

    it("refuses statements once it is closed", async () => {
      const other = await under_test.open();
      await other.db.sql`select 1`;
      await other.close();
      const error: unknown = await other.db.sql`select 1`.catch((reason: unknown) => reason);
      await eventually(() => assert.ok(isUnavailable(error)));
    });
  });
};
