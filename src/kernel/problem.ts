/** One thing that is wrong with an input: where, and what to do. `path` in dots, `""` for the whole. */
export type Issue = { readonly path: string; readonly message: string; readonly row?: number; readonly col?: number };

/** What a problem may carry beside its code. `retry_after_s` in whole seconds; `reason` is public vocabulary. */
export type ProblemExtra = {
  readonly reason?: string;
  readonly issues?: readonly Issue[];
  readonly diagnostics?: readonly unknown[];
  readonly retry_after_s?: number;
  readonly cause?: unknown;
};

/**
 * The one error type. `code`, `status` and `description` go outside; `cause` stays inside (it is logged, never sent).
 * An Error, so that a store can throw it out of a transaction and have the transaction rolled back.
 */
export class Problem extends Error {
  readonly code: string;
  readonly status: number;
  readonly description: string;
  readonly reason: string | undefined;
  readonly issues: readonly Issue[] | undefined;
  readonly diagnostics: readonly unknown[] | undefined;
  readonly retry_after_s: number | undefined;
  constructor(status: number, code: string, description: string, extra: ProblemExtra = {}) {
    super(description, extra.cause === undefined ? undefined : { cause: extra.cause });
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.description = description;
    this.reason = extra.reason;
    this.issues = extra.issues;
    this.diagnostics = extra.diagnostics;
    this.retry_after_s = extra.retry_after_s;
  }
}

/** The caller is gone. Nothing more is done for it, and nobody reads this. */
export const requestAborted = (): Problem => new Problem(408, "request_aborted", "The client ended the request.");

/** A fault of the operator's making (a port, a folder, a server): printed as one line, exit code 1, no stack. */
export class StartupFault extends Error {
  readonly faults: readonly string[];
  constructor(...faults: readonly string[]) {
    super(faults.join("\n"));
    this.name = "StartupFault";
    this.faults = faults;
  }
}

/** A flag, an argument, a variable or a file's word that can't be meant: exit code 2. */
export class UsageFault extends StartupFault {}
