/**
 * What holds an answer back. `stale`: nobody has confirmed the revocation state lately. `pace`: too many small chunks came.
 * `client`: the client's connection takes no more for now.
 */
export type Holder = "stale" | "pace" | "client";

const BIT: Readonly<Record<Holder, number>> = { stale: 1, pace: 2, client: 4 };

const ignore = (): void => undefined;

/** Why nothing more is read of an upstream, and how it goes on: only once nothing holds its answer back any more. */
export class Hold {
  private by = 0;
  private goOn: () => void = ignore;

  /** The answer has begun to come: `goOn` is how its upstream goes on. */
  from(goOn: () => void): void {
    this.goOn = goOn;
  }

  is(holder: Holder): boolean {
    return (this.by & BIT[holder]) !== 0;
  }

  put(holder: Holder): void {
    this.by |= BIT[holder];
  }

  lift(holder: Holder): void {
    this.by &= ~BIT[holder];
  }

  get any(): boolean {
    return this.by !== 0;
  }

  /** After a `lift`, and after what waited for it was sent: what comes next comes after that. */
  resume(): void {
    if (this.by === 0) this.goOn();
  }
}

/** How often answers that wait for a fresh revocation state look whether it is. */
const LOOK_MS = 100;

export type Waiting = { release(): void };
/** A byte that may be of a revoked session is not sent: while the state is stale, answers wait here. */
export type StaleAnswers = { add(answer: Waiting): void; remove(answer: Waiting): void };

export const createStaleAnswers = (stale: () => boolean): StaleAnswers => {
  const answers = new Set<Waiting>();
  let timer: NodeJS.Timeout | undefined;
  const look = (): void => {
    if (!stale()) for (const answer of [...answers]) answer.release();
    timer = answers.size === 0 ? undefined : setTimeout(look, LOOK_MS);
  };
  return {
    add(answer) {
      answers.add(answer);
      timer ??= setTimeout(look, LOOK_MS);
    },
    remove: (answer) => void answers.delete(answer),
  };
};
