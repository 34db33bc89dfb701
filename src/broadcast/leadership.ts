import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { createModes } from "../kernel/modes.ts";
import type { Database, Transaction } from "../ports/database.ts";
import type { Held, Lease } from "../ports/lease.ts";
import type { Streams } from "../ports/streams.ts";

export type LeadershipOptions = {
  readonly db: Database;
  readonly lease: Lease;
  readonly streams: Streams;
  readonly clock: Clock;
  readonly log: Log;
  /** A new term begins: what was sent in former terms may be another process's. */
  readonly onTerm: () => void;
};

/** Whether this process sends the outbox. */
export type Leadership = {
  /** Takes or renews the lease. Rejects where the streams or the database are away. */
  renew(): Promise<void>;
  /** The lease while it is surely ours, by our clock; undefined where another process may have it. */
  term(): Held | undefined;
  /** Runs `write` in a transaction in which the lease is ours. Rejects with `LeaseLost` where it is not any more. */
  note(term: Held, write: (tx: Transaction) => Promise<void>): Promise<void>;
  /** Gives the lease back, so that another process leads at once. */
  resign(): Promise<void>;
};

const LEASE = "outbox";
/** Short enough that heads come again well within the 10 s that readers go without, after a holder's death. */
const LEASE_TTL_MS = 4000;

/**
 * Modes: a process `follows` (another has the lease, or nobody), or it `leads`.
 *
 *   follows → leads    `renew` got the lease: a term begins
 *   leads → leads      `renew` got it again; with another fence somebody else may have led meanwhile: another term begins
 *   leads → follows    the streams are away, or another process got the lease, or `resign`
 *
 * A process that is stopped for a while may believe that it leads after its lease has ended. `term` therefore says no once
 * the lease's time is over, and `note` asks the database.
 */
export const createLeadership = (options: LeadershipOptions): Leadership => {
  const { db, lease, streams, clock, log } = options;
  const mode = createModes("the outbox's leadership", { follows: ["leads"], leads: ["leads", "follows"] }, "follows");
  /** Held while the mode is `leads`. `until_ms` is counted from before the lease was asked for: it ends here first. */
  let led: { readonly held: Held; readonly until_ms: number } | undefined;

  const follow = (): void => {
    if (mode.now === "leads") mode.go("follows");
    led = undefined;
  };

  return {
    /**
     * Who can't reach the streams must not lead, however well it reaches the database. Nobody else would send meanwhile, and
     * without heads every reader ends up refusing.
     */
    async renew() {
      const asked_ms = clock.monotonic_ms();
      const before = led?.held;
      try {
        await streams.identity();
      } catch (error) {
        follow();
        if (before !== undefined) await lease.release(before);
        throw error;
      }
      const held = await lease.acquire(LEASE, LEASE_TTL_MS);
      if (held === undefined) {
        follow();
        return;
      }
      mode.go("leads");
      led = { held, until_ms: asked_ms + LEASE_TTL_MS };
      if (before?.fence === held.fence) return;
      log.info({ fence: held.fence }, "this process sends the outbox");
      options.onTerm();
    },
    term: () => (led !== undefined && clock.monotonic_ms() < led.until_ms ? led.held : undefined),
    async note(term, write) {
      await db.sql.begin(async (tx) => {
        await lease.hold(tx, term);
        await write(tx);
      });
    },
    async resign() {
      const before = led?.held;
      follow();
      if (before !== undefined) await lease.release(before).catch(() => undefined); // it ends by itself
    },
  };
};
