import { Command } from "commander";
import { type Variable, VARIABLES } from "../config/variables.ts";
import type { CliContext } from "./context.ts";

const defaultOf = (variable: Variable): string => {
  const own = variable.default === undefined ? "-" : variable.default === "" ? "(none)" : variable.default;
  return variable.dev_default === undefined ? own : `${own}; dev: ${variable.dev_default}`;
};

/** `caracal config`: every variable, its default, the roles that read it, and what it is for. */
export const configCommand = (context: CliContext): Command =>
  new Command("config").description("List every environment variable with its default.").action(() => {
    for (const [name, variable] of Object.entries<Variable>(VARIABLES)) {
      const roles = variable.roles.length === 5 ? "all" : variable.roles.join(" ") || "none, commands";
      context.out(
        `${name}\n    ${variable.doc}\n    default: ${defaultOf(variable)} | roles: ${roles}${variable.secret === true ? ` | also ${name}_FILE` : ""}`,
      );
    }
  });
