import { StartupFault } from "../kernel/problem.ts";

/** What a script may tell apart. The words stand in each command's help. */
export const EXIT = { ok: 0, refused: 1, usage: 2, not_found: 3, conflict: 4, unavailable: 5 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export const EXIT_CODES_HELP = `
Exit codes: 0 done, 1 refused or failed, 2 used wrongly, 3 not found,
4 in conflict with what is there or changed meanwhile, 5 unavailable: try again.`;

/** A fault of a command, printed line by line, with the code that the process ends with. A wrong use is a `UsageFault`. */
export class CommandFault extends StartupFault {
  readonly exit_code: ExitCode;
  constructor(exit_code: ExitCode, ...faults: readonly string[]) {
    super(...faults);
    this.exit_code = exit_code;
  }
}
