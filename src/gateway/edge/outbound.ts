import type { IncomingMessage } from "node:http";
import type { TLSSocket } from "node:tls";
import type { Credential, Inbound, Passage, Route } from "../facts.ts";
import { asCgiReads } from "./header-name.ts";
import { rewriteLocation } from "./path.ts";

const MAPPED = "::ffff:";

const addressOf = (request: IncomingMessage): string => {
  const address = request.socket.remoteAddress ?? "unknown";
  return address.startsWith(MAPPED) ? address.slice(MAPPED.length) : address;
};

/** The one `Authorization` that each kind of credential goes as. */
const AUTHORIZATION: { readonly [K in Credential["kind"]]: (credential: Extract<Credential, { kind: K }>) => string } =
  {
    mandate: ({ token }) => `Bearer ${token}`,
  };

/**
 * What the upstream is sent: the client's headers without those that end here or speak in our name, then ours. Exactly
 * one `Authorization`; `Host` is the upstream's own and is written by the dialler. Ours are put behind the client's in
 * the very list that was read for this call: it goes out once.
 */
export const requestHeaders = (
  request: IncomingMessage,
  inbound: Inbound,
  { credential, route }: Pick<Passage, "credential"> & { readonly route: Route },
  length: number | undefined,
): string[] => {
  const { headers, host } = inbound;
  // By header form every resource has the one origin: a client would send one upstream's cookies to another.
  if (route.by_path !== undefined) for (const cookie of inbound.cookies) headers.push("cookie", cookie);
  headers.push(
    "authorization",
    AUTHORIZATION[credential.kind](credential),
    "x-request-id",
    inbound.request_id,
    "traceparent",
    inbound.traceparent,
    "x-forwarded-for",
    addressOf(request),
    "x-forwarded-proto",
    (request.socket as Partial<TLSSocket>).encrypted === true ? "https" : "http",
  );
  if (host !== "") headers.push("x-forwarded-host", host);
  if (length !== undefined) headers.push("content-length", String(length));
  return headers;
};

/** What of an answer ends here (RFC 9110, 7.6.1), or would speak in our name, or lead clients past us (`Alt-Svc`). */
const ENDS_HERE: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "proxy-authenticate",
  "proxy-authentication-info",
  // The credential is the Gateway's: a caller would take the challenge (MCP: with a 403 too) for one of its own token's.
  "www-authenticate",
  "authentication-info",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "alt-svc",
  "x-request-id",
  // A front proxy takes these for orders: to serve a file of its own, or what another address says.
  "x-sendfile",
  "x-sendfile2",
  "x-sendfile-temporary",
  "x-lighttpd-send-file",
  "x-lighttpd-send-tempfile",
  "x-litespeed-location",
  "set-cookie2",
  // A browser holds these for the whole origin: one upstream would speak for all that are reached by this Gateway.
  "strict-transport-security",
  "clear-site-data",
  "service-worker-allowed",
  "public-key-pins",
  "public-key-pins-report-only",
  "expect-ct",
  "nel",
  "report-to",
  "reporting-endpoints",
  "accept-ch",
  "critical-ch",
  "origin-agent-cluster",
  "set-login",
]);
const ENDS_HERE_FROM: readonly string[] = ["x-caracal-", "x-accel-", "x-reproxy-"];

const endsHere = (lower: string): boolean =>
  ENDS_HERE.has(lower) || (lower.startsWith("x-") && ENDS_HERE_FROM.some((start) => lower.startsWith(start)));

/** RFC 6265bis, 4.1.3: a name, in any case, or the value of a cookie without one, which some readers take for it. */
const HOST_COOKIE = /^[ \t]*=?[ \t]*__host-/i;

/**
 * An upstream's cookie belongs to its resource: it comes back to the path form's prefix alone, whatever `Path` and `Domain`
 * say. Attributes as in RFC 6265, 5.2: what is set last counts, so theirs go and ours is the only one. Undefined for one
 * that is named `__Host-…`: it is only valid with `Path=/`, and a name without the prefix could be another cookie's.
 */
