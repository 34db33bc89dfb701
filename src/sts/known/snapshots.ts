import { LRUCache } from "lru-cache";
import { createAnew } from "../../kernel/anew.ts";
import { createBucket } from "../../kernel/bucket.ts";
import { isUuid } from "../../kernel/ids.ts";
import { createModes, type Modes } from "../../kernel/modes.ts";
import { Unavailable } from "../../ports/streams.ts";
import {
  createSnapshotReader,
  type Former,
  type Modules,
  type SnapshotReaderOptions,
  type ZoneSnapshot,
} from "./snapshot.ts";

/** How old a snapshot may be that no message has made stale: the signing key is looked for at least this often. */
const MAX_AGE_MS = 30_000;
/** The same while messages may be getting lost: one poll cycle. */
const MAX_AGE_LOST_MS = 1_000;
/** From this part of its age on it is read again in the background, so that no caller waits for it. */
const RENEW_AT = 2 / 3;
/** Heads come every 2 s; a stream that was silent for longer is taken for lost. */
const STREAM_SILENT_MS = 3_000;
const MAX_ZONES = 1_000;
/** Modules of all zones together, as they are stored. Above it the zone that holds most of them is let go. */
const MAX_MODULE_BYTES = 512 * 1024 * 1024;
/** A zone that does not exist is remembered as such for this long. */
const ABSENT_MS = 1_000;
const MAX_ABSENT = 10_000;
/** Look-ups of zones that are not held, per second and in a burst: nobody needs to be authenticated to cause one. */
const LOOKUPS = { per_s: 200, burst: 400 } as const;
/** After a load that failed, the next is not tried sooner: a database that is away is not asked at the rate of requests. */
const RETRY_MS = 250;
/** A load that was overtaken by an invalidation reads again, this often. */
const MAX_ATTEMPTS = 3;

export type Snapshots = {
  /**
   * The zone as it is now, or was a moment ago: at once where it is held, else by one load for all who wait.
   * undefined: there is no such zone. Rejects with `Unavailable` where the database can't be asked.
   */
  get(zone_id: string): ZoneSnapshot | undefined | Promise<ZoneSnapshot | undefined>;
  /**
   * The same, by a reading that begins after the call: for what a caller brings that the snapshot does not know, such as
   * the secret of a client that was made a moment ago. One reading answers all who asked before it began; what a zone has
   * no time left for (`Anew`) waits. Where the database is away: as `get`.
   */
  latest(zone_id: string): Promise<ZoneSnapshot | undefined>;
  /** Something of the zone changed. `warm`: read it again at once, though nobody asks (an activation is to be logged). */
  invalidate(zone_id: string, warm: boolean): void;
  /** Anything may have changed. */
  invalidateAll(): void;
  /** For `createPresentedTokens`. */
  keysVersion(zone_id: string): number;
};

export type SnapshotOptions = SnapshotReaderOptions & {
  /** Milliseconds since the invalidation streams were last known to be whole. */
  readonly streamAge_ms: () => number;
  /** A zone is read. */
  readonly onLoad?: (() => void) | undefined;
  /** Bytes of modules that are held for all zones together; 512 MiB if absent. */
  readonly module_bytes_max?: number;
};

type Held = {
  readonly snapshot: ZoneSnapshot;
  readonly modules: Modules;
  /** When the database was asked, monotonic. */
  readonly read_ms: number;
  readonly mode: Modes<"fresh" | "stale">;
};
type Load = {
  /** What all who ask for the zone wait for. */
  result: Promise<ZoneSnapshot | undefined>;
  readonly mode: Modes<"reading" | "overtaken" | "ended">;
};

const heldMode = (first: "fresh" | "stale"): Held["mode"] =>
  createModes<"fresh" | "stale">("a held zone", { fresh: ["stale"], stale: ["stale"] }, first);
const loadMode = (): Load["mode"] =>
  createModes(
    "a zone's load",
    { reading: ["overtaken", "ended"], overtaken: ["overtaken", "reading", "ended"], ended: [] },
    "reading",
  );

const bytesOf = (modules: Modules): number => {
  let bytes = 0;
  for (const module of modules.values()) bytes += module.bytes;
  return bytes;
};

/**
 * Loads zones and keeps them. Modes of a zone that is held:
 *
 *   fresh → stale    it was invalidated: it answers nobody, and the next load takes its keys and modules over
 *
 * A load, of which a zone has one at most, replaces what is held by a new one. Modes of a load:
 *
 *   reading → overtaken    the zone was invalidated meanwhile: what is read may be older than that
 *   overtaken → reading    it reads again, `MAX_ATTEMPTS` times in all
 *   reading → ended        the zone is held, `fresh`; or it is remembered as absent; or the load failed
 *   overtaken → ended      the last reading answers those who wait, and is held `stale`; or the load failed
 *
 * So a reading that began before an invalidation is never held as `fresh`.
 */
