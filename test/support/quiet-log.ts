import type { Log } from "../../src/kernel/log.ts";

/** A log that keeps its lines for assertions. */
export type QuietLog = Log & {
  readonly lines: { readonly level: string; readonly facts: object; readonly message: string }[];
};

export const quietLog = (): QuietLog => {
  const lines: QuietLog["lines"] = [];
  const line = (level: string) => (facts: object, message: string) => {
    lines.push({ level, facts, message });
  };
  const log: QuietLog = {
    lines,
    debug: line("debug"),
    info: line("info"),
    warn: line("warn"),
    error: line("error"),
    child: () => log,
  };
  return log;
};
