import type { Clock } from "../kernel/clock.ts";

const OVERRUNS = 3;
const WINDOW_MS = 60_000;
const QUARANTINE_MS = 30_000;
const MAX_VERSIONS = 4096;

/**
 * Which policy versions are denied unevaluated: three overruns of the budget within a minute cost a version 30 s, so that an
 * expensive policy slows no other zone. In process and bounded: the least recently overrun version is forgotten first.
 */
export type Quarantine = {
  holds(version_id: string): boolean;
  /** Counts an overrun. */
  overran(version_id: string): void;
};

type Record = { readonly overruns_ms: readonly number[]; readonly held_until_ms: number };

/** A quarantine of its own; `clock.monotonic_ms` is its time. */
export const createQuarantine = (options: { readonly clock: Clock }): Quarantine => {
  const records = new Map<string, Record>();
  return {
    holds(version_id) {
      const record = records.get(version_id);
      return record !== undefined && record.held_until_ms > options.clock.monotonic_ms();
    },
    overran(version_id) {
      const now_ms = options.clock.monotonic_ms();
      const before = records.get(version_id)?.overruns_ms ?? [];
      const recent = [...before.filter((at_ms) => at_ms > now_ms - WINDOW_MS), now_ms];
      const full = recent.length >= OVERRUNS;
      records.delete(version_id); // set again at the end: the map's order is that of the last overrun
      records.set(
        version_id,
        full ? { overruns_ms: [], held_until_ms: now_ms + QUARANTINE_MS } : { overruns_ms: recent, held_until_ms: 0 },
      );
      if (records.size <= MAX_VERSIONS) return;
      for (const oldest of records.keys()) {
        records.delete(oldest);
        break;
      }
    },
  };
};
