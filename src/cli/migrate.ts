import { Command } from "commander";
import { createPostgres } from "../adapters/postgres/index.ts";
import { migrate } from "../adapters/postgres/migrate.ts";
import { type Env, isDev, readVariable } from "../config/index.ts";
import { unencryptedFault } from "../domain/database-url.ts";
import { StartupFault, UsageFault } from "../kernel/problem.ts";
import type { CliContext } from "./context.ts";

/** A migration, or the verification of a long ledger, may take a while; a person waits for it. */
const STATEMENT_TIMEOUT_MS = 600_000;

/** The database of an operator's command: the schema's owner where it is named, else DATABASE_URL. */
const operatorDatabase = (env: Env): { readonly variable: string; readonly url: string } => {
  const owner = readVariable(env, "MIGRATE_DATABASE_URL");
  const variable = owner === undefined ? "DATABASE_URL" : "MIGRATE_DATABASE_URL";
  const url = owner ?? readVariable(env, "DATABASE_URL");
  if (url === undefined) {
    throw new UsageFault(
      "DATABASE_URL: is missing; set MIGRATE_DATABASE_URL or DATABASE_URL to postgres://… (an embedded database is reached by its own process only)",
    );
  }
  const fault = isDev(env) ? undefined : unencryptedFault(url);
  if (fault !== undefined) throw new UsageFault(`${variable}: ${fault} (or set CARACAL_ENV=dev)`);
  return { variable, url };
};

/** Opens that database for one piece of work, and says in one line where it can't be reached. */
export const withOperatorDatabase = async <T>(
  env: Env,
  name: string,
  work: (db: ReturnType<typeof createPostgres>) => Promise<T>,
): Promise<T> => {
  const { variable, url } = operatorDatabase(env);
  const db = createPostgres({
    url,
    name,
    max: 2,
    statement_timeout_ms: STATEMENT_TIMEOUT_MS,
    pooler: readVariable(env, "DATABASE_POOLER") ?? "none",
  });
  try {
    await db.ping().catch((cause: unknown) => {
      throw new StartupFault(
        `${variable}: the database can't be reached (${cause instanceof Error ? cause.message : "no answer"}); check the address and that it runs`,
      );
    });
    return await work(db);
  } finally {
    await db.close();
  }
};

/** `caracal migrate`: brings the schema to this build's version. Safe to run twice and beside another. */
export const migrateCommand = (context: CliContext): Command =>
  new Command("migrate").description("Bring the database's schema to this build's version.").action(async () => {
    const { applied, version, not_granted } = await withOperatorDatabase(context.env, "migrate", (db) => migrate(db));
    context.out(
      applied.length === 0
        ? `The schema is at version ${version}; nothing to do.`
        : `Applied ${applied.join(", ")}; the schema is at version ${version}.`,
    );
    for (const line of not_granted) context.out(`Not granted: ${line}`);
  });
