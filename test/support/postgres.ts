import { randomBytes } from "node:crypto";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { migrate } from "../../src/adapters/postgres/migrate.ts";
import type { Database } from "../../src/ports/database.ts";
import { startPostgresServer } from "./provision.ts";

/** A database of one test file. */
export type TestDatabase = { readonly url: string; close(): Promise<void> };

/** What the runner hands to every test file: a server, and the database on it that others are copied from. */
export const SERVER_VARIABLE = "CARACAL_TEST_POSTGRES";
export const TEMPLATE_VARIABLE = "CARACAL_TEST_TEMPLATE";

const at = (server_url: string, database: string): string => {
  const url = new URL(server_url);
  url.pathname = `/${database}`;
  return url.href;
};

const withServer = async <T>(server_url: string, work: (db: Database) => Promise<T>): Promise<T> => {
  const db = createPostgres({ url: server_url, name: "test", max: 1 });
  try {
    return await work(db);
  } finally {
    await db.close();
  }
};

const run = (server_url: string, statement: string): Promise<void> =>
  withServer(server_url, async (db) => {
    await db.sql.unsafe(statement);
  });

const newName = (): string => `t_${randomBytes(8).toString("hex")}`;

/** Makes a migrated database that nobody connects to, to be copied: a copy takes a tenth of a migration's time. */
export const createTemplate = async (server_url: string): Promise<string> => {
  const name = `${newName()}_template`;
  await run(server_url, `create database ${name}`);
  const db = createPostgres({ url: at(server_url, name), name: "test", max: 1 });
  try {
    await migrate(db);
  } finally {
    await db.close();
  }
  return name;
};

/** Drops a database, whoever is connected. */
export const dropDatabase = (server_url: string, name: string): Promise<void> =>
  run(server_url, `drop database if exists ${name} with (force)`);

/** `postgres://` of the private server that this process started for itself, as nobody gave it one. */
const startOwn = async (): Promise<string> => {
  const server = await startPostgresServer();
  return `postgres://postgres@127.0.0.1:${server.port}/postgres?sslmode=disable`;
};

let own_server: Promise<string> | undefined;
let own_template: Promise<string> | undefined;

/** The server's URL, with the maintenance database in it. */
export const testServer = (): Promise<string> => {
  const given = process.env[SERVER_VARIABLE] ?? process.env["TEST_DATABASE_URL"];
  if (given !== undefined) return Promise.resolve(given);
  own_server ??= startOwn();
  return own_server;
};

const create = async (template: string | undefined): Promise<TestDatabase> => {
  const server = await testServer();
  const name = newName();
  await run(server, `create database ${name}${template === undefined ? "" : ` template ${template}`}`);
  return { url: at(server, name), close: () => dropDatabase(server, name) };
};

/** A fresh, migrated database on a real PostgreSQL, the superuser's. */
export const createTestDatabase = async (): Promise<TestDatabase> => {
  const given = process.env[TEMPLATE_VARIABLE];
  if (given !== undefined) return create(given);
  own_template ??= testServer().then(createTemplate);
  return create(await own_template);
};

/** A database without anything in it. */
export const createEmptyDatabase = (): Promise<TestDatabase> => create(undefined);
