import { LRUCache } from "lru-cache";
import type { BindingsPage } from "../../contracts/sts.ts";
import type { Sts } from "../../ports/sts.ts";
import { createAnew } from "../../kernel/anew.ts";
import { createBucket } from "../../kernel/bucket.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Log } from "../../kernel/log.ts";
import { type Worker, worker } from "../../kernel/service.ts";

/** Where calls of a resource go. */
export type Binding = { readonly resource_id: string; readonly identifier: string; readonly upstream: URL };

/** `too_large`: it has more than a Gateway holds for one zone, and so none at all. */
type Zone = {
  readonly by_identifier: ReadonlyMap<string, Binding>;
  readonly by_id: ReadonlyMap<string, Binding>;
  readonly too_large: boolean;
  /** The number of the question that it answers: what was asked for sooner does not replace it. */
  readonly asked: number;
};

/**
 * The STS's word on which resource goes where, zone by zone: each is loaded and refused by itself, and replaced as a
 * whole, so that no call sees half of two versions of it. The last good one is kept while the STS is away.
 */
export type BindingTable = {
  /** Whether there is such a zone. Tokens of others are refused without a question to anybody. */
  knows(zone_id: string): boolean;
  tooLarge(zone_id: string): boolean;
  byIdentifier(zone_id: string, identifier: string): Binding | undefined;
  byId(zone_id: string, resource_id: string): Binding | undefined;
  readonly loaded: boolean;
  readonly size: number;
  /**
   * Asks the STS about this zone, by a question that begins after the call: for what a caller brings that is not known, such
   * as a resource that was made a moment ago. One question answers all who asked before it; each zone has time of its own
   * for them, and zones that nobody knows share a few a second, because a token that names one is not verified yet. Resolves
   * to false where the STS was not asked, or did not answer.
   */
  latest(zone_id: string): Promise<boolean>;
  /** Something of this zone changed, or of any may have: asks the STS again now. */
  refresh(zone_id: string | undefined): void;
  readonly worker: Worker;
};

const REFRESH_MS = 30_000;
/** How soon a failed question is asked again, and how often one zone is asked about. */
const RETRY_MS = 1_000;
/** Questions about zones that we don't know, a second and at once: anybody can name one. */
const LOOKUPS = { per_s: 50, burst: 100 } as const;
/** What reading a zone's bindings costs, here and at the STS; ten milliseconds at least, so 20 questions a second at most. */
const READING_MS_PER_RESOURCE = 0.2;
/** Zones that wait to be read again; where there are more, all are. */
const MAX_CHANGED = 1_000;

/** Most resources are seldom called: the URL, ten times its text, is made for those that are. */
class LazyBinding implements Binding {
  readonly resource_id: string;
  readonly identifier: string;
  private readonly text: string;
  private url: URL | undefined = undefined;

  constructor(resource_id: string, identifier: string, text: string) {
    this.resource_id = resource_id;
    this.identifier = identifier;
    this.text = text;
  }

  get upstream(): URL {
    return (this.url ??= new URL(this.text));
  }
}

