import type { Env } from "../config/index.ts";

/** What a subcommand gets, and how it says with which code the process ends. */
export type CliContext = {
  readonly env: Env;
  readonly out: (line: string) => void;
  readonly exit: (code: number) => void;
};