export const ownCookie = (value: string, prefix: string): string | undefined => {
  if (HOST_COOKIE.test(value)) return undefined;
  const [pair, ...attributes] = value.split(";");
  const kept = attributes.filter((text) => !/^[ \t]*(?:path|domain)[ \t]*(?:=|$)/i.test(text));
  return [pair, ...kept, ` Path=${prefix}`].join(";");
};

export type Answer = {
  readonly headers: string[];
  /** Without it the answer is chunked, as far as the client's version allows. */
  readonly has_length: boolean;
  /** An answer that is coded in a way that ends at this hop: it can't be passed on as it is. */
  readonly coded: boolean;
  /** Server-sent events: an answer that does not end by itself. */
  readonly endless: boolean;
};

/**
 * The upstream's headers as the client gets them, names and order as they were. `asked`: the path that it was asked for.
 * `prefix`: of the path form.
 */
export const answerHeaders = (
  raw: readonly string[],
  code: number,
  upstream: URL,
  asked: string,
  prefix: string,
): Answer => {
  const headers: string[] = [];
  let has_length = false;
  let coded = false;
  let endless = false;
  let named: string[] | undefined;
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] as string;
    let value = raw[i + 1] as string;
    const lower = name.toLowerCase();
    if (endsHere(lower)) {
      if (lower === "connection") named = namedIn(value, named);
      else if (lower === "transfer-encoding" && value.toLowerCase() !== "chunked") coded = true;
      continue;
    }
    if (lower === "content-length") {
      if (code === 204) continue; // RFC 9110, 8.6: it has none
      has_length = true;
    } else if (lower === "set-cookie") {
      if (prefix === "") continue; // by header form it would go to every other resource as well
      const own = ownCookie(value, prefix);
      if (own === undefined) continue;
      value = own;
    } else if (lower === "content-type") endless = value.toLowerCase().startsWith("text/event-stream");
    else if (lower === "location") value = rewriteLocation(value, upstream, asked, prefix);
    headers.push(name, value);
  }
  return { headers: named === undefined ? headers : without(headers, named), has_length, coded, endless };
};

/** The headers that `Connection` names beside those that end here anyway; undefined where there are none. */
const namedIn = (value: string, before: string[] | undefined): string[] | undefined => {
  if (value === "keep-alive" || value === "close") return before; // what nearly every answer says
  const named = value
    .toLowerCase()
    .split(",")
    .map((token) => token.trim())
    .filter((token) => token !== "keep-alive" && token !== "close" && token !== "");
  if (named.length === 0) return before;
  return before === undefined ? named : before.concat(named);
};

const without = (headers: readonly string[], named: readonly string[]): string[] => {
  const kept: string[] = [];
  for (let i = 0; i + 1 < headers.length; i += 2) {
    const name = headers[i] as string;
    // A length that is named in Connection is still the length: without it the answer would be framed otherwise.
    if (name.toLowerCase() === "content-length" || !named.includes(name.toLowerCase()))
      kept.push(name, headers[i + 1] as string);
  }
  return kept;
};

/** RFC 9110, 6.5.1: framing, routing and authentication have no place in a trailer. */
const NO_TRAILER =
  /^(?:content-(?:length|encoding|type|range)|host|authorization|set-cookie|cache-control|location|(?:x-)?forwarded(?:-.*)?)$/;

const passable = (name: string): boolean => {
  const read = asCgiReads(name.toLowerCase());
  return !NO_TRAILER.test(read) && !endsHere(read);
};

/** Pairs of the upstream's trailers that may go on. */
export const passableTrailers = (raw: readonly string[]): [string, string][] => {
  const kept: [string, string][] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    if (passable(raw[i] as string)) kept.push([raw[i] as string, raw[i + 1] as string]);
  }
  return kept;
};
