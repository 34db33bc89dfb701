import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createPglite } from "../../src/adapters/pglite/index.ts";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { migrate } from "../../src/adapters/postgres/migrate.ts";
import type { Database } from "../../src/ports/database.ts";
import { createEmptyDatabase } from "../support/postgres.ts";
import { databaseContract } from "./database.ts";
import { leaseContract } from "./lease.ts";

type Opened = { readonly db: Database; readonly statements: () => number; close(): Promise<void> };

const onPostgres = async (): Promise<Opened> => {
  const database = await createEmptyDatabase();
  let count = 0;
  const db = createPostgres({ url: database.url, name: "test", max: 5, onStatement: () => (count += 1) });
  const close = async (): Promise<void> => {
    await db.close();
    await database.close();
  };
  return { db, statements: () => count, close };
};

const onPglite = async (): Promise<Opened> => {
  const dir = mkdtempSync(join(tmpdir(), "caracal-test-pglite-"));
  let count = 0;
  const server = await createPglite({ dir: join(dir, "database"), onStatement: () => (count += 1) });
  const close = async (): Promise<void> => {
    await server.close();
    rmSync(dir, { recursive: true, force: true });
  };
  return { db: server.database("test"), statements: () => count, close };
};

const migrated = (open: () => Promise<Opened>) => async (): Promise<Opened> => {
  const opened = await open();
  await migrate(opened.db);
  return opened;
};

databaseContract("PostgreSQL", { open: onPostgres });
databaseContract("PGlite", { open: onPglite });
leaseContract("PostgreSQL", migrated(onPostgres));
leaseContract("PGlite", migrated(onPglite));
