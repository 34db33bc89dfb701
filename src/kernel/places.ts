import type { Cancellation } from "./cancel.ts";
import { requestAborted } from "./problem.ts";

export type PlacesOptions = {
  /** What a zone may hold at once, and one client of it: over 0 both. */
  readonly zone_max: number;
  readonly client_max: number;
  /** How many of a client wait for a place. */
  readonly waiting_max: number;
  /** What one is told who finds so many waiting. */
  readonly full: (waiting_max: number) => Error;
};

/** Places that a zone's requests are worked on in, so that it takes a bounded part of what all zones share. */
export type Places = {
  /**
   * Resolves, when there is a place, to what gives it back. Of a zone's clients that wait, each gets one in turn. Rejects
   * with `full`, and with `request_aborted` where the request ends meanwhile.
   */
  enter(zone_id: string, client_id: string, signal: Cancellation): Promise<() => void>;
  /** Zones that hold a place. A zone is forgotten with its last place. */
  readonly zones: number;
};

type Client = { held: number; readonly waiting: (() => void)[] };
/** `clients`: those that hold a place or wait, in the order in which they had a turn. */
type Zone = { held: number; readonly clients: Map<string, Client> };

/** All free. Nobody waits while a place is free for them, so a zone with somebody waiting holds one. */
export const createPlaces = (options: PlacesOptions): Places => {
  const zones = new Map<string, Zone>();

  const zoneOf = (zone_id: string): Zone => {
    const zone = zones.get(zone_id) ?? { held: 0, clients: new Map<string, Client>() };
    zones.set(zone_id, zone);
    return zone;
  };
  const clientOf = (zone: Zone, client_id: string): Client => {
    const client = zone.clients.get(client_id) ?? { held: 0, waiting: [] };
    zone.clients.set(client_id, client);
    return client;
  };
  const isFree = (zone: Zone, client: Client): boolean =>
    zone.held < options.zone_max && client.held < options.client_max;

  const take = (zone_id: string, zone: Zone, client_id: string, client: Client): (() => void) => {
    zone.held += 1;
    client.held += 1;
    let given_back = false;
    return () => {
      if (given_back) return; // a place that is given back twice would let one more in for ever
      given_back = true;
      zone.held -= 1;
      client.held -= 1;
      if (client.held === 0 && client.waiting.length === 0) zone.clients.delete(client_id);
      next(zone);
      if (zone.clients.size === 0) zones.delete(zone_id);
    };
  };

  const next = (zone: Zone): void => {
    for (const [client_id, client] of zone.clients) {
      if (client.waiting.length === 0 || !isFree(zone, client)) continue;
      zone.clients.delete(client_id); // to the end
      zone.clients.set(client_id, client);
      client.waiting.shift()?.();
      return;
    }
  };

  return {
    enter: (zone_id, client_id, signal) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) throw requestAborted();
        const zone = zoneOf(zone_id);
        const client = clientOf(zone, client_id);
        if (isFree(zone, client)) {
          resolve(take(zone_id, zone, client_id, client));
          return;
        }
        if (client.waiting.length >= options.waiting_max) throw options.full(options.waiting_max);
        const onAbort = (): void => {
          client.waiting.splice(client.waiting.indexOf(begin), 1);
          if (client.held === 0 && client.waiting.length === 0) zone.clients.delete(client_id);
          reject(requestAborted());
        };
        const begin = (): void => {
          signal.removeEventListener("abort", onAbort);
          resolve(take(zone_id, zone, client_id, client));
        };
        signal.addEventListener("abort", onAbort, { once: true });
        client.waiting.push(begin);
      }),
    get zones() {
      return zones.size;
    },
  };
};
