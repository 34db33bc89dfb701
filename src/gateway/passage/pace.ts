import { LRUCache } from "lru-cache";

/** A chunk below this weighs less than the work that it makes. */
export const SMALL_BYTES = 64;
/** So many small chunks a window: some 50 000 a second, an eighth of one processor at 2 to 3 µs each. */
const SMALL_CHUNKS = 512;
const WINDOW_MS = 10;
/** Clients that sent small chunks, remembered: whoever comes again with a new call still owes what the last one spent. */
const MAX_CLIENTS = 4_096;

/** What one client's calls may spend on small chunks, all of them together and in both directions. */
export type Pace = {
  /** A small chunk came: milliseconds for which nothing more is to be read, nearly always 0. The clock is asked once a window. */
  small(): number;
  /** Milliseconds until the client owes nothing; 0 where it does not. */
  rest_ms(): number;
  /**
   * Bodies that are being read: where one comes to owe, all are paused at once. What the others' sockets hold ready is then
   * not read in the same turn of the loop, so that a turn costs one read and not one for each call.
   */
  readonly reading: Set<Paced>;
};

/** A body that can be paused; it asks `rest_ms` before it goes on. */
export type Paced = { holdFor(rest_ms: number): void };

export type Paces = { of(zone_id: string, client_id: string): Pace };

/**
 * How fast small chunks may come. Each costs a parser's call-back, whatever it weighs: without a limit a call that sends
 * single bytes has the main thread for itself, and one for each call is none for whoever makes many. Clients that are over
 * it at the same time share one rate, so that all of them together cost no more than one. Whoever is over it is paused,
 * never refused; whoever is not does not feel the others. `now_ms`: monotonic; a timer's own time by default.
 */
export const createPaces = (now_ms: () => number = () => performance.now()): Paces => {
  const clients = new LRUCache<string, ClientPace>({ max: MAX_CLIENTS });
  const owing = new Set<ClientPace>();
  /** How many clients owe something, `one` among them. */
  const sharers = (one: ClientPace, at_ms: number): number => {
    for (const other of owing) if (other.since_ms <= at_ms) owing.delete(other);
    owing.add(one);
    return owing.size;
  };

  class ClientPace implements Pace {
    readonly reading = new Set<Paced>();
    private left = SMALL_CHUNKS;
    /** When the current window began; in the future where the client owes windows. */
    since_ms = -Infinity;

    small(): number {
      this.left -= 1;
      if (this.left > 0) return 0;
      this.left = SMALL_CHUNKS;
      const at_ms = now_ms();
      const rest_ms = Math.max(0, this.since_ms + WINDOW_MS * sharers(this, at_ms) - at_ms);
      this.since_ms = at_ms + rest_ms;
      if (rest_ms > 0) for (const one of this.reading) one.holdFor(rest_ms);
      return rest_ms;
    }

    rest_ms(): number {
      return Math.max(0, this.since_ms - now_ms());
    }
  }

  return {
    of(zone_id, client_id) {
      const key = `${zone_id}:${client_id}`;
      const known = clients.get(key);
      if (known !== undefined) return known;
      const made = new ClientPace();
      clients.set(key, made);
      return made;
    },
  };
};
