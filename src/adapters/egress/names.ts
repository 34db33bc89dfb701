import type { Clock } from "../../kernel/clock.ts";
import type { Resolver } from "./resolver.ts";

/** Look-ups that run at a time, and names that are remembered: of one zone, and of all. */
export type NameBounds = {
  readonly zone_lookups: number;
  readonly lookups: number;
  readonly zone_names: number;
  readonly names: number;
};

export const NAME_BOUNDS: NameBounds = { zone_lookups: 8, lookups: 512, zone_names: 1_024, names: 16_384 };

/** What is known of a name, for so long (monotonic). No addresses: it has none, or nobody could say. */
export type Resolved = { readonly addresses: readonly string[]; readonly until_ms: number };

/** `zone_full`, `full`: nothing is known, and the zone, or all zones together, have as many look-ups as they may. */
export type Found = Resolved | "zone_full" | "full";

/** An answer of the DNS is believed for this long: the next dial asks again. */
const FRESH_MS = 5_000;
/** Where nobody answers any more, what was said last stands for this long. A name that is said to have no address has none. */
const STALE_MS = 60_000;
/** A name without an address is not asked for again for this long; twice as long each time, up to the longest. */
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;

type Entry = { addresses: readonly string[]; until_ms: number; stale_ms: number; failures: number };
/** `asking`: the look-ups that run. A zone is kept as long as it has one, or it would begin anew at none. */
type Zone = { readonly names: Map<string, Entry>; readonly asking: Map<string, Promise<Resolved>> };

/**
 * Names by zone, nothing shared: whoever has names that hang fills its own look-ups, whoever has many names pushes out its
 * own, and what a zone's back-off says of a name is said to that zone.
 */
export const createNames = (deps: {
  readonly resolver: Resolver;
  readonly clock: Clock;
  readonly bounds: NameBounds;
}) => {
  const { resolver, clock, bounds } = deps;
  const zones = new Map<string, Zone>();
  let lookups = 0;
  let count = 0;

  const dropOldest = (zone_id: string, zone: Zone): void => {
    for (const name of zone.names.keys()) {
      zone.names.delete(name);
      count -= 1;
      break;
    }
    if (zone.names.size === 0 && zone.asking.size === 0) zones.delete(zone_id);
  };

  /** Room for one more: the zone's own oldest name goes, or that of the zone with the most. */
  const makeRoom = (zone_id: string, zone: Zone): void => {
    if (zone.names.size >= bounds.zone_names) {
      dropOldest(zone_id, zone);
      return;
    }
    if (count < bounds.names) return;
    let largest: readonly [string, Zone] = [zone_id, zone];
    for (const one of zones) if (one[1].names.size > largest[1].names.size) largest = one;
    dropOldest(...largest);
  };

  const keep = (zone_id: string, zone: Zone, name: string, entry: Entry): void => {
    if (!zone.names.delete(name)) {
      makeRoom(zone_id, zone);
      count += 1;
    }
    zone.names.set(name, entry);
  };

  /** Nobody could say, or there is none: what is kept of it, and for how long nobody is asked. */
  const failed = (entry: Entry, now_ms: number): void => {
    entry.failures += 1;
    entry.until_ms = now_ms + Math.min(FIRST_PAUSE_MS * 2 ** (entry.failures - 1), LONGEST_PAUSE_MS);
    if (now_ms >= entry.stale_ms) entry.addresses = [];
  };

  const lookUp = async (name: string, entry: Entry): Promise<void> => {
    try {
      const addresses = await resolver(name);
      const now_ms = clock.monotonic_ms();
      const some = addresses.length > 0;
      entry.stale_ms = some ? now_ms + STALE_MS : -Infinity;
      if (!some) return failed(entry, now_ms);
      entry.addresses = addresses;
      entry.until_ms = now_ms + FRESH_MS;
      entry.failures = 0;
    } catch {
      failed(entry, clock.monotonic_ms());
    }
  };

  return {
    /** At once where it is known or refused, else a promise, which never rejects. `name`: canonical. */
    find(zone_id: string, name: string): Found | Promise<Resolved> {
      const zone = zones.get(zone_id) ?? { names: new Map(), asking: new Map() };
      const known = zone.names.get(name);
      const now_ms = clock.monotonic_ms();
      if (known !== undefined && known.until_ms > now_ms) return known;
      const running = zone.asking.get(name);
      if (running !== undefined) return running;
      const full =
        zone.asking.size >= bounds.zone_lookups ? "zone_full" : lookups >= bounds.lookups ? "full" : undefined;
      if (full !== undefined) {
        return known !== undefined && known.stale_ms > now_ms ? { addresses: known.addresses, until_ms: now_ms } : full;
      }
      const entry = known ?? { addresses: [], until_ms: -Infinity, stale_ms: -Infinity, failures: 0 };
      lookups += 1;
      const asking = lookUp(name, entry).then(() => {
        lookups -= 1;
        zone.asking.delete(name);
        keep(zone_id, zone, name, entry);
        return entry;
      });
      zone.asking.set(name, asking);
      zones.set(zone_id, zone);
      return asking;
    },
  };
};