export const createBindings = (deps: {
  readonly sts: Pick<Sts, "bindings">;
  readonly clock: Clock;
  readonly log: Log;
}): BindingTable => {
  const { sts, clock, log } = deps;
  const zones = new Map<string, Zone>();
  /** Zones that were said to have changed, and when one was read last for that reason. */
  const changed = new Set<string>();
  const read_ms = new LRUCache<string, number>({ max: MAX_CHANGED });
  /** What all zones are at; unknown once one was read alone, since then. */
  let version: string | undefined;
  let loaded = false;
  let size = 0;
  let next_ms = 0;
  let asks = 0;
  const lookups = createBucket(clock, LOOKUPS);

  const remove = (zone_id: string, asked: number): void => {
    if ((zones.get(zone_id)?.asked ?? 0) > asked) return;
    size -= zones.get(zone_id)?.by_id.size ?? 0;
    zones.delete(zone_id);
  };

  const replace = ({ zone_id, resources, ...said }: BindingsPage["zones"][number], asked: number): void => {
    if ((zones.get(zone_id)?.asked ?? 0) > asked) return;
    const too_large = said.too_large === true;
    if (too_large && zones.get(zone_id)?.too_large !== true)
      log.error({ zone_id }, "a zone has more identifiers and addresses than a Gateway holds: its calls are refused");
    const by_identifier = new Map<string, Binding>();
    const by_id = new Map<string, Binding>();
    for (const { id, identifier, upstream_url } of resources) {
      if (!URL.canParse(upstream_url)) {
        log.error({ zone_id, resource_id: id }, "a resource's upstream is no URL: its calls are refused");
        continue;
      }
      const binding = new LazyBinding(id, identifier, upstream_url);
      by_identifier.set(identifier, binding);
      by_id.set(id, binding);
    }
    remove(zone_id, asked);
    zones.set(zone_id, { by_identifier, by_id, too_large, asked });
    size += by_id.size;
  };

  const loadAll = async (): Promise<void> => {
    const asked = (asks += 1);
    const first = await sts.bindings({ since: version });
    if (first === undefined) return;
    const seen = new Set<string>();
    for (let page: BindingsPage | undefined = first; page !== undefined;) {
      for (const zone of page.zones) {
        replace(zone, asked);
        seen.add(zone.zone_id);
      }
      page = page.cursor === undefined ? undefined : await sts.bindings({ cursor: page.cursor });
    }
    for (const zone_id of zones.keys()) if (!seen.has(zone_id)) remove(zone_id, asked);
    version = first.version;
    loaded = true;
  };

  const readZone = async (zone_id: string): Promise<void> => {
    const asked = (asks += 1);
    const answer = await sts.bindings({ zone_id });
    const zone = answer?.zones[0];
    if (zone === undefined) remove(zone_id, asked);
    else replace(zone, asked);
    version = undefined; // or a change and its undoing, the latter unheard, would look like none
  };

  /** Whoever changes a zone all the time has it read once a second. */
  const loadChanged = async (): Promise<void> => {
    for (const zone_id of [...changed]) {
      const now_ms = clock.monotonic_ms();
      if (now_ms - (read_ms.get(zone_id) ?? -Infinity) < RETRY_MS) continue;
      changed.delete(zone_id); // before the question: a change during it is another one
      try {
        await readZone(zone_id);
        read_ms.set(zone_id, now_ms);
      } catch (error) {
        changed.add(zone_id); // as the last: the others do not wait for it
        throw error;
      }
    }
  };

  const anew = createAnew({
    clock,
    costOf: (zone_id) => (zones.get(zone_id)?.by_id.size ?? 0) * READING_MS_PER_RESOURCE,
    read: (zone_id) =>
      readZone(zone_id).then(
        () => true,
        (error: unknown) => {
          log.warn({ err: error, zone_id }, "a zone's bindings could not be read anew");
          return false;
        },
      ),
  });

  const loop = worker({
    name: "gateway-bindings",
    every_ms: RETRY_MS,
    tick: async () => {
      const asked_ms = clock.monotonic_ms();
      if (asked_ms >= next_ms) {
        next_ms = asked_ms + RETRY_MS; // unless it succeeds; a refresh that comes meanwhile sets it back to now
        await loadAll();
        if (next_ms !== 0) next_ms = asked_ms + REFRESH_MS;
      }
      await loadChanged();
    },
    onError: (error) => log.warn({ err: error, bindings: size }, "bindings could not be read: the last ones stay"),
  });

  return {
    knows: (zone_id) => zones.has(zone_id),
    tooLarge: (zone_id) => zones.get(zone_id)?.too_large === true,
    byIdentifier: (zone_id, identifier) => zones.get(zone_id)?.by_identifier.get(identifier),
    byId: (zone_id, resource_id) => zones.get(zone_id)?.by_id.get(resource_id),
    get loaded() {
      return loaded;
    },
    get size() {
      return size;
    },
    latest: async (zone_id) => (zones.has(zone_id) || lookups.take()) && anew.read(zone_id),
    refresh(zone_id) {
      if (zone_id !== undefined && changed.size < MAX_CHANGED) changed.add(zone_id);
      else next_ms = 0;
      loop.wake();
    },
    worker: loop,
  };
};
