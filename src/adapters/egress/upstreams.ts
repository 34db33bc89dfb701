import { isIP } from "node:net";
import { LRUCache } from "lru-cache";
import { buildConnector, type Dispatcher, Pool } from "undici";
import type { EgressTarget, UpstreamCall, UpstreamEvents, UpstreamFailure, Upstreams } from "../../ports/egress.ts";

export type UpstreamsOptions = {
  /** To have a connection, TLS included. */
  readonly connect_timeout_ms: number;
  /** Connections to one upstream. A stream that stays open keeps its own, so this bounds them, too. */
  readonly max_connections?: number;
  /** Trusted in place of the system's, in PEM. */
  readonly ca?: string;
};

const MAX_CONNECTIONS = 1_024;
/** Upstreams whose connections are kept. */
const MAX_POOLS = 512;
/** Calls that may wait for a connection to one upstream, beside those that have one. */
const MAX_WAITING = 1_024;
/** Below the 5 s after which Node's servers close an idle connection, so that a call rarely meets a closing one. */
const KEEP_ALIVE_MS = 4_000;

type Entry = { readonly pool: Pool; calls: number };

const TIMEOUTS: ReadonlySet<string> = new Set(["UND_ERR_CONNECT_TIMEOUT", "ETIMEDOUT"]);

const failureOf = (error: Error): UpstreamFailure =>
  "code" in error && TIMEOUTS.has(String(error.code)) ? "timeout" : "failed";

const texts = (raw: readonly Buffer[]): string[] => {
  const out = new Array<string>(raw.length);
  for (let i = 0; i < raw.length; i += 1) out[i] = (raw[i] as Buffer).toString("latin1");
  return out;
};

class Aborted extends Error {}

/**
 * One undici pool for each origin *and* address: the connector can dial only the address that was checked, under the
 * target's own name for Host and TLS. No pipelining (an answer that streams would hold up those behind it), no retries
 * of what was sent, no timeouts of undici's (its timer is a second coarse; the caller has better).
 */
export const createUpstreams = (options: UpstreamsOptions): Upstreams => {
  const max_connections = options.max_connections ?? MAX_CONNECTIONS;
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
  const pools = new LRUCache<string, Entry>({ max: MAX_POOLS, dispose: ({ pool }) => retire(pool) });

  const open = (target: EgressTarget): Entry => {
    const connect = buildConnector({
      timeout: options.connect_timeout_ms,
      rejectUnauthorized: true,
      minVersion: "TLSv1.2",
      ...(options.ca === undefined ? {} : { ca: options.ca }),
    });
    const servername = isIP(target.hostname) === 0 ? target.hostname : undefined;
    const pool = new Pool(target.origin, {
      connections: max_connections,
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connect: (dial, done) =>
        connect({ ...dial, hostname: target.address, ...(servername === undefined ? {} : { servername }) }, done),
    });
    return { pool, calls: 0 };
  };

  const entryOf = (target: EgressTarget): Entry => {
    const key = `${target.origin}|${target.address}`;
    const known = pools.get(key);
    if (known !== undefined) return known;
    const made = open(target);
    pools.set(key, made);
    return made;
  };

  return {
    call(target, call, events) {
      const entry = entryOf(target);
      if (closed || entry.calls >= max_connections + MAX_WAITING) {
        events.onError(
          "busy",
          closed ? "the process is stopping" : `${entry.calls} calls of ${target.origin} are under way`,
        );
        return () => undefined;
      }
      entry.calls += 1;
      return send(entry, call, events);
    },
    async close() {
      closed = true;
      const all = [...[...pools.values()].map(({ pool }) => pool), ...retired];
      await Promise.all(all.map((pool) => pool.destroy().catch(() => undefined)));
      pools.clear();
    },
  };
};

/** undici's handler in its raw form: header names and values as bytes, no object of headers built and thrown away. */
const send = (entry: Entry, call: UpstreamCall, events: UpstreamEvents): (() => void) => {
  let cancel: ((error: Error) => void) | undefined;
  let aborted = false;
  let told = false;
  let left = false;

  /** The call has left the pool; one that its caller gave up while it waited for a connection counts until then. */
  const leave = (): void => {
    if (left) return;
    left = true;
    entry.calls -= 1;
  };
  const fail = (error: Error): void => {
    if (told) return;
    told = true;
    if (aborted) events.onError("aborted", "ended by the caller");
    else events.onError(failureOf(error), error.message);
  };

  const handler: Dispatcher.DispatchHandler = {
    onConnect(abort) {
      if (aborted) abort(new Aborted());
      else cancel = abort;
    },
    onHeaders(status, raw, resume) {
      if (status < 200) events.onInformation(status, texts(raw));
      else events.onHeaders(status, texts(raw), resume);
      return true;
    },
    onData: (chunk) => events.onData(chunk),
    onComplete(trailers) {
      leave();
      if (told) return;
      told = true;
      events.onEnd(trailers === null ? [] : texts(trailers as unknown as readonly Buffer[]));
    },
    onError(error) {
      leave();
      fail(error);
    },
  };
  const { method, path, headers, body } = call;
  try {
    entry.pool.dispatch({ method, path, headers: headers as string[], body }, handler);
  } catch (error) {
    leave();
    fail(error instanceof Error ? error : new Error(String(error)));
  }
  return () => {
    if (told || aborted) return;
    aborted = true;
    if (cancel !== undefined) {
      cancel(new Aborted());
      return;
    }
    // It waits for a connection still: undici drops it when its turn comes, its caller need not wait for that.
    fail(new Aborted());
  };
};
