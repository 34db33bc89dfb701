import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import type { Database } from "../../src/ports/database.ts";
import { createEmptyDatabase, testServer } from "../support/postgres.ts";
import { findPgBouncer, type PrivateServer, startPgBouncer } from "../support/provision.ts";
import { databaseContract } from "./database.ts";

const SERVER_CONNECTIONS = 4;

if (findPgBouncer() === undefined) {
  it("a database behind a pooler", { skip: "there is no pgbouncer on this machine" }, () => {});
} else {
  let pooler: Promise<PrivateServer> | undefined;
  const start = async (): Promise<PrivateServer> => {
    const server = new URL(await testServer());
    return startPgBouncer(Number(server.port), SERVER_CONNECTIONS);
  };
  const open = async (): Promise<{
    readonly db: Database;
    readonly statements: () => number;
    close(): Promise<void>;
  }> => {
    pooler ??= start();
    const database = await createEmptyDatabase();
    const url = new URL(database.url);
    url.port = String((await pooler).port);
    let count = 0;
    const db = createPostgres({
      url: url.href,
      name: "pooled",
      max: 10,
      pooler: "transaction",
      onStatement: () => (count += 1),
    });
    const close = async (): Promise<void> => {
      await db.close();
      await database.close();
    };
    return { db, statements: () => count, close };
  };

  databaseContract("PostgreSQL behind PgBouncer in transaction mode", { open });

  describe("transactions behind a pooler", () => {
    let opened: Awaited<ReturnType<typeof open>>;
    before(async () => {
      opened = await open();
      await opened.db.sql`create table counted (id int primary key, n int not null)`;
      await opened.db.sql`insert into counted select i, 0 from generate_series(0, 9) as i`;
    });
    after(async () => {
      await opened.close();
      await (await pooler)?.close();
    });

    it("keep to themselves while more of them run than the pooler has connections", async () => {
      const { db } = opened;
      await Promise.all(
        Array.from({ length: 100 }, (_, at) =>
          db.sql.begin(async (tx) => {
            const [row] = await tx<{ n: number }[]>`select n from counted where id = ${at % 10} for update`;
            await tx`update counted set n = ${(row?.n ?? 0) + 1} where id = ${at % 10}`;
          }),
        ),
      );
      const rows = await db.sql<{ n: number }[]>`select n from counted`;
      assert.deepEqual(
        rows.map((row) => row.n),
        Array.from({ length: 10 }, () => 10),
      );
    });
  });
}
