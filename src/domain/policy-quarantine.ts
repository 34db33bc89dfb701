import type { Clock } from "../kernel/clock.ts";

const FAILURES = 3;
const WINDOW_MS = 60_000;
const QUARANTINE_MS = 30_000;
/** Of one zone, of each kind; the one that failed least recently is forgotten first. */
const MAX_RECORDS = 512;

/**
 * What of one zone is denied unevaluated. Three failures within a minute cost 30 s: the version, where several principals
 * met them, else that principal alone, whose later failures count anew. So nobody stops an innocent policy by what they send.
 */
export type Quarantine = {
  holds(version_id: string, principal: string): boolean;
  /** Counts a failure of any kind: out of steps or memory, a trap, an answer that is none. */
  failed(version_id: string, principal: string): void;
};

type Failure = { readonly principal: string; readonly at_ms: number };

/** Sets at the end, so that the map's order is that of the last change, and drops the first where there are too many. */
const keep = <T>(map: Map<string, T>, name: string, value: T): void => {
  map.delete(name);
  map.set(name, value);
  if (map.size <= MAX_RECORDS) return;
  for (const oldest of map.keys()) {
    map.delete(oldest);
    break;
  }
};

/** One zone's. `clock.monotonic_ms` is its time. */
export const createQuarantine = (clock: Clock): Quarantine => {
  const failures = new Map<string, readonly Failure[]>();
  /** Until when, by version, or by version and principal. */
  const held = new Map<string, number>();

  const isHeld = (name: string, now_ms: number): boolean => {
    const until_ms = held.get(name);
    if (until_ms === undefined) return false;
    if (until_ms > now_ms) return true;
    held.delete(name);
    return false;
  };

  return {
    holds(version_id, principal) {
      if (held.size === 0) return false;
      const now_ms = clock.monotonic_ms();
      return isHeld(version_id, now_ms) || isHeld(`${version_id}/${principal}`, now_ms);
    },
    failed(version_id, principal) {
      const now_ms = clock.monotonic_ms();
      const before = failures.get(version_id) ?? [];
      const recent = [...before.filter(({ at_ms }) => at_ms > now_ms - WINDOW_MS), { principal, at_ms: now_ms }];
      if (recent.length < FAILURES) return keep(failures, version_id, recent);
      const alone = recent.every((one) => one.principal === principal);
      failures.delete(version_id);
      keep(held, alone ? `${version_id}/${principal}` : version_id, now_ms + QUARANTINE_MS);
    },
  };
};
