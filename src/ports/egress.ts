import type { Readable } from "node:stream";
import type { NoShare, Share } from "../kernel/shares.ts";

/**
 * Why a target may not be called. The last three are no judgement: there is no address to judge, or as many names are
 * being looked up as the zone may have (`zone_lookups_full`), or as the process may (`lookups_full`).
 */
export type EgressRefusal =
  | "url_refused"
  | "scheme_refused"
  | "host_not_listed"
  | "address_refused"
  | "metadata_address"
  | "name_not_resolved"
  | "zone_lookups_full"
  | "lookups_full";

declare const checked: unique symbol;

/** A target that was allowed: the only addresses that may be dialled for it are those that were checked. */
export type EgressTarget = {
  /** Only the guard makes these. */
  readonly [checked]: true;
  readonly origin: string;
  readonly protocol: "http:" | "https:";
  /** As in the URL, lower case, IPv6 without brackets: the TLS name and the Host. */
  readonly hostname: string;
  readonly port: number;
  /** Literal IPv4 and IPv6 addresses, at least one, in the order in which they are tried. */
  readonly addresses: readonly string[];
};

/** `detail`: for the log and the ledger; it may name an address and never goes outside. */
export type EgressRefused = { readonly refused: EgressRefusal; readonly detail: string };

/**
 * The SSRF guard: name, then address. `check` resolves the name itself and judges every address that it has; one bad
 * address refuses the target (a name with a public and a private address is an attack, not a choice). At once where the
 * host is an address or was resolved a moment ago, else a promise, which never rejects. `zone_id`: whose look-up it is;
 * names are looked up and remembered for each zone by itself.
 */
export type Egress = {
  check(url: URL, zone_id: string): EgressTarget | EgressRefused | Promise<EgressTarget | EgressRefused>;
};

/** A call of an upstream as it goes out. `path`: origin-form, with its query. `headers`: name, value, name, value, …. */
export type UpstreamCall = {
  readonly method: string;
  readonly path: string;
  readonly headers: readonly string[];
  /** A stream that ends early (destroyed) ends the call without the upstream ever seeing a whole body. */
  readonly body: Buffer | Readable | null;
};

/** `timeout`: no connection in time. */
export type UpstreamFailure = "timeout" | "failed" | "aborted";

/** What comes back. No call follows `onEnd` or `onError`, and one of the two always comes. */
export type UpstreamEvents = {
  /** 102, 103: the final answer follows. */
  onInformation(status: number, headers: readonly string[]): void;
  /** `resume` goes on after `onData` said false. */
  onHeaders(status: number, headers: readonly string[], resume: () => void): void;
  /** False: no more until `resume`, but for what had come in already when the upstream ended its answer. */
  onData(chunk: Buffer): boolean;
  /** The whole answer was received; with its trailers. */
  onEnd(trailers: readonly string[]): void;
  /** `detail`: for the log. */
  onError(failure: UpstreamFailure, detail: string): void;
};

/** A call that was handed over. */
export type RunningUpstreamCall = {
  /** Ends it; `onError("aborted")` follows where it had not ended. */
  abort(): void;
};

/**
 * A place among the calls of one upstream, for one call. It is given back when the call has ended, or by `release` where
 * none was made by it; once a call is made, `release` does nothing.
 */
export type UpstreamPlace = Share & {
  /** Sends the call. Throws where the place was given back or used before. */
  call(call: UpstreamCall, events: UpstreamEvents): RunningUpstreamCall;
};

/**
 * Calls checked targets, and dials the address that was checked, nothing else. TLS is verified against the target's name.
 * A call is sent at most once. No limits of time but for connecting: those are the caller's, by `abort`.
 */
export type Upstreams = {
  /**
   * A place for a call of the client in the zone, or whose bound stands against it: each zone, and each client in it, has a
   * share of what may run at one upstream. Nothing is sent by it.
   */
  place(target: EgressTarget, zone_id: string, client_id: string): UpstreamPlace | NoShare;
  /** Ends idle connections at once and running calls. */
  close(): Promise<void>;
};
