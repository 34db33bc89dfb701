import { Command, CommanderError } from "commander";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Env } from "../config/index.ts";
import { packageRoot } from "../kernel/package-root.ts";
import { Problem, StartupFault, UsageFault } from "../kernel/problem.ts";
import { scrub } from "../kernel/log.ts";
import type { CliContext } from "./context.ts";
import { CommandFault, EXIT } from "./exit-codes.ts";
import { NOUNS } from "./nouns.ts";

/** In the order of the help. Each is loaded when it is asked for: no start waits for what the other commands need. */
const COMMANDS: Readonly<Record<string, () => Promise<(context: CliContext) => Command>>> = {
  serve: async () => (await import("./serve.ts")).serveCommand,
  migrate: async () => (await import("./migrate.ts")).migrateCommand,
  config: async () => (await import("./config.ts")).configCommand,
  "admin-token": async () => (await import("./admin-token.ts")).adminTokenCommand,
  audit: async () => (await import("./audit.ts")).auditCommand,
  "dead-letters": async () => (await import("./dead-letters.ts")).deadLettersCommand,
  apply: async () => (await import("./apply.ts")).applyCommand,
  export: async () => (await import("./export.ts")).exportCommand,
  keys: async () => (await import("./keys.ts")).keysCommand,
  completion: async () => (await import("./completion.ts")).completionCommand(loadAll),
  ...Object.fromEntries(
    Object.keys(NOUNS).map((name) => [name, async () => (await import("./noun-command.ts")).nounCommand(name)]),
  ),
};
const DEFAULT = "serve";

/** Every command, for who has to know all their names. */
const loadAll = (context: CliContext): Promise<readonly Command[]> =>
  Promise.all(Object.values(COMMANDS).map(async (load) => (await load())(context)));

/** The command that is named, or the default one; every one where the program's help is asked for. */
const wantedOf = (argv: readonly string[]): readonly string[] => {
  const [first = ""] = argv;
  if (Object.hasOwn(COMMANDS, first)) return [first];
  return argv.some((word) => ["help", "--help", "-h"].includes(word)) ? Object.keys(COMMANDS) : [DEFAULT];
};

/** The program's settings for a command and for those below it, which commander hands down only where it makes them. */
const inherit = (command: Command, parent: Command): Command => {
  command.copyInheritedSettings(parent);
  for (const sub of command.commands) inherit(sub, command);
  return command;
};

const version = (): string => {
  const manifest: unknown = JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8"));
  return typeof manifest === "object" && manifest !== null && "version" in manifest ? String(manifest.version) : "0";
};

const lineOf = (error: unknown): readonly string[] => {
  if (error instanceof StartupFault) return error.faults;
  if (error instanceof Problem) return [error.description];
  return [`failed: ${String(scrub(error instanceof Error ? error.message : String(error)))}`];
};

/**
 * Runs one command of the program. Resolves to the exit code (`EXIT`). A fault is lines on standard error that name the
 * thing and the way out. Never a stack trace: that is in the log.
 */
export const run = async (argv: readonly string[], env: Env): Promise<number> => {
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined); // a closed pipe ends no role
  let code = 0;
  const context: CliContext = {
    env,
    out: (line) => process.stdout.write(`${line}\n`),
    exit: (chosen) => {
      code = chosen;
    },
  };
  const program = new Command("caracal")
    .description("Authority instead of credentials for AI agents.")
    .version(version())
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureOutput({ writeErr: (text) => process.stderr.write(text.replace(/^error: /, "caracal: ")) });
  try {
    for (const name of wantedOf(argv)) {
      const command = (await COMMANDS[name]?.())?.(context);
      if (command !== undefined) program.addCommand(inherit(command, program), { isDefault: name === DEFAULT });
    }
    const [first] = argv;
    const known = ["help", ...Object.keys(COMMANDS)];
    if (first !== undefined && !first.startsWith("-") && !known.includes(first)) {
      // The default command would take it for its own and complain about something else.
      throw new UsageFault(`${JSON.stringify(first.slice(0, 80))} is no command; the commands are ${known.join(", ")}`);
    }
    await program.parseAsync([...argv], { from: "user" });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage; // commander has said what is wrong
    for (const line of lineOf(error)) process.stderr.write(`caracal: ${line}\n`);
    if (error instanceof CommandFault) return error.exit_code;
    return error instanceof UsageFault ? EXIT.usage : EXIT.refused;
  }
};
