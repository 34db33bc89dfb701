import { createShares, type NoShare } from "../../kernel/shares.ts";

/** Who waits for a decision in this process: each holds a connection and a timer. */
const SHARES = { limit: 1_024, zone_share: 1 / 4, client_share: 1 / 16 } as const;

/** A place among those who wait. */
export type Wait = {
  readonly ok: true;
  /**
   * Resolves to true once it is worth to look again: the challenge may have been decided since the last call (at the first, since the
   * place was taken), or `timeout_ms` are over. false: the wait is over, and nobody is to look again.
   */
  woken(timeout_ms: number): Promise<boolean>;
  /** Ends the wait at once, with no more of them. */
  leave(): void;
};

/** Those who wait for the decision on a challenge. */
export type ChallengeWaits = {
  /** Takes a place before the row is read, so that a decision in between is heard. */
  wait(zone_id: string, client_id: string, id: string): Wait | NoShare;
  /** The challenge was decided. */
  decided(zone_id: string, id: string): void;
  /** Anything may have been decided: all look. */
  lost(): void;
  /** Nobody waits any more; who would, hears at once. */
  end(): void;
  readonly held: number;
};

/** A bell that remembers that it was rung until somebody listened. */
class Bell {
  private rung = false;
  private listener: (() => void) | undefined = undefined;

  ring(): void {
    this.rung = true;
    this.listener?.();
  }

  heard(timeout_ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.listener = undefined;
        this.rung = false;
        resolve();
      };
      const timer = setTimeout(done, timeout_ms);
      this.listener = done;
      if (this.rung) done();
    });
  }
}

export const createChallengeWaits = (): ChallengeWaits => {
  const shares = createShares(SHARES);
  const bells = new Map<string, Set<Bell>>();
  let ended = false;
  const nameOf = (zone_id: string, id: string): string => `${zone_id}/${id}`;
  const ringAll = (): void => {
    for (const of_one of bells.values()) for (const bell of of_one) bell.ring();
  };

  return {
    wait(zone_id, client_id, id) {
      const share = shares.take(zone_id, client_id);
      if (!share.ok) return share;
      const name = nameOf(zone_id, id);
      const bell = new Bell();
      const of_one = bells.get(name) ?? new Set<Bell>();
      bells.set(name, of_one.add(bell));
      let left = false;
      return {
        ok: true,
        async woken(timeout_ms) {
          if (!left && !ended) await bell.heard(timeout_ms);
          return !left && !ended;
        },
        leave() {
          if (left) return;
          left = true;
          share.release();
          of_one.delete(bell);
          if (of_one.size === 0) bells.delete(name);
          bell.ring();
        },
      };
    },
    decided(zone_id, id) {
      for (const bell of bells.get(nameOf(zone_id, id)) ?? []) bell.ring();
    },
    lost: ringAll,
    end() {
      ended = true;
      ringAll();
    },
    get held() {
      return shares.held;
    },
  };
};
