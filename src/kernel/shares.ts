/** A bound, and the fractions of it that one zone and one client may hold: over 0, and at most 1. */
export type ShareOptions = {
  /** How many places there are for everybody. */
  readonly limit: number;
  /** What one zone may hold of `limit`; 1 where a zone is alone in the installation. */
  readonly zone_share: number;
  /** What one client of a zone may hold of `limit`, within what its zone may. */
  readonly client_share: number;
};

/** Whose bound was reached: everybody's, the zone's, or the client's within it. */
export type ShareBound = "process" | "zone" | "client";

/** A place that is held. `release` gives it back; a second one does nothing. */
export type Share = { readonly ok: true; release(): void };
/** Which bound stands against it. */
export type NoShare = { readonly ok: false; readonly bound: ShareBound };

export type Shares = {
  /** Takes a place for a call of the client in the zone, or says which bound is reached. O(1). */
  take(zone_id: string, client_id: string): Share | NoShare;
  /** Places that are held. */
  readonly held: number;
  /** Zones that hold a place. A zone is forgotten with its last place. */
  readonly zones: number;
};

type Zone = { held: number; readonly clients: Map<string, number> };

/** One object for each place, not a closure: a busy process makes thousands a second. */
class Held implements Share {
  readonly ok = true;
  private give_back: ((zone_id: string, client_id: string) => void) | undefined;
  private readonly zone_id: string;
  private readonly client_id: string;

  constructor(zone_id: string, client_id: string, give_back: (zone_id: string, client_id: string) => void) {
    this.zone_id = zone_id;
    this.client_id = client_id;
    this.give_back = give_back;
  }

  release(): void {
    const { give_back } = this;
    this.give_back = undefined; // a place that is given back twice would let one more in for ever
    give_back?.(this.zone_id, this.client_id);
  }
}

const FULL: Readonly<Record<ShareBound, NoShare>> = {
  process: { ok: false, bound: "process" },
  zone: { ok: false, bound: "zone" },
  client: { ok: false, bound: "client" },
};

/**
 * Counts who holds how much of something that all share, so that no zone can take all of it from the others, and no client
 * all of its zone's. Every zone and client may hold one, however small the bound is. The narrowest bound is
 * named first: a client that is over its own share hears so even where the process is full.
 */
export const createShares = (options: ShareOptions): Shares => {
  const { limit } = options;
  const zone_limit = Math.max(1, Math.floor(limit * options.zone_share));
  const client_limit = Math.max(1, Math.floor(limit * options.client_share));
  const zones = new Map<string, Zone>();
  let held = 0;

  const giveBack = (zone_id: string, client_id: string): void => {
    const zone = zones.get(zone_id) as Zone; // it is there as long as it holds a place
    const left = (zone.clients.get(client_id) as number) - 1;
    if (left === 0) zone.clients.delete(client_id);
    else zone.clients.set(client_id, left);
    zone.held -= 1;
    held -= 1;
    if (zone.held === 0) zones.delete(zone_id);
  };

  return {
    take(zone_id, client_id) {
      const known = zones.get(zone_id);
      const of_client = known?.clients.get(client_id) ?? 0;
      if (of_client >= client_limit) return FULL.client;
      if (known !== undefined && known.held >= zone_limit) return FULL.zone;
      if (held >= limit) return FULL.process;
      const zone = known ?? { held: 0, clients: new Map<string, number>() };
      if (known === undefined) zones.set(zone_id, zone);
      zone.clients.set(client_id, of_client + 1);
      zone.held += 1;
      held += 1;
      return new Held(zone_id, client_id, giveBack);
    },
    get held() {
      return held;
    },
    get zones() {
      return zones.size;
    },
  };
};
