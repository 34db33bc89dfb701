import { extname } from "node:path";
import { Worker } from "node:worker_threads";
import { type Env, foreignTo } from "../../config/index.ts";
import { within } from "../../kernel/service.ts";
import type { RoleName } from "../../domain/role-name.ts";
import { type Call, errorFrom, type ThreadData, type Told, type Verb, type Verbs } from "./messages.ts";
import type { RoleThread } from "../role-thread.ts";

export type ElsewhereOptions = {
  readonly role: RoleName;
  /** The texts of the role's own variables (`textsOf`): all that the thread gets of the process's configuration. */
  readonly env: Env;
  /** The process's environment, of which the thread sees what is not this program's. */
  readonly process_env: Env;
  /** Takes whole lines of the thread's log. */
  readonly write: (line: string) => void;
  /** A part of it failed for good, or the thread itself died, while nobody waited for an answer to hear it from. */
  readonly failed: (error: unknown) => void;
  /** The thread's module; a test has one of its own. */
  readonly module?: URL;
};

/** `.ts` as it is, `.js` when built: the compiler leaves such a URL alone. */
const MODULE = new URL(`./worker${extname(import.meta.url)}`, import.meta.url);
/** What a thread may take beyond the deadline that it was given, before it is given up. */
const GRACE_MS = 1_000;
/** Calls of a start. Whoever waits for their answer reports the fault. */
const OF_A_START: ReadonlySet<Verb> = new Set<Verb>(["bind", "make", "start", "faults"]);

type Pending = {
  readonly verb: Verb;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
};

/**
 * A role that runs in a thread of its own, which loads from this call on. Each call is answered, or rejects with the
 * thread's death; a thread that hangs is given up where a drain waits for it.
 */
export const createElsewhere = (options: ElsewhereOptions): RoleThread => {
  const name = `the ${options.role} thread`;
  const worker = new Worker(options.module ?? MODULE, {
    name: options.role,
    env: foreignTo(options.process_env) as NodeJS.ProcessEnv,
    workerData: { role: options.role, env: options.env } satisfies ThreadData,
  });
  const pending = new Map<number, Pending>();
  let calls = 0;
  let death: Error | undefined;
  /** Before, there is nothing in it that needs an orderly end. */
  let makes = false;
  let ended = false;

  const die = (error: Error): void => {
    if (death !== undefined) return;
    death = error;
    const waiting = [...pending.values()];
    pending.clear();
    for (const one of waiting) one.reject(error);
    if (!ended && !waiting.some(({ verb }) => OF_A_START.has(verb))) options.failed(error);
  };
  const settle = (id: number): Pending | undefined => {
    const one = pending.get(id);
    pending.delete(id);
    return one;
  };
  worker.on("message", (told: Told) => {
    if ("line" in told) options.write(told.line);
    else if ("failed" in told) options.failed(errorFrom(told.failed));
    else if ("error" in told) settle(told.id)?.reject(errorFrom(told.error));
    else settle(told.id)?.resolve(told.value);
  });
  worker.on("error", die);
  worker.on("messageerror", die);
  worker.on("exit", (code) => die(new Error(`${name} ended with code ${code}`)));

  const ask = <V extends Verb>(verb: V, ...given: Parameters<Verbs[V]>): ReturnType<Verbs[V]> =>
    new Promise<unknown>((resolve, reject) => {
      if (death !== undefined) {
        reject(death);
        return;
      }
      calls += 1;
      pending.set(calls, { verb, resolve, reject });
      worker.postMessage({ id: calls, verb, given } satisfies Call);
    }) as ReturnType<Verbs[V]>;
  /** For an end: there is no answer of a thread that is dead, and a hanging one is not waited for. */
  const askWithin = (deadline_ms: number, asked: Promise<void>): Promise<void> =>
    within(
      deadline_ms,
      asked.catch(() => undefined),
    );

  return {
    name,
    bind: () => ask("bind"),
    make(given) {
      makes = true;
      return ask("make", given);
    },
    start: () => ask("start"),
    faults: () => ask("faults"),
    notReady: () => askWithin(GRACE_MS, ask("notReady")),
    async drain(deadline_ms) {
      if (makes) await askWithin(deadline_ms + GRACE_MS, ask("drain", deadline_ms));
    },
    async stop(deadline_ms) {
      if (makes) await askWithin(deadline_ms + GRACE_MS, ask("stop", deadline_ms));
      ended = true;
      await worker.terminate();
    },
  };
};
