import { type AuditWriter, SYSTEM_ZONE } from "../../domain/audit-event.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Log } from "../../kernel/log.ts";
import { type Worker, worker } from "../../kernel/service.ts";

const EVERY_MS = 60_000;

export type UnauthenticatedSummary = Worker & {
  /** `reason` is of our own vocabulary, so the sums are few. */
  count(reason: string): void;
};

/**
 * Calls by nobody are no decisions about anybody: they are counted, and come into the ledger as one event a minute in the
 * zone `system`, so that a flood of them fills no ledger. `onRound` runs with each round.
 */
export const createUnauthenticatedSummary = (options: {
  readonly audit: AuditWriter;
  readonly clock: Clock;
  readonly log: Log;
  readonly onRound: () => void;
}): UnauthenticatedSummary => {
  let counts = new Map<string, number>();
  let since_ms = options.clock.now_ms();

  const round = async (): Promise<void> => {
    options.onRound();
    const until_ms = options.clock.now_ms();
    const summed = counts;
    const from_ms = since_ms;
    since_ms = until_ms;
    if (summed.size === 0) return;
    counts = new Map();
    options.audit.record({
      zone_id: SYSTEM_ZONE,
      event_type: "unauthenticated.summary",
      decision: "none",
      metadata_json: JSON.stringify({
        role: "sts",
        from: new Date(from_ms).toISOString(),
        until: new Date(until_ms).toISOString(),
        counts: Object.fromEntries([...summed].sort(([a], [b]) => (a < b ? -1 : 1))),
      }),
    });
  };

  return {
    ...worker({
      name: "sts-unauthenticated-summary",
      every_ms: EVERY_MS,
      tick: round,
      onError: (error) => options.log.error({ err: error }, "the summary of unauthenticated calls failed"),
      onStop: round,
    }),
    count(reason) {
      counts.set(reason, (counts.get(reason) ?? 0) + 1);
    },
  };
};
