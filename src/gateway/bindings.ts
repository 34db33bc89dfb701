import type { Sts } from "../ports/sts.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { type Worker, worker } from "../kernel/service.ts";

/** Where calls of a resource go. */
export type Binding = { readonly resource_id: string; readonly identifier: string; readonly upstream: URL };

type Zone = { readonly by_identifier: ReadonlyMap<string, Binding>; readonly by_id: ReadonlyMap<string, Binding> };

/** The STS's word on which resource goes where. The last good one is kept while the STS is away. */
export type BindingTable = {
  /** Whether the zone has any resource. Tokens of other zones are refused without a question to anybody. */
  knows(zone_id: string): boolean;
  byIdentifier(zone_id: string, identifier: string): Binding | undefined;
  byId(zone_id: string, resource_id: string): Binding | undefined;
  readonly loaded: boolean;
  readonly size: number;
  /** Something changed, or may have: asks the STS again now. */
  refresh(): void;
  readonly worker: Worker;
};

const REFRESH_MS = 30_000;
/** How soon a failed question is asked again. */
const RETRY_MS = 1_000;

const parsed = (text: string): URL | undefined => {
  try {
    return new URL(text);
  } catch {
    return undefined;
  }
};

export const createBindings = (deps: { readonly sts: Sts; readonly clock: Clock; readonly log: Log }): BindingTable => {
  const { sts, clock, log } = deps;
  let zones: ReadonlyMap<string, Zone> = new Map();
  let version: string | undefined;
  let size = 0;
  let next_ms = 0;

  const load = async (): Promise<void> => {
    const asked_ms = clock.monotonic_ms();
    next_ms = asked_ms + RETRY_MS; // unless it succeeds; a refresh that comes meanwhile sets it back to now
    const answer = await sts.bindings(version);
    if (next_ms !== 0) next_ms = asked_ms + REFRESH_MS;
    if (answer === undefined) return;
    let count = 0;
    const read = new Map<string, Zone>();
    for (const zone of answer.zones) {
      const by_identifier = new Map<string, Binding>();
      const by_id = new Map<string, Binding>();
      for (const { id, identifier, upstream_url } of zone.resources) {
        const upstream = parsed(upstream_url);
        if (upstream === undefined) {
          log.error(
            { zone_id: zone.zone_id, resource_id: id },
            "a resource's upstream is no URL: its calls are refused",
          );
          continue;
        }
        const binding: Binding = { resource_id: id, identifier, upstream };
        by_identifier.set(identifier, binding);
        by_id.set(id, binding);
        count += 1;
      }
      read.set(zone.zone_id, { by_identifier, by_id });
    }
    zones = read; // at once and whole: no call sees half of two versions
    version = answer.version;
    size = count;
  };

  const loop = worker({
    name: "gateway-bindings",
    every_ms: RETRY_MS,
    tick: async () => {
      if (clock.monotonic_ms() >= next_ms) await load();
    },
    onError: (error) => log.warn({ err: error, bindings: size }, "bindings could not be read: the last ones stay"),
  });

  return {
    knows: (zone_id) => zones.has(zone_id),
    byIdentifier: (zone_id, identifier) => zones.get(zone_id)?.by_identifier.get(identifier),
    byId: (zone_id, resource_id) => zones.get(zone_id)?.by_id.get(resource_id),
    get loaded() {
      return version !== undefined;
    },
    get size() {
      return size;
    },
    refresh() {
      next_ms = 0;
      loop.wake();
    },
    worker: loop,
  };
};
