import { Command } from "commander";
import { rewrapSealed } from "../api/index.ts";
import { readVariable } from "../config/index.ts";
import { keyring } from "../domain/keyring.ts";
import { StartupFault, UsageFault } from "../kernel/problem.ts";
import { type ConnectionOptions, createApiClient } from "./api-client.ts";
import { CommandFault, EXIT } from "./exit-codes.ts";
import type { CliContext } from "./context.ts";
import { withOperatorDatabase } from "./migrate.ts";
import { withConnection } from "./noun-command.ts";

type RotateOptions = ConnectionOptions & { readonly allZones?: boolean; readonly force?: boolean };

/** A zone that refuses does not keep the others from a new key; the worst of what was said is the exit code. */
const rotate = async (context: CliContext, options: RotateOptions): Promise<void> => {
  if (options.allZones !== true)
    throw new UsageFault("--all-zones: is missing; one zone's keys are rotated with caracal key rotate");
  const client = createApiClient(context.env, options);
  const failed = new Set<number>();
  let rotated = 0;
  for await (const zones of client.pages("listZones")) {
    for (const { id, slug } of zones) {
      const params = { zone_id: String(id) };
      try {
        const made = await client.call("rotateKeys", { params, body: { force: options.force === true } });
        rotated += 1;
        context.out(`${String(slug)}: ${made.kid} signs from ${made.signs_from}`);
      } catch (error) {
        if (!(error instanceof CommandFault)) throw error;
        if (error.exit_code === EXIT.unavailable) throw error; // the next zone would wait as long
        failed.add(error.exit_code);
        process.stderr.write(`caracal: ${String(slug)}: ${error.faults[0] ?? ""}\n`);
      }
    }
  }
  context.out(`${rotated} zones have a new key.`);
  context.exit(Math.max(EXIT.ok, ...failed));
};

const rewrap = async (context: CliContext): Promise<void> => {
  const kek = readVariable(context.env, "ZONE_KEK");
  if (kek === undefined)
    throw new UsageFault("ZONE_KEK: is missing; it is the key that everything is sealed under anew");
  const ring = keyring(kek, readVariable(context.env, "ZONE_KEK_PREVIOUS") ?? []);
  const { moved, left, faults } = await withOperatorDatabase(context.env, "keys-rewrap", (db) =>
    rewrapSealed(db, ring, ({ table, column, done, of }) => context.out(`${table}.${column}: ${done} of ${of}`)),
  );
  context.out(`${moved} values moved to key ${ring.current.id}; ${left} are under another.`);
  if (faults.length > 0) throw new StartupFault(...faults);
  if (left > 0) {
    throw new StartupFault(
      "some were sealed under a former key meanwhile; give every replica the new ZONE_KEK, then run this again",
    );
  }
};

/** `caracal keys …`: what is done to every zone's keys at once. */
export const keysCommand = (context: CliContext): Command => {
  const command = new Command("keys").description("The keys of every zone.");
  withConnection(command.command("rotate"))
    .description("Make a new signing key in every zone; each signs when every cache can know it.")
    .option("--all-zones", "every zone that the token sees")
    .option("--force", "for stolen keys: the others end now, with every token that they signed")
    .action((options: RotateOptions) => rotate(context, options));
  command
    .command("rewrap")
    .description(
      "Seal every zone key, provider secret and user's credential under the present ZONE_KEK, while everything runs. Needs the database, ZONE_KEK and ZONE_KEK_PREVIOUS; a run that was interrupted is taken up by the next.",
    )
    .action(() => rewrap(context));
  return command;
};
