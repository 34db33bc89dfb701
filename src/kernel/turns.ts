import type { Cancellation } from "./cancel.ts";
import type { Clock } from "./clock.ts";
import { Problem, requestAborted } from "./problem.ts";

export type TurnOptions = {
  readonly clock: Clock;
  /** Jobs that run at once; of one zone always one at most. */
  readonly running_max: number;
  /** Jobs of one zone that wait. */
  readonly zone_waiting_max: number;
  /** Zones that hold anything here. One that has been idle long enough to have all its time back is forgotten. */
  readonly zones_max: number;
  /** Running time of a zone's jobs in a minute; what is over is paid off before the next may start. */
  readonly zone_ms_per_minute: number;
  /** What the bounds are called in a refusal: of jobs that wait, of seconds a minute; and the code where there are too many zones. */
  readonly names: { readonly waiting: string; readonly seconds: string; readonly busy: string };
};

/** Runs jobs in turns: one after the other for a zone, and zone after zone. */
export type Turns = {
  /** Rejects with `Problem` 429 `quota_exceeded` where the zone is over its share, 503 where there are too many zones, and with what `work` rejects with. */
  take<T>(zone_id: string, signal: Cancellation | undefined, work: () => Promise<T>): Promise<T>;
};

type Job = { readonly run: () => Promise<void>; readonly refuse: (problem: Problem) => void };
type Zone = { running: boolean; readonly waiting: Job[]; left_ms: number; at_ms: number };

const MINUTE_MS = 60_000;
const BUSY_RETRY_S = 5;

const over = (bound: string, limit: number, use: number, retry_after_s: number): Problem =>
  new Problem(429, "quota_exceeded", `The zone is over its quota ${bound}: limit ${limit}, use ${use}.`, {
    retry_after_s,
  });

/** None runs yet. */
export const createTurns = (options: TurnOptions): Turns => {
  const { clock, zone_ms_per_minute } = options;
  /** In the order in which they had a turn. */
  const zones = new Map<string, Zone>();
  let running = 0;

  const refill = (zone: Zone): void => {
    const now_ms = clock.monotonic_ms();
    const back_ms = ((now_ms - zone.at_ms) / MINUTE_MS) * zone_ms_per_minute;
    zone.left_ms = Math.min(zone_ms_per_minute, zone.left_ms + back_ms);
    zone.at_ms = now_ms;
  };

  /** Why the zone may start nothing now. */
  const spent = (zone: Zone): Problem | undefined => {
    refill(zone);
    if (zone.left_ms > 0) return undefined;
    const retry_after_s = Math.ceil((1 - zone.left_ms) / (zone_ms_per_minute / 60));
    const use_s = Math.round((zone_ms_per_minute - zone.left_ms) / 1_000);
    return over(options.names.seconds, zone_ms_per_minute / 1_000, use_s, retry_after_s);
  };

  const forgetIdle = (): void => {
    for (const [zone_id, zone] of zones) {
      refill(zone);
      if (!zone.running && zone.waiting.length === 0 && zone.left_ms === zone_ms_per_minute) zones.delete(zone_id);
    }
  };

  const next = (): void => {
    for (const [zone_id, zone] of zones) {
      if (running >= options.running_max) return;
      if (zone.running) continue;
      const job = zone.waiting.shift();
      if (job === undefined) continue;
      const problem = spent(zone);
      if (problem !== undefined) {
        for (const refused of [job, ...zone.waiting.splice(0)]) refused.refuse(problem);
        continue;
      }
      zone.running = true;
      running += 1;
      const started_ms = clock.monotonic_ms();
      void job.run().finally(() => {
        zone.left_ms -= clock.monotonic_ms() - started_ms;
        zone.running = false;
        running -= 1;
        zones.delete(zone_id); // to the end
        zones.set(zone_id, zone);
        next();
      });
    }
  };

  const zoneOf = (zone_id: string): Zone => {
    const known = zones.get(zone_id);
    if (known !== undefined) return known;
    if (zones.size >= options.zones_max) forgetIdle();
    if (zones.size >= options.zones_max)
      throw new Problem(503, options.names.busy, "Too many zones ask for this now: try again.", {
        retry_after_s: BUSY_RETRY_S,
      });
    const zone: Zone = { running: false, waiting: [], left_ms: zone_ms_per_minute, at_ms: clock.monotonic_ms() };
    zones.set(zone_id, zone);
    return zone;
  };

  return {
    take: (zone_id, signal, work) =>
      new Promise((resolve, reject) => {
        const zone = zoneOf(zone_id);
        const problem = spent(zone);
        if (problem !== undefined) throw problem;
        if (zone.waiting.length >= options.zone_waiting_max)
          throw over(options.names.waiting, options.zone_waiting_max, zone.waiting.length, BUSY_RETRY_S);
        const onAbort = (): void => {
          const at = zone.waiting.indexOf(job);
          if (at !== -1) zone.waiting.splice(at, 1);
          reject(requestAborted());
        };
        const job: Job = {
          run: () => {
            signal?.removeEventListener("abort", onAbort);
            return work().then(resolve, reject);
          },
          refuse: (reason) => {
            signal?.removeEventListener("abort", onAbort);
            reject(reason);
          },
        };
        if (signal?.aborted === true) throw requestAborted();
        signal?.addEventListener("abort", onAbort, { once: true });
        zone.waiting.push(job);
        next();
      }),
  };
};
