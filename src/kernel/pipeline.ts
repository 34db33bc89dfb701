/**
 * A request as a list of named steps: load → check → commit.
 *
 * `load` awaits ports and adds facts; `check` is pure and synchronous (time is a fact); `commit` writes, and nothing but
 * another commit may follow it. `denied` gives one reason of the step before a commit of its own: a refusal that writes.
 * The types hold the order. What does not compile: a step whose facts nobody added before it, a check after a commit, a
 * reason that the role's problem table does not answer, or an end for a reason that no step gives.
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
  /** The reason that the caller sees, in place of the pipeline's own: the word of the part that refused. */
  readonly public_reason?: string;
  /** What has to be answered before the same may pass, member by member as the caller is told. May hold a secret. */
  readonly challenge?: Readonly<Record<string, string>>;
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

/** A denied run keeps the facts that it had reached, for the ledger, and those that a refusal that writes added. */
export type Outcome<Facts, R extends string, Ended> =
  | { readonly facts: Facts; readonly denial?: undefined; readonly step?: undefined }
  | { readonly facts: Partial<Facts & Ended>; readonly step: string; readonly denial: Denial<R> };

/** A closed list. `steps` label the metrics, the ledger and the golden file in test/. */
export type Runner<Start, Facts, R extends string, Ended = object> = {
  readonly steps: readonly string[];
  run(start: Start): Promise<Outcome<Facts, R, Ended>>;
};

/** The reasons of a pipeline: the keys that its table reason → Problem must have. */
export type ReasonOf<P> = P extends Runner<infer _S, infer _F, infer R, infer _E> ? R : never;

/** What a step does when the run ends at it for one of these reasons. */
type Ends = ReadonlyMap<string, Step>;
const NO_ENDS: Ends = new Map();

/**
 * Each run begins with an object of its final shape. One that grows over fifteen steps costs three times as much as a clone,
 * and one that is spread from two objects ten times as much. The first runs show which names there are.
 */
const LEARNING_RUNS = 64;

class Draft<
  Start extends object,
  Facts extends object,
  Ended extends object,
  R extends string,
  Committed extends boolean,
> {
  declare readonly committed: Committed;
  readonly #steps: readonly Step[];
  readonly #ends: readonly Ends[];
  constructor(steps: readonly Step[], ends: readonly Ends[]) {
    this.#steps = steps;
    this.#ends = ends;
  }

  load<Adds extends object, R2 extends string>(
    this: Draft<Start, Facts, Ended, R, false>,
    step: Load<Facts, Adds, R2>,
  ): Draft<Start, Facts & Adds, Ended, R | R2, false> {
    return this.#with(step);
  }

  check<R2 extends string>(
    this: Draft<Start, Facts, Ended, R, false>,
    step: Check<Facts, R2>,
  ): Draft<Start, Facts, Ended, R | R2, false> {
    return this.#with(step);
  }

  commit<Adds extends object, R2 extends string>(
    step: Commit<Facts, Adds, R2>,
  ): Draft<Start, Facts & Adds, Ended, R | R2, true> {
    return this.#with(step);
  }

  /**
   * A refusal that writes: where the step before denies for `reason`, `end` commits, and the run ends with that denial
   * and what `end` added, or with the denial of `end` itself. It reads the facts that stand at that step.
   */
  denied<const K extends R, Adds extends object, R2 extends string>(
    reason: K,
    end: Commit<Facts, Adds, R2>,
  ): Draft<Start, Facts, Ended & Adds, R | R2, Committed> {
    const last = new Map(this.#ends.at(-1)).set(reason, end);
    return new Draft(this.#steps, [...this.#ends.slice(0, -1), last]);
  }

  #with<D>(step: Step): D {
    return new Draft([...this.#steps, step], [...this.#ends, NO_ENDS]) as D;
  }

  /** Closes the list. */
  seal(): Runner<Start, Facts, R, Ended> {
    const steps = this.#steps;
    const ends = this.#ends;
    const blank: Record<string, undefined> = {}; // names alone: no value of one run is ever seen by another
    const learn = (added: object): void => {
      for (const name of Object.keys(added)) blank[name] = undefined;
    };
    let runs = 0;
    return {
      steps: steps.map((step) => step.name),
      async run(start) {
        const learning = runs < LEARNING_RUNS;
        if (learning) {
          runs += 1;
          learn(start);
        }
        const facts = { ...blank } as unknown as Facts & Ended;
        Object.assign(facts, start);
        for (let at = 0; at < steps.length; at += 1) {
          const step = steps[at] as Step;
          const returned = step.run(facts as never);
          const result = returned instanceof Promise ? await returned : returned; // a synchronous step costs no microtask
          if (result === undefined) continue;
          if (result instanceof Denial) {
            const end = ends[at]?.get(result.reason);
            const ended = await end?.run(facts as never);
            if (ended instanceof Denial) return { facts, step: (end as Step).name, denial: ended as Denial<R> };
            if (ended !== undefined) Object.assign(facts, ended);
            return { facts, step: step.name, denial: result as Denial<R> };
          }
          if (learning) learn(result);
          Object.assign(facts, result);
        }
        return { facts };
      },
    };
  }
}

/** An empty list whose runs begin with the facts of `Start`. */
export const pipeline = <Start extends object>() => new Draft<Start, Start, object, never, false>([], []);
