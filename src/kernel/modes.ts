/** Which of its modes a thing is in. */
export type Modes<M extends string> = {
  readonly now: M;
  /** Throws where the table has no such transition: the code is wrong about its own state, and must not go on. */
  go(to: M): void;
};

/** `first` is the mode to begin with. `transitions`: the modes that may follow each mode. `what` is for the error. */
export const createModes = <M extends string>(
  what: string,
  transitions: Readonly<Record<M, readonly M[]>>,
  first: NoInfer<M>,
): Modes<M> => {
  let now: M = first;
  return {
    get now() {
      return now;
    },
    go(to) {
      if (!transitions[now].includes(to)) throw new Error(`${what} can't go from ${now} to ${to}`);
      now = to;
    },
  };
};
