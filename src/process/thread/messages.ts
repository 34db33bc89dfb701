import type { Env } from "../../config/index.ts";
import { StartupFault } from "../../kernel/problem.ts";
import type { RoleName } from "../../domain/role-name.ts";
import type { RoleThread } from "../role-thread.ts";

/** What a thread is made with. `env`: the texts of its role's variables, and of no other's. */
export type ThreadData = { readonly role: RoleName; readonly env: Env };

/** What can be asked of a thread. */
export type Verbs = Omit<RoleThread, "name">;
export type Verb = keyof Verbs;

/** To the thread: calls, each answered once, in whatever order they are done. */
export type Call = { readonly id: number; readonly verb: Verb; readonly given: readonly unknown[] };

/** From the thread. */
export type Told =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: ErrorByValue }
  /** A part of it failed for good. */
  | { readonly failed: ErrorByValue }
  /** A whole line of the log: one thread of the process writes them. */
  | { readonly line: string };

/** An error as it crosses threads: a clone would lose its class and its code. `faults`: of a `StartupFault`. */
export type ErrorByValue = {
  readonly faults?: readonly string[];
  readonly name: string;
  readonly message: string;
  readonly stack?: string | undefined;
  readonly code?: string | undefined;
  readonly cause?: ErrorByValue;
};

const MAX_CAUSES = 5;

export const errorByValue = (error: unknown, causes = MAX_CAUSES): ErrorByValue => {
  if (error instanceof StartupFault) return { faults: error.faults, name: error.name, message: error.message };
  if (!(error instanceof Error)) return { name: "Error", message: String(error) };
  return {
    name: error.name,
    message: error.message,
    stack: error.stack,
    code: "code" in error ? String(error.code) : undefined,
    ...(error.cause === undefined || causes === 0 ? {} : { cause: errorByValue(error.cause, causes - 1) }),
  };
};

export const errorFrom = (value: ErrorByValue): Error => {
  if (value.faults !== undefined) return new StartupFault(...value.faults);
  const { name, message, stack, code, cause } = value;
  const error = new Error(message, cause === undefined ? undefined : { cause: errorFrom(cause) });
  return Object.assign(error, { name, stack }, code === undefined ? {} : { code });
};
