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
  /** Running time of a zone's jobs in a minute, where a job's terms name none; what is over is paid off before the next may start. */
  readonly zone_ms_per_minute: number;
  /** What the bounds are called in a refusal: of jobs that wait, of seconds a minute; and the code where there are too many zones. */
  readonly names: { readonly waiting: string; readonly seconds: string; readonly busy: string };
};

/** `signal`: who asks is gone. `seconds_per_minute`: the zone's running time from here on, where that is not the general one. */
export type Terms = { readonly signal?: Cancellation | undefined; readonly seconds_per_minute?: number | undefined };

/** Runs jobs in turns: one after the other for a zone, and zone after zone. */
export type Turns = {
  /**
   * Rejects with `Problem` 429 `quota_exceeded` (diagnostics `{name, limit, use}`) where the zone is over its share, 503 where
   * there are too many zones, and with what `work` rejects with.
   */
  take<T>(zone_id: string, terms: Terms, work: () => Promise<T>): Promise<T>;
};

type Job = { readonly run: () => Promise<void>; readonly refuse: (problem: Problem) => void };
type Zone = {
  running: boolean;
  readonly waiting: Job[];
  /** Its share, as the last job said. */
  ms_per_minute: number;
  left_ms: number;
  at_ms: number;
};

const MINUTE_MS = 60_000;
const BUSY_RETRY_S = 5;

const over = (name: string, limit: number, use: number, retry_after_s: number): Problem =>
  new Problem(429, "quota_exceeded", `The zone is over its quota ${name}: limit ${limit}, use ${use}.`, {
    retry_after_s,
    diagnostics: [{ name, limit, use }],
  });

/** None runs yet. */
export const createTurns = (options: TurnOptions): Turns => {
  const { clock } = options;
  /** In the order in which they had a turn. */
  const zones = new Map<string, Zone>();
  let running = 0;

  const refill = (zone: Zone): void => {
    const now_ms = clock.monotonic_ms();
    const back_ms = ((now_ms - zone.at_ms) / MINUTE_MS) * zone.ms_per_minute;
    zone.left_ms = Math.min(zone.ms_per_minute, zone.left_ms + back_ms);
    zone.at_ms = now_ms;
  };

  /** What was used of the former share stays used. */
  const resize = (zone: Zone, ms_per_minute: number): void => {
    refill(zone);
    zone.left_ms += ms_per_minute - zone.ms_per_minute;
    zone.ms_per_minute = ms_per_minute;
  };

  /** Why the zone may start nothing now. */
  const spent = (zone: Zone): Problem | undefined => {
    refill(zone);
    const { left_ms, ms_per_minute } = zone;
    if (left_ms > 0) return undefined;
    // nothing comes back to a zone that has no share: it may ask again when somebody may have given it one
    const retry_after_s = ms_per_minute === 0 ? MINUTE_MS / 1_000 : Math.ceil((1 - left_ms) / (ms_per_minute / 60));
    const use_s = Math.round((ms_per_minute - left_ms) / 1_000);
    return over(options.names.seconds, ms_per_minute / 1_000, use_s, retry_after_s);
  };

  const forgetIdle = (): void => {
    for (const [zone_id, zone] of zones) {
      refill(zone);
      if (!zone.running && zone.waiting.length === 0 && zone.left_ms === zone.ms_per_minute) zones.delete(zone_id);
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

  const zoneOf = (zone_id: string, ms_per_minute: number): Zone => {
    const known = zones.get(zone_id);
    if (known !== undefined) return known;
    if (zones.size >= options.zones_max) forgetIdle();
    if (zones.size >= options.zones_max)
      throw new Problem(503, options.names.busy, "Too many zones ask for this now: try again.", {
        retry_after_s: BUSY_RETRY_S,
      });
    const at_ms = clock.monotonic_ms();
    const zone: Zone = { running: false, waiting: [], ms_per_minute, left_ms: ms_per_minute, at_ms };
    zones.set(zone_id, zone);
    return zone;
  };

  return {
    take: (zone_id, { signal, seconds_per_minute }, work) =>
      new Promise((resolve, reject) => {
        const ms_per_minute =
          seconds_per_minute === undefined ? options.zone_ms_per_minute : seconds_per_minute * 1_000;
        const zone = zoneOf(zone_id, ms_per_minute);
        resize(zone, ms_per_minute);
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
