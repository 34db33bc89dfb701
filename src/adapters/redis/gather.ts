type Asking<Q, A> = {
  readonly questions: Q[];
  readonly waiting: { readonly resolve: (answer: A) => void; readonly reject: (error: unknown) => void }[];
};

/**
 * Callers of one tick that share a command: those of one `key`, in the order in which they ask, `most` of them to a
 * command. `ask` sends it; the function that it is given closes the list and gives it, and is called when the command's
 * words are made. It resolves to one answer for each question, in their order; where it rejects, all of them do.
 */
export const createGatherer = <Q, A>(
  most: number,
  ask: (key: string, close: () => readonly Q[]) => Promise<readonly A[]>,
): ((key: string, question: Q) => Promise<A>) => {
  const open = new Map<string, Asking<Q, A>>();

  const begin = (key: string): Asking<Q, A> => {
    const asking: Asking<Q, A> = { questions: [], waiting: [] };
    const close = (): readonly Q[] => {
      if (open.get(key) === asking) open.delete(key);
      return asking.questions;
    };
    ask(key, close).then(
      (answers) => {
        for (const [i, { resolve }] of asking.waiting.entries()) resolve(answers[i] as A);
      },
      (error: unknown) => {
        close(); // it may never have been sent: nobody is to join what has failed
        for (const { reject } of asking.waiting) reject(error);
      },
    );
    open.set(key, asking);
    return asking;
  };

  return (key, question) =>
    new Promise((resolve, reject) => {
      let asking = open.get(key);
      if (asking === undefined || asking.questions.length >= most) asking = begin(key);
      asking.questions.push(question);
      asking.waiting.push({ resolve, reject });
    });
};
