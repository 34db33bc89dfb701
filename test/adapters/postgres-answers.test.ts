import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { type Database, isUnavailable } from "../../src/ports/database.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startFaultProxy } from "../support/fault-proxy.ts";
import { createEmptyDatabase, type TestDatabase } from "../support/postgres.ts";

/** What is done to the connections while statements are asked. */
type Trouble = { readonly name: string; readonly once: (round: number) => Promise<unknown> };

const ASKED_AT_ONCE = 20;
const ROUNDS = 8;
/** How often each of them asks in a round: one that asks anew comes between the answers to others. */
const ASKED_IN_TURN = 3;
/** Longer than any deadline of the pool: a statement that takes as long is one that nobody will ever answer. */
const NEVER_MS = 10_000;

describe("an answer of PostgreSQL", () => {
  let database: TestDatabase;
  let direct: Database;
  let pooled: Database;
  let proxy: FaultProxy;

  before(async () => {
    database = await createEmptyDatabase();
    direct = createPostgres({ url: database.url, name: "direct", max: 2 });
    const url = new URL(database.url);
    proxy = await startFaultProxy({ host: url.hostname, port: Number(url.port) });
    url.port = String(proxy.port);
    pooled = createPostgres({ url: url.href, name: "asked", max: 3, statement_timeout_ms: 2_000 });
    await direct.sql`create table shapes (id int primary key, held text not null)`;
    await direct.sql`insert into shapes select n, 'row ' || n from generate_series(0, 99) as n`;
    await direct.sql`create table admin_tokens (token_sha256 text primary key, access text not null)`;
    await direct.sql`insert into admin_tokens values ('right', 'full')`;
  });
  after(async () => {
    proxy.heal();
    await pooled.close();
    await proxy.close();
    await direct.close();
    await database.close();
  });

  /** Columns change their type and back, so that each cached plan has another result than it had. */
  const reshape = async (round: number): Promise<void> => {
    const type = round % 2 === 0 ? "varchar(100)" : "text";
    await direct.sql.unsafe(`alter table shapes alter column held type ${type}`);
    await direct.sql.unsafe(`alter table admin_tokens alter column access type ${type}`);
  };
  /** Each backend forgets what the driver believes to be prepared there. */
  const forget = (): Promise<unknown> =>
    Promise.allSettled(Array.from({ length: 6 }, () => pooled.sql.unsafe("deallocate all")));
  const terminate = (): Promise<unknown> =>
    direct.sql`select pg_terminate_backend(pid) from pg_stat_activity
      where application_name = 'caracal asked' and datname = current_database()`;
  const cut = async (round: number): Promise<void> => {
    proxy.cutAfter(round * 37);
    await pooled.sql`select ${round}::int`.catch(() => undefined);
    proxy.heal();
  };

  /** Statements of several shapes, each with a mark of its own that must come back. Resolves to how many were answered. */
  const askAll = async (round: number): Promise<number> => {
    const askOnce = async (at: number, turn: number): Promise<boolean> => {
      const mark = `${round}/${at}/${turn}`;
      const id = (round * 7 + at) % 100;
      try {
        const rows = await settled(ask(at, mark, id));
        assert.deepEqual(
          rows.map((row) => ({ ...row })),
          [{ mark, id, held: `row ${id}` }],
        );
        return true;
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        assert.ok(isUnavailable(error), String(error));
        return false;
      }
    };
    let answered = 0;
    const askInTurn = async (at: number): Promise<void> => {
      for (let turn = 0; turn < ASKED_IN_TURN; turn += 1) {
        const right = await askOnce(at, turn);
        if (right) answered += 1;
      }
    };
    await Promise.all(Array.from({ length: ASKED_AT_ONCE }, (_, at) => askInTurn(at)));
    return answered;
  };
  const settled = async <T>(asked: PromiseLike<T>): Promise<T> => {
    let timer: NodeJS.Timeout | undefined;
    const never = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new assert.AssertionError({ message: "it was never answered" })), NEVER_MS);
    });
    try {
      return await Promise.race([asked, never]);
    } finally {
      clearTimeout(timer);
    }
  };
  type Row = { readonly mark: string; readonly id: number; readonly held: string };
  const ask = (at: number, mark: string, id: number): Promise<readonly Row[]> => {
    const { sql } = pooled;
    if (at % 5 === 0) {
      return sql.begin(async (tx) => {
        await tx`select held from shapes where id = ${id}`;
        return tx<Row[]>`select ${mark}::text as mark, id, held from shapes where id = ${id}`;
      });
    }
    if (at % 3 === 0) return sql<Row[]>`select ${mark}::text as mark, s.* from shapes s where id = ${id}`;
    return sql<Row[]>`select ${mark}::text as mark, id, held from shapes where id = ${id}`;
  };

  /** Statements that the driver fails to write, or that the server refuses, beside those that are asked. */
  const misspeak = (): Promise<unknown> => {
    const { sql } = pooled;
    const circular: Record<string, unknown> = {};
    circular["self"] = circular;
    const nothing = undefined as unknown as string;
    return Promise.all(
      [
        () => sql`select ${nothing}::text as mark`,
        () => sql`select ${sql.json(circular as never)}::jsonb as mark`,
        () => sql`select ${new Date(Number.NaN)}::timestamptz as mark`,
        () => sql`select ${"no date"}::timestamptz as mark`,
        () =>
          sql.unsafe(
            "select 1 as mark",
            Array.from({ length: 65_600 }, () => 1),
          ),
        () => sql.begin((tx) => Promise.all([tx`select 1 as mark`, tx`select ${nothing}::text`, tx`select 2 as mark`])),
      ].map((wrong) => assert.rejects(settled<unknown>(wrong()), (error) => !(error instanceof assert.AssertionError))),
    );
  };

  const troubles: readonly Trouble[] = [
    { name: "statements can't be written", once: misspeak },
    { name: "tables change their shape", once: reshape },
    { name: "prepared statements are forgotten", once: forget },
    { name: "backends are ended", once: terminate },
    { name: "connections break at every byte", once: cut },
  ];

  for (const { name, once } of troubles) {
    it(`belongs to its own question while ${name}`, async () => {
      let answered = 0;
      for (let round = 0; round < ROUNDS; round += 1) {
        const [right] = await Promise.all([askAll(round), once(round)]);
        answered += right;
      }
      assert.ok(answered > ASKED_AT_ONCE, `${answered} were answered at all`);
      await eventually(async () => assert.equal(await askAll(ROUNDS), ASKED_AT_ONCE * ASKED_IN_TURN));
    });
  }

  it("belongs to its own question while all of that happens at once", async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      await Promise.all([askAll(round), ...troubles.map(({ once }) => once(round))]);
    }
    proxy.heal();
    await eventually(async () => assert.equal(await askAll(ROUNDS), ASKED_AT_ONCE * ASKED_IN_TURN));
  });

  it("lets no unknown token in while the table of tokens changes its shape", async () => {
    let asked = 0;
    const knock = async (token: string): Promise<void> => {
      const found = await settled(pooled.sql<{ token_sha256: string; access: string }[]>`
        select token_sha256, access from admin_tokens where token_sha256 = ${token}`).catch((error: unknown) => {
        if (error instanceof assert.AssertionError) throw error;
        assert.ok(isUnavailable(error), String(error));
        return [];
      });
      asked += 1;
      if (found.length > 0) assert.equal(token, "right", "a stranger was let in");
    };
    const knockInTurn = async (tokens: readonly string[]): Promise<void> => {
      for (const token of tokens) await knock(token);
    };
    for (let round = 0; round < ROUNDS; round += 1) {
      const strangers = Array.from({ length: 12 }, (_, at) => [`stranger ${round}/${at}`, `again ${round}/${at}`, "x"]);
      const known = Array.from({ length: 6 }, () => ["right", "right", "right"]);
      await Promise.all([...strangers, ...known].map(knockInTurn).concat(reshape(round)));
    }
    assert.equal(asked, ROUNDS * 18 * 3);
  });
});
