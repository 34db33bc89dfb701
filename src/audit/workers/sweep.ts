import type { ChainPoint } from "../../domain/audit-chain.ts";
import type { Keyring } from "../../domain/keyring.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Log } from "../../kernel/log.ts";
import { type Worker, worker } from "../../kernel/service.ts";
import type { Database } from "../../ports/database.ts";
import type { Findings } from "../findings.ts";
import { verifyHeads, verifyLedger } from "../verify.ts";

/** From the end of a sweep to the next. */
const SWEEP_EVERY_MS = 3_600_000;
/** How soon a sweep that could not be finished is tried again. */
const LOOK_EVERY_MS = 15_000;
/** The share of this thread's time that a sweep takes: in one process the Gateway runs beside it. */
const SWEEP_SHARE = 0.25;

export type SweepOptions = {
  readonly db: Database;
  readonly ring: Keyring;
  readonly findings: Findings;
  readonly clock: Clock;
  readonly log: Log;
  readonly onRows: (count: number) => void;
};

/** `fault`: what keeps the role from being ready: the heads were not looked at yet. */
export type Sweep = Worker & { fault(): string | undefined };

/** Verifies the ledger on start (heads first, then every row) and an hour after the end of each sweep. */
export const createSweep = ({ db, ring, findings, clock, log, onRows }: SweepOptions): Sweep => {
  const seen = new Map<string, ChainPoint>();
  let heads_checked = false;
  let due_ms = 0;

  const tick = async (signal: AbortSignal): Promise<void> => {
    if (!heads_checked) {
      await findings.record(await verifyHeads(db, signal));
      heads_checked = true; // a finding is told and does not close the ledger: what happens now must still be kept
    }
    if (clock.monotonic_ms() < due_ms) return;
    const began_ms = clock.monotonic_ms();
    const { zones, rows, findings_total } = await verifyLedger(db, ring, {
      share: SWEEP_SHARE,
      signal,
      seen,
      onRows,
      onFindings: findings.record,
    });
    due_ms = clock.monotonic_ms() + SWEEP_EVERY_MS;
    const took_ms = Math.round(clock.monotonic_ms() - began_ms);
    log.info({ zones, rows, findings: findings_total, took_ms }, "the ledger was verified");
  };

  const rounds = worker({
    name: "audit-sweep",
    every_ms: LOOK_EVERY_MS,
    tick,
    onError: (error) => log.warn({ err: error }, "the ledger could not be verified; it is tried again"),
  });
  return { ...rounds, fault: () => (heads_checked ? undefined : "the ledger's heads are not verified yet") };
};