export const createSnapshots = (options: SnapshotOptions): Snapshots => {
  const { clock, log, module_bytes_max = MAX_MODULE_BYTES } = options;
  const read = createSnapshotReader(options);
  /** The bytes of the modules of all that is in `held`: `keep` adds, the cache's disposal takes off. */
  let module_bytes = 0;
  const held = new LRUCache<string, Held>({
    max: MAX_ZONES,
    dispose: ({ modules }) => {
      module_bytes -= bytesOf(modules);
    },
  });
  /** Those under way. An entry is taken out in one step with what the load leaves: an invalidation finds one or the other. */
  const loads = new Map<string, Load>();
  /** When a zone was found not to exist, monotonic. */
  const absent = new LRUCache<string, number>({ max: MAX_ABSENT });
  /** When a load failed, monotonic. */
  const failures = new LRUCache<string, number>({ max: MAX_ZONES });
  /** Only zones that are not held draw on it, so that a flood of invented ones stops no known zone. */
  const lookups = createBucket(clock, LOOKUPS);

  /** Holds it. Where there are too many modules, the zone with most of them goes, so that none with few does. */
  const keep = (zone_id: string, one: Held): void => {
    held.set(zone_id, one);
    module_bytes += bytesOf(one.modules);
    while (module_bytes > module_bytes_max) {
      let heaviest: { readonly zone_id: string; readonly bytes: number } | undefined;
      for (const [other, { modules }] of held.entries()) {
        const bytes = other === zone_id ? 0 : bytesOf(modules);
        if (bytes >= (heaviest?.bytes ?? 1)) heaviest = { zone_id: other, bytes };
      }
      if (heaviest === undefined) return;
      held.delete(heaviest.zone_id);
    }
  };

  const end = (zone_id: string, load: Load): void => {
    load.mode.go("ended");
    loads.delete(zone_id);
  };

  const attempts = async (zone_id: string, load: Load, at_first: Former): Promise<ZoneSnapshot | undefined> => {
    let former = at_first;
    for (let attempt = 1; ; attempt += 1) {
      options.onLoad?.();
      const read_ms = clock.monotonic_ms();
      const found = await read(zone_id, former);
      if (found !== undefined) former = { keys: found.snapshot.keys, modules: found.modules };
      const overtaken = load.mode.now === "overtaken";
      if (overtaken && attempt < MAX_ATTEMPTS) {
        load.mode.go("reading");
        continue;
      }
      failures.delete(zone_id);
      if (found !== undefined) {
        keep(zone_id, { ...found, read_ms, mode: heldMode(overtaken ? "stale" : "fresh") });
      } else {
        held.delete(zone_id);
        if (!overtaken) absent.set(zone_id, read_ms);
      }
      end(zone_id, load);
      return found?.snapshot;
    }
  };

  const begin = (zone_id: string): Promise<ZoneSnapshot | undefined> => {
    const running = loads.get(zone_id);
    if (running !== undefined) return running.result;
    const failed_ms = failures.get(zone_id);
    if (failed_ms !== undefined && clock.monotonic_ms() - failed_ms < RETRY_MS)
      return Promise.reject(new Unavailable("database"));
    const found = held.peek(zone_id);
    const former: Former = { keys: found?.snapshot.keys, modules: found?.modules ?? new Map() };
    const load: Load = { result: Promise.resolve(undefined), mode: loadMode() };
    loads.set(zone_id, load);
    load.result = attempts(zone_id, load, former).catch((error: unknown) => {
      end(zone_id, load);
      failures.set(zone_id, clock.monotonic_ms());
      log.error({ err: error, zone_id }, "a zone can't be read");
      throw new Unavailable("database", error);
    });
    return load.result;
  };

  const get: Snapshots["get"] = (zone_id) => {
    const now_ms = clock.monotonic_ms();
    const found = held.get(zone_id);
    if (found?.mode.now === "fresh") {
      const max_age_ms = options.streamAge_ms() <= STREAM_SILENT_MS ? MAX_AGE_MS : MAX_AGE_LOST_MS;
      const age_ms = now_ms - found.read_ms;
      if (age_ms < max_age_ms) {
        if (age_ms >= max_age_ms * RENEW_AT) begin(zone_id).catch(() => {}); // logged; who comes past the age is told
        return found.snapshot;
      }
    }
    if (found !== undefined) return begin(zone_id);
    const absent_ms = absent.get(zone_id);
    if (!isUuid(zone_id) || (absent_ms !== undefined && now_ms - absent_ms < ABSENT_MS)) return undefined;
    if (loads.has(zone_id) || lookups.take()) return begin(zone_id);
    return Promise.reject(new Unavailable("zone look-up"));
  };

  const anew = createAnew({
    clock,
    running: (zone_id) => loads.get(zone_id)?.result,
    read: (zone_id) => begin(zone_id).catch(() => get(zone_id)),
  });

  return {
    get,
    async latest(zone_id) {
      if (held.peek(zone_id) === undefined) return get(zone_id); // look-ups of unknown zones have a bound of their own
      return anew.read(zone_id);
    },
    invalidate(zone_id, warm) {
      absent.delete(zone_id);
      held.peek(zone_id)?.mode.go("stale");
      loads.get(zone_id)?.mode.go("overtaken");
      if (warm) begin(zone_id).catch(() => {}); // logged; the next request tries again
    },
    invalidateAll() {
      absent.clear();
      for (const found of held.values()) found.mode.go("stale");
      for (const load of loads.values()) load.mode.go("overtaken");
    },
    keysVersion: (zone_id) => held.peek(zone_id)?.snapshot.keys.version ?? -1,
  };
};
