import type { IncomingMessage } from "node:http";
import { requestIdOf } from "../http/request-id.ts";
import { isTraceparent, newTraceparent } from "./trace.ts";

/** A request as it stands on the wire, read once. Nothing in it is to be believed yet. */
export type Inbound = {
  readonly method: string;
  /** The request target as it was sent: no URL parser has tidied it up. */
  readonly target: string;
  readonly authorizations: readonly string[];
  readonly resources: readonly string[];
  readonly scopes: readonly string[];
  /** Values of `X-Caracal-Client-ID`: a caller says who it is by its token alone. */
  readonly client_ids: readonly string[];
  /** Headers that this Gateway would have to act on and can't: refused by name, never ignored. */
  readonly unsupported: readonly string[];
  /** Why the message's framing is not clear enough to pass on; undefined where it is. */
  readonly framing_fault: string | undefined;
  readonly content_length: number | undefined;
  readonly chunked: boolean;
  readonly expects_continue: boolean;
  /** `TE: trailers` (RFC 9110, 10.1.4): the client reads trailers. */
  readonly takes_trailers: boolean;
  readonly wants_websocket: boolean;
  readonly host: string;
  readonly request_id: string;
  readonly traceparent: string;
  /** What goes on to the upstream: name, value, name, value, …; hop-by-hop headers and ours are not in it. */
  readonly headers: string[];
};

type Draft = {
  authorizations: string[];
  resources: string[];
  scopes: string[];
  client_ids: string[];
  unsupported: string[];
  connection: string[];
  lengths: string[];
  encodings: string[];
  expects_continue: boolean;
  takes_trailers: boolean;
  wants_websocket: boolean;
  host: string;
  request_ids: string[];
  traceparents: string[];
  tracestates: string[];
};
type Reader = (draft: Draft, value: string, name: string) => void;

const drop: Reader = () => undefined;
const notSupported: Reader = (draft, _value, name) => draft.unsupported.push(name);

const tokensOf = (value: string): string[] =>
  value
    .toLowerCase()
    .split(",")
    .map((token) => token.trim());

/** `trailers`, on its own or in a list, whatever weight it was given. */
const namesTrailers = (value: string): boolean =>
  tokensOf(value).some((token) => token.split(";", 1)[0]?.trim() === "trailers");

/**
 * Every header that does not simply go on, by its lower-case name: those that we read, those that end at this hop
 * (RFC 9110, 7.6.1), and those by which a client could speak in our name.
 */
const READERS: ReadonlyMap<string, Reader> = new Map<string, Reader>([
  ["authorization", (draft, value) => draft.authorizations.push(value)],
  ["x-caracal-resource", (draft, value) => draft.resources.push(value)],
  ["x-caracal-scope", (draft, value) => draft.scopes.push(value)],
  ["x-caracal-client-id", (draft, value) => draft.client_ids.push(value)],
  ["x-caracal-agent-session", notSupported],
  ["x-caracal-delegation-edge", notSupported],
  ["x-caracal-challenge-id", notSupported],
  ["x-caracal-challenge-response", notSupported],
  ["connection", (draft, value) => draft.connection.push(...tokensOf(value))],
  ["content-length", (draft, value) => draft.lengths.push(value)],
  ["transfer-encoding", (draft, value) => draft.encodings.push(value)],
  ["expect", (draft, value) => void (draft.expects_continue ||= value.toLowerCase() === "100-continue")],
  ["te", (draft, value) => void (draft.takes_trailers ||= namesTrailers(value))],
  ["upgrade", (draft, value) => void (draft.wants_websocket ||= tokensOf(value).includes("websocket"))],
  ["host", (draft, value) => void (draft.host = value)],
  ["x-request-id", (draft, value) => draft.request_ids.push(value)],
  ["traceparent", (draft, value) => draft.traceparents.push(value)],
  ["tracestate", (draft, value) => draft.tracestates.push(value)],
  ["keep-alive", drop],
  ["proxy-connection", drop],
  ["proxy-authenticate", drop],
  ["proxy-authorization", drop],
  ["trailer", drop],
  ["http2-settings", drop],
  ["forwarded", drop],
  ["x-real-ip", drop],
  // By these an upstream would do another thing than the one that policy was asked about.
  ["x-http-method", drop],
  ["x-http-method-override", drop],
  ["x-method-override", drop],
  ["x-original-url", drop],
  ["x-rewrite-url", drop],
]);

