/** Calls that may run at one upstream at a time: of all, of one zone, of one client of it. */
export type CallBounds = { readonly calls: number; readonly zone_calls: number; readonly client_calls: number };

/** Whose call it is. */
export type Owner = { readonly zone_id: string; readonly client_id: string };

/** Which bound there is no room under. */
export type Full = "busy" | "zone_busy" | "client_busy";

type Zone = { running: number; readonly clients: Map<string, number> };

/**
 * What runs at one upstream. Each call has a connection of its own, and none waits for another's to end: whoever is over
 * its share is refused at once, and leaves the rest to the others.
 */
export class OriginCalls {
  private readonly bounds: CallBounds;
  private readonly zones = new Map<string, Zone>();
  private running = 0;

  constructor(bounds: CallBounds) {
    this.bounds = bounds;
  }

  get idle(): boolean {
    return this.running === 0;
  }

  /** Counts a call, until `leave`; or says why it may not run. */
  enter({ zone_id, client_id }: Owner): Full | undefined {
    const { bounds } = this;
    const zone = this.zones.get(zone_id) ?? { running: 0, clients: new Map<string, number>() };
    const of_client = zone.clients.get(client_id) ?? 0;
    if (of_client >= bounds.client_calls) return "client_busy";
    if (zone.running >= bounds.zone_calls) return "zone_busy";
    if (this.running >= bounds.calls) return "busy";
    this.running += 1;
    zone.running += 1;
    zone.clients.set(client_id, of_client + 1);
    if (zone.running === 1) this.zones.set(zone_id, zone);
    return undefined;
  }

  leave({ zone_id, client_id }: Owner): void {
    const zone = this.zones.get(zone_id);
    const of_client = zone?.clients.get(client_id);
    if (zone === undefined || of_client === undefined) return;
    this.running -= 1;
    zone.running -= 1;
    if (of_client > 1) zone.clients.set(client_id, of_client - 1);
    else zone.clients.delete(client_id);
    if (zone.running === 0) this.zones.delete(zone_id);
  }
}
