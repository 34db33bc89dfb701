import { DatabaseUnreachable } from "../../ports/database.ts";

/** Between two tries of a database that is down: the first pause, and the longest, as each is twice the one before. */
const FIRST_PAUSE_MS = 5;
const LONGEST_PAUSE_MS = 250;

/**
 * One way in for all connections of a pool. While the database is down, one of them tries and the others share what
 * comes of it, and for a short while after a failure all are refused at once: what waits in a pool's queue is then
 * rejected together, and not one connect timeout after the other.
 */
export type Gate = {
  /** Resolves when this connection may dial; rejects with the reason for which it may not. */
  enter(): Promise<void>;
  /** The server accepted a connection. */
  opened(): void;
  /** A connection failed, or broke. `reachable`: it had been accepted before, so the next one may try at once. */
  failed(reason: DatabaseUnreachable, reachable: boolean): void;
};

export const createGate = (now_ms: () => number = () => performance.now()): Gate => {
  let reason: DatabaseUnreachable | undefined;
  let closed_until = 0;
  let pause_ms = FIRST_PAUSE_MS;
  let trial: { readonly over: Promise<void>; readonly end: () => void } | undefined;

  const endTrial = (): void => {
    trial?.end();
    trial = undefined;
  };
  const beginTrial = (): void => {
    let end = (): void => {};
    const over = new Promise<void>((resolve) => {
      end = resolve;
    });
    trial = { over, end };
  };
  const refuse = (): never => {
    throw new DatabaseUnreachable(reason?.message ?? "the database is down", reason, reason?.code);
  };

  return {
    async enter() {
      if (reason === undefined) return;
      if (trial !== undefined) {
        await trial.over;
        if (reason !== undefined) refuse();
        return;
      }
      if (now_ms() < closed_until) refuse();
      beginTrial();
    },
    opened() {
      reason = undefined;
      pause_ms = FIRST_PAUSE_MS;
      endTrial();
    },
    failed(why, reachable) {
      if (reachable && trial !== undefined) return; // an old connection's end says nothing about the trial
      reason = why;
      closed_until = reachable ? 0 : now_ms() + pause_ms;
      if (!reachable) pause_ms = Math.min(2 * pause_ms, LONGEST_PAUSE_MS);
      endTrial();
    },
  };
};
