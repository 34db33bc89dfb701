import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createPglite } from "../../src/adapters/pglite/index.ts";
import { migrate } from "../../src/adapters/postgres/migrate.ts";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import type { Database, Sql } from "../../src/ports/database.ts";
import { createTestDatabase } from "../support/postgres.ts";

/**
 * A migrated database for the ledger. `unreachable`: a pool at an address where nothing listens. `url`: where there is a
 * server to log in to.
 */
export type LedgerDatabase = {
  readonly db: Database;
  readonly unreachable: Sql;
  readonly url?: string;
  close(): Promise<void>;
};

const openPostgres = async (): Promise<LedgerDatabase> => {
  const database = await createTestDatabase();
  const db = createPostgres({ url: database.url, name: "audit", max: 6 });
  const nowhere = createPostgres({
    url: "postgres://nobody@127.0.0.1:1/none?sslmode=disable",
    name: "nowhere",
    max: 1,
  });
  return {
    db,
    unreachable: nowhere.sql,
    url: database.url,
    async close() {
      await Promise.all([db.close(), nowhere.close()]);
      await database.close();
    },
  };
};

const openPglite = async (): Promise<LedgerDatabase> => {
  const dir = mkdtempSync(join(tmpdir(), "caracal-ledger-"));
  const server = await createPglite({ dir: join(dir, "database") });
  const nowhere = createPostgres({
    url: "postgres://nobody@127.0.0.1:1/none?sslmode=disable",
    name: "nowhere",
    max: 1,
  });
  const db = server.database("audit");
  await migrate(db);
  return {
    db,
    unreachable: nowhere.sql,
    async close() {
      await nowhere.close();
      await server.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
};

/** Every kind of database that the ledger rests on. */
export const LEDGER_DATABASES: readonly { readonly kind: string; readonly open: () => Promise<LedgerDatabase> }[] = [
  { kind: "PostgreSQL", open: openPostgres },
  { kind: "PGlite", open: openPglite },
];
