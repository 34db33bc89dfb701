import type { Socket } from "node:net";
import { LRUCache } from "lru-cache";
import { Client, type Dispatcher, Pool } from "undici";
import { createShares, type NoShare, type Share, type ShareOptions, type Shares } from "../../kernel/shares.ts";
import type {
  EgressTarget,
  RunningUpstreamCall,
  UpstreamCall,
  UpstreamEvents,
  UpstreamFailure,
  UpstreamPlace,
  Upstreams,
} from "../../ports/egress.ts";
import { createDial } from "./dial.ts";

export type UpstreamsOptions = {
  /** To have a connection, TLS included. */
  readonly connect_timeout_ms: number;
  /** Calls, and so connections, of one upstream. A stream that stays open keeps its own, so this bounds them, too. */
  readonly shares?: ShareOptions;
  /** Trusted in place of the system's, in PEM. */
  readonly ca?: string;
  readonly keep_alive_ms?: number;
};

const SHARES: ShareOptions = { limit: 1_024, zone_share: 0.75, client_share: 0.5 };
/** Upstreams whose connections are kept. */
const MAX_POOLS = 512;
/**
 * How long a connection waits for its next call. Below the 5 s after which Node's servers close an idle one, so that a call
 * rarely meets a closing one. An upstream's `Keep-Alive: timeout` may make it shorter, never longer: with thousands of
 * idle connections it would hold the process's descriptors, which are everybody's.
 */
const KEEP_ALIVE_MS = 4_000;

/** The process is stopping. */
const STOPPING: NoShare = { ok: false, bound: "process" };

const TIMEOUTS: ReadonlySet<string> = new Set(["UND_ERR_CONNECT_TIMEOUT", "ETIMEDOUT"]);

const failureOf = (error: Error): UpstreamFailure =>
  "code" in error && TIMEOUTS.has(String(error.code)) ? "timeout" : "failed";

const texts = (raw: readonly Buffer[]): string[] => {
  const out = new Array<string>(raw.length);
  for (let i = 0; i < raw.length; i += 1) out[i] = (raw[i] as Buffer).toString("latin1");
  return out;
};

class Aborted extends Error {}

/** One connection of a pool, and what is under way on it. */
class Line extends Client {
  sending: Sending | undefined = undefined;

  override dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    if (handler instanceof Sending) handler.line = this;
    return super.dispatch(options, handler);
  }

  /**
   * Hears of a connection's end before undici does. At an end, undici finishes its parser, and one that is paused (our
   * `onData` said false) fails an assertion there, in an event handler: the whole process would end. So a call goes on,
   * for the little that the parser itself holds, before undici sees the end; what waits in the socket comes before it
   * anyway. And of a reset undici makes the ordinary end of an answer that ends with its connection: under another code
   * it is the failure that it is.
   */
  watch(socket: Socket): void {
    socket.on("end", () => this.sending?.lastBytes());
    socket.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ECONNRESET") error.code = "UPSTREAM_RESET";
    });
  }
}

/**
 * One undici pool for each origin *and* its addresses: the connector can dial only those that were checked, under the
 * target's own name for Host and TLS. No pipelining (an answer that streams would hold up those behind it), no retries
 * of what was sent, no timeouts of undici's (its timer is a second coarse; the caller has better).
 */
export const createUpstreams = (options: UpstreamsOptions): Upstreams => {
  const limits = options.shares ?? SHARES;
  /** What runs at each upstream, over all pools of it: a name that moves is no way to more. */
  const origins = new Map<string, Shares>();
  /** Pushed out by others; they end when their last call does. */
  const retired = new Set<Pool>();
  let closed = false;

  const retire = (pool: Pool): void => {
    retired.add(pool);
    pool.close().then(
      () => retired.delete(pool),
      () => retired.delete(pool),
    );
  };
  const pools = new LRUCache<string, Pool>({ max: MAX_POOLS, dispose: retire });

  const open = (target: EgressTarget): Pool => {
    const { connect_timeout_ms, ca, keep_alive_ms = KEEP_ALIVE_MS } = options;
    const dial = createDial(target, { connect_timeout_ms, ca, wanted: () => !closed });
    return new Pool(target.origin, {
      connections: limits.limit,
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: keep_alive_ms,
      keepAliveMaxTimeout: keep_alive_ms,
      connect: dial,
      factory: (origin, settings) => {
        const line: Line = new Line(origin, {
          ...settings,
          connect: (to, done) =>
            dial(to, (...made) => {
              if (made[0] === null) line.watch(made[1]);
              done(...made);
            }),
        });
        return line;
      },
    });
  };

  const poolOf = (target: EgressTarget): Pool => {
    const key = `${target.origin}|${target.addresses.join()}`;
    const known = pools.get(key);
    if (known !== undefined) return known;
    const made = open(target);
    pools.set(key, made);
    return made;
  };

  const sharesOf = (origin: string): Shares => {
    const known = origins.get(origin);
    if (known !== undefined) return known;
    const made = createShares(limits);
    origins.set(origin, made);
    return made;
  };
  const room: Room = {
    poolOf: (target) => (closed ? undefined : poolOf(target)),
    left({ origin }) {
      if (origins.get(origin)?.held === 0) origins.delete(origin);
    },
  };

  return {
    place(target, zone_id, client_id) {
      if (closed) return STOPPING;
      const share = sharesOf(target.origin).take(zone_id, client_id);
      return share.ok ? new Sending(room, target, share) : share;
    },
    async close() {
      closed = true;
      const all = [...pools.values(), ...retired];
      await Promise.all(all.map((pool) => pool.destroy().catch(() => undefined)));
      pools.clear();
    },
  };
};

