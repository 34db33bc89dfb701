import { Command } from "commander";
import * as v from "valibot";
import { createGlobalToken } from "../api/index.ts";
import { NameSchema } from "../contracts/api-fields.ts";
import { UsageFault } from "../kernel/problem.ts";
import type { CliContext } from "./context.ts";
import { withOperatorDatabase } from "./migrate.ts";

const DAY_S = 86_400;
const MAX_DAYS = 3_650;

const expiresIn_s = (text: string | undefined): number | null => {
  if (text === undefined) return null;
  const days = Number(text);
  if (!Number.isInteger(days) || days < 1 || days > MAX_DAYS)
    throw new UsageFault(`--expires-in-days: is no whole number from 1 to ${MAX_DAYS}`);
  return days * DAY_S;
};

type Options = {
  readonly global?: boolean;
  readonly label: string;
  readonly readOnly?: boolean;
  readonly expiresInDays?: string;
};

/** `caracal admin-token create --global`: for who holds the database; a zone's tokens are made over the API. */
export const adminTokenCommand = (context: CliContext): Command => {
  const command = new Command("admin-token").description("Admin tokens of the control plane.");
  command
    .command("create")
    .description("Make a global admin token and print it, once.")
    .option("--global", "for every zone (a zone's token is made with POST /v1/admin-tokens)")
    .option("--label <text>", "what it is for", "made with caracal admin-token create")
    .option("--read-only", "may read, not change")
    .option("--expires-in-days <n>", "ends after so many days")
    .action(async (options: Options) => {
      if (options.global !== true)
        throw new UsageFault(
          "--global: is missing; this command makes global tokens only, a zone's token is made with POST /v1/admin-tokens",
        );
      const label = v.safeParse(NameSchema, options.label);
      if (!label.success) throw new UsageFault(`--label: ${label.issues[0].message}`);
      const expires_in_s = expiresIn_s(options.expiresInDays);
      const access = options.readOnly === true ? "read" : "full";
      const made = await withOperatorDatabase(context.env, "admin-token", (db) =>
        createGlobalToken(db, { label: label.output, access, expires_in_s }),
      );
      context.out(made.token);
    });
  return command;
};
