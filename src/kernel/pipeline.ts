/**
 * A request as a list of named steps: load → check → commit.
 *
 * `load` awaits ports and adds facts; `check` is pure and synchronous (time is a fact); `commit` writes, and nothing but
 * another commit may follow it. The types hold the order: a step whose facts nobody added before it does not compile, nor
 * does a check behind a commit, nor a reason that the role's problem table does not answer.
 */

/** A refusal as a value. `reason` is public vocabulary; `detail` is for the log and the ledger and never leaves. */
export class Denial<R extends string = string> {
  readonly reason: R;
  readonly detail: string | undefined;
  /** What the policy's author says to the caller, or what else the answer needs (a wait, an issue list). */
  readonly extra: DenialExtra | undefined;
  constructor(reason: R, detail?: string, extra?: DenialExtra) {
    this.reason = reason;
    this.detail = detail;
    this.extra = extra;
  }
}

/** What a denial may carry to the wire, beside its reason. `retry_after_s` in whole seconds. */
export type DenialExtra = {
  readonly diagnostics?: readonly unknown[];
  readonly retry_after_s?: number;
  readonly description?: string;
  /** The reason to tell outside in place of the pipeline's own: the word of the part that refused. */
  readonly public_reason?: string;
};

/** Ends the run with `reason`. */
export const deny = <const R extends string>(reason: R, detail?: string, extra?: DenialExtra): Denial<R> =>
  new Denial(reason, detail, extra);

type Awaitable<T> = T | Promise<T>;
type Step = {
  readonly kind: "load" | "check" | "commit";
  readonly name: string;
  readonly run: (facts: never) => unknown;
};

/** `Needs`: the facts that the step reads; `Adds`: those that it adds; `R`: the reasons for which it may deny. */
export type Load<Needs, Adds extends object, R extends string> = Step & {
  readonly kind: "load";
  readonly run: (facts: Needs) => Awaitable<Adds | Denial<R>>;
};
export type Check<Needs, R extends string> = Step & {
  readonly kind: "check";
  readonly run: (facts: Needs) => Denial<R> | undefined;
};
export type Commit<Needs, Adds extends object, R extends string> = Step & {
  readonly kind: "commit";
  readonly run: (facts: Needs) => Awaitable<Adds | Denial<R>>;
};

/** A step that awaits ports and adds facts. */
export const load = <Needs, Adds extends object, R extends string = never>(
  name: string,
  run: (facts: Needs) => Awaitable<Adds | Denial<R>>,
): Load<Needs, Adds, R> => ({ kind: "load", name, run });

/** A pure, synchronous step: facts in, a denial or nothing out. */
export const check = <Needs, R extends string>(
  name: string,
  run: (facts: Needs) => Denial<R> | undefined,
): Check<Needs, R> => ({ kind: "check", name, run });

/** A step that writes. Only commits may follow it. */
export const commit = <Needs, Adds extends object, R extends string = never>(
  name: string,
  run: (facts: Needs) => Awaitable<Adds | Denial<R>>,
): Commit<Needs, Adds, R> => ({ kind: "commit", name, run });

/** A denied run keeps the facts that it had reached, for the ledger. */
export type Outcome<Facts, R extends string> =
  | { readonly facts: Facts; readonly denial?: undefined; readonly step?: undefined }
  | { readonly facts: Partial<Facts>; readonly step: string; readonly denial: Denial<R> };

/** A closed list. `steps` label the metrics, the ledger and the golden file in test/. */
export type Runner<Start, Facts, R extends string> = {
  readonly steps: readonly string[];
  run(start: Start): Promise<Outcome<Facts, R>>;
};

/** The reasons of a pipeline: the keys that its table reason → Problem must have. */
export type ReasonOf<P> = P extends Runner<infer _S, infer _F, infer R> ? R : never;

/** An object with the names of both, each undefined. */
const shapeOf = (start: object, blank: object): Readonly<Record<string, undefined>> =>
  Object.fromEntries([...Object.keys(start), ...Object.keys(blank)].map((name) => [name, undefined]));

class Draft<Start extends object, Facts extends object, R extends string, Committed extends boolean> {
  declare readonly committed: Committed;
  readonly #steps: readonly Step[];
  constructor(steps: readonly Step[]) {
    this.#steps = steps;
  }

  load<Adds extends object, R2 extends string>(this: Draft<Start, Facts, R, false>, step: Load<Facts, Adds, R2>) {
    return new Draft<Start, Facts & Adds, R | R2, false>([...this.#steps, step]);
  }

  check<R2 extends string>(this: Draft<Start, Facts, R, false>, step: Check<Facts, R2>) {
    return new Draft<Start, Facts, R | R2, false>([...this.#steps, step]);
  }

  commit<Adds extends object, R2 extends string>(step: Commit<Facts, Adds, R2>) {
    return new Draft<Start, Facts & Adds, R | R2, true>([...this.#steps, step]);
  }

  /**
   * Closes the list. `blank` names every fact that the steps add, so that each run starts from an object of its final
   * shape: an object that grows costs three times as much over fifteen steps, and one that is spread out of two costs
   * ten times as much as the clone of one.
   */
  seal(blank: Record<Exclude<keyof Facts, keyof Start>, undefined>): Runner<Start, Facts, R> {
    const steps = this.#steps;
    let template: Readonly<Record<string, undefined>> | undefined;
    return {
      steps: steps.map((step) => step.name),
      async run(start) {
        template ??= shapeOf(start, blank); // names alone: no value of one run is ever seen by another
        const facts = { ...template } as unknown as Facts;
        Object.assign(facts, start);
        for (const step of steps) {
          const returned = step.run(facts as never);
          const result = returned instanceof Promise ? await returned : returned; // a synchronous step costs no microtask
          if (result === undefined) continue;
          if (result instanceof Denial) return { facts, step: step.name, denial: result as Denial<R> };
          Object.assign(facts, result);
        }
        return { facts };
      },
    };
  }
}

/** An empty list whose runs begin with the facts of `Start`. */
export const pipeline = <Start extends object>() => new Draft<Start, Start, never, false>([]);