/** What a call needs of where it was made. `poolOf`: undefined once all is closed. */
type Room = { poolOf(target: EgressTarget): Pool | undefined; left(target: EgressTarget): void };

/**
 * A place, then the call that goes by it. undici's handler in its raw form: header names and values as bytes, no object of
 * headers built and thrown away. One object for each call, with its methods on the class: a handful of closures for each
 * costs several times as much.
 */
class Sending implements Dispatcher.DispatchHandler, RunningUpstreamCall, UpstreamPlace {
  readonly ok = true;
  private readonly room: Room;
  private readonly target: EgressTarget;
  private readonly share: Share;
  /** From the call on: whoever made it hears of it. */
  private events: UpstreamEvents | undefined = undefined;
  /** The connection that it was given to. */
  line: Line | undefined = undefined;
  private cancel: ((error: Error) => void) | undefined = undefined;
  private goOn: (() => void) | undefined = undefined;
  private ending = false;
  private aborted = false;
  private told = false;
  private left = false;

  constructor(room: Room, target: EgressTarget, share: Share) {
    this.room = room;
    this.target = target;
    this.share = share;
  }

  release(): void {
    if (this.events === undefined) this.leave();
  }

  call({ method, path, headers, body }: UpstreamCall, events: UpstreamEvents): RunningUpstreamCall {
    if (this.left || this.events !== undefined)
      throw new Error("a place at an upstream serves one call, while it is held");
    this.events = events;
    try {
      // Asked for now: a pool that was found earlier may have been pushed out since.
      const pool = this.room.poolOf(this.target);
      if (pool === undefined) throw new Error("the process is stopping");
      pool.dispatch({ method, path, headers: headers as string[], body }, this);
    } catch (error) {
      this.leave();
      this.fail(error instanceof Error ? error : new Error(String(error)));
    }
    return this;
  }

  abort(): void {
    if (this.told || this.aborted) return;
    this.aborted = true;
    // Where it waits for a connection still, undici drops it when its turn comes; its caller need not wait for that.
    if (this.cancel === undefined) this.fail(new Aborted());
    // Undici is about to end the answer, in this very event, and must not find a call there that is over already.
    else if (this.ending) process.nextTick(this.cancel, new Aborted());
    else this.cancel(new Aborted());
  }

  onConnect(abort: (error?: Error) => void): void {
    if (this.line !== undefined) this.line.sending = this;
    if (this.aborted) abort(new Aborted());
    else this.cancel = abort;
  }

  onHeaders(status: number, raw: Buffer[], resume: () => void): boolean {
    if (status < 200) this.events?.onInformation(status, texts(raw));
    else {
      this.goOn = resume;
      this.events?.onHeaders(status, texts(raw), resume);
    }
    return true;
  }

  onData(chunk: Buffer): boolean {
    return this.events?.onData(chunk) === true || this.ending;
  }

  /** The upstream has said all that it will say: nothing is gained by a pause any more. */
  lastBytes(): void {
    this.ending = true;
    this.goOn?.();
  }

  onComplete(trailers: string[] | null): void {
    this.leave();
    if (this.aborted) this.fail(new Aborted());
    if (this.told) return;
    this.told = true;
    this.events?.onEnd(trailers === null ? [] : texts(trailers as unknown as readonly Buffer[]));
  }

  onError(error: Error): void {
    this.leave();
    this.fail(error);
  }

  /** The call has left the pool; one that its caller gave up while it waited for a connection counts until then. */
  private leave(): void {
    if (this.left) return;
    this.left = true;
    this.share.release();
    this.room.left(this.target);
    if (this.line?.sending === this) this.line.sending = undefined; // an idle connection holds nothing of its last call
  }

  private fail(error: Error): void {
    if (this.told) return;
    this.told = true;
    if (this.aborted) this.events?.onError("aborted", "ended by the caller");
    else this.events?.onError(failureOf(error), error.message);
  }
}