const isOurs = (lower: string): boolean => lower.startsWith("x-caracal-") || lower.startsWith("x-forwarded-");

/** CGI-like upstreams read `X_Caracal_Identity` as `X-Caracal-Identity`: a header is dropped in that spelling, too. */
const passesFor = (lower: string): boolean => {
  if (!lower.includes("_")) return false;
  const dashed = lower.replaceAll("_", "-");
  return READERS.has(dashed) || isOurs(dashed);
};

const withoutNamed = (headers: readonly string[], named: readonly string[]): string[] => {
  const kept: string[] = [];
  for (let i = 0; i + 1 < headers.length; i += 2) {
    const name = headers[i] as string;
    if (!named.includes(name.toLowerCase())) kept.push(name, headers[i + 1] as string);
  }
  return kept;
};

/**
 * Two readers of one message must not see two messages (request smuggling, CWE-444). Node's parser refuses both
 * lengths together already; here it does not depend on its leniency.
 */
const framingFault = ({ lengths, encodings }: Draft, http_version: string): string | undefined => {
  if (lengths.length > 1) return "Content-Length is given more than once";
  if (encodings.length > 0 && lengths.length > 0) return "Content-Length and Transfer-Encoding are given together";
  if (encodings.length > 1 || (encodings[0] !== undefined && encodings[0].toLowerCase() !== "chunked")) {
    return "Transfer-Encoding is something else than chunked";
  }
  if (encodings.length > 0 && http_version !== "1.1")
    return "Transfer-Encoding is given in a message that is not HTTP/1.1";
  if (lengths[0] !== undefined && !/^\d{1,15}$/.test(lengths[0])) return "Content-Length is no number of bytes";
  return undefined;
};

/** Reads a request's head: one pass over its raw headers, nothing of the body. */
export const readInbound = (request: IncomingMessage): Inbound => {
  const raw = request.rawHeaders;
  const draft: Draft = {
    authorizations: [],
    resources: [],
    scopes: [],
    client_ids: [],
    unsupported: [],
    connection: [],
    lengths: [],
    encodings: [],
    expects_continue: false,
    takes_trailers: false,
    wants_websocket: false,
    host: "",
    request_ids: [],
    traceparents: [],
    tracestates: [],
  };
  let headers: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] as string;
    const lower = name.toLowerCase();
    const reader = READERS.get(lower);
    if (reader !== undefined) reader(draft, raw[i + 1] as string, name);
    else if (!isOurs(lower) && !passesFor(lower)) headers.push(name, raw[i + 1] as string);
  }
  const named = draft.connection.filter((token) => token !== "keep-alive" && token !== "close" && token !== "");
  if (named.length > 0) headers = withoutNamed(headers, named);

  const [given_trace] = draft.traceparents;
  const trace_kept = draft.traceparents.length === 1 && given_trace !== undefined && isTraceparent(given_trace);
  if (trace_kept) for (const state of draft.tracestates) headers.push("tracestate", state);
  const [length] = draft.lengths;
  return {
    method: request.method ?? "",
    target: request.url ?? "",
    authorizations: draft.authorizations,
    resources: draft.resources,
    scopes: draft.scopes,
    client_ids: draft.client_ids,
    unsupported: draft.unsupported,
    framing_fault: framingFault(draft, request.httpVersion),
    content_length: length === undefined ? undefined : Number(length),
    chunked: draft.encodings.length > 0,
    expects_continue: draft.expects_continue,
    takes_trailers: draft.takes_trailers && request.httpVersion === "1.1",
    wants_websocket: draft.wants_websocket,
    host: draft.host,
    request_id: requestIdOf(draft.request_ids.length === 1 ? draft.request_ids[0] : undefined),
    traceparent: trace_kept ? given_trace : newTraceparent(),
    headers,
  };
};
