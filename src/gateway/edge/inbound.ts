import type { IncomingMessage } from "node:http";
import { requestIdOf } from "../../http/request-id.ts";
import { asCgiReads } from "./header-name.ts";
import { isTraceparent, newTraceparent } from "./trace.ts";

/** A request as it stands on the wire, read once. Nothing in it is to be believed yet. */
export type Inbound = {
  readonly method: string;
  /** The request target as it was sent: no URL parser has tidied it up. */
  readonly target: string;
  readonly authorizations: readonly string[];
  readonly resources: readonly string[];
  readonly scopes: readonly string[];
  readonly challenge_ids: readonly string[];
  readonly challenge_responses: readonly string[];
  /** Values of `X-Caracal-Agent-Session` and `X-Caracal-Delegation-Edge`: who runs, and by whose authority. */
  readonly agent_sessions: readonly string[];
  readonly delegation_edges: readonly string[];
  /** Values of `X-Caracal-Client-ID`: a caller says who it is by its token alone. */
  readonly client_ids: readonly string[];
  /** Why the message's framing is not clear enough to pass on; undefined where it is. */
  readonly framing_fault: string | undefined;
  readonly content_length: number | undefined;
  readonly chunked: boolean;
  readonly expects_continue: boolean;
  /** `TE: trailers` (RFC 9110, 10.1.4): the client reads trailers. */
  readonly takes_trailers: boolean;
  readonly wants_websocket: boolean;
  readonly host: string;
  /** They go on by path form only. */
  readonly cookies: readonly string[];
  readonly request_id: string;
  readonly traceparent: string;
  /** What goes on to the upstream: name, value, name, value, …; hop-by-hop headers and ours are not in it. */
  readonly headers: string[];
};

const NONE: readonly string[] = [];

/** One more behind those that were there: nearly always the first. */
const oneMore = (values: readonly string[], value: string): readonly string[] =>
  values.length === 0 ? [value] : [...values, value];

/** The head while it is read: nearly every list in it stays empty, and is one and the same then. */
class Head implements Inbound {
  method: string;
  target: string;
  authorizations = NONE;
  resources = NONE;
  scopes = NONE;
  challenge_ids = NONE;
  challenge_responses = NONE;
  agent_sessions = NONE;
  delegation_edges = NONE;
  client_ids = NONE;
  framing_fault: string | undefined = undefined;
  content_length: number | undefined = undefined;
  chunked = false;
  expects_continue = false;
  takes_trailers = false;
  wants_websocket = false;
  host = "";
  cookies = NONE;
  request_id = "";
  traceparent = "";
  headers: string[] = [];
  connection = NONE;
  lengths = NONE;
  encodings = NONE;
  request_ids = NONE;
  traceparents = NONE;
  tracestates = NONE;

  constructor(method: string, target: string) {
    this.method = method;
    this.target = target;
  }
}
type Reader = (head: Head, value: string, name: string) => void;

const goesOn: Reader = (head, value, name) => void head.headers.push(name, value);
const drop: Reader = () => undefined;

const tokensOf = (value: string): string[] =>
  value
    .toLowerCase()
    .split(",")
    .map((token) => token.trim());

/** The headers that `Connection` names beside those that end here anyway. */
const namedIn = (before: readonly string[], value: string): readonly string[] => {
  if (value === "keep-alive" || value === "close") return before; // what nearly every client says
  const named = tokensOf(value).filter((token) => token !== "keep-alive" && token !== "close" && token !== "");
  return named.length === 0 ? before : [...before, ...named];
};

/** `trailers`, on its own or in a list, whatever weight it was given. */
const namesTrailers = (value: string): boolean =>
  tokensOf(value).some((token) => token.split(";", 1)[0]?.trim() === "trailers");

/** As node:http reads it: what it hands over as a request that expects 100 has to be told 100. */
const CONTINUE = /(?:^|\W)100-continue(?:$|\W)/i;

/**
 * Every header that does not simply go on, by its lower-case name: those that we read, those that end at this hop
 * (RFC 9110, 7.6.1), and those by which a client could speak in our name.
 */
const READERS: ReadonlyMap<string, Reader> = new Map<string, Reader>([
  ["authorization", (head, value) => void (head.authorizations = oneMore(head.authorizations, value))],
  ["x-caracal-resource", (head, value) => void (head.resources = oneMore(head.resources, value))],
  ["x-caracal-scope", (head, value) => void (head.scopes = oneMore(head.scopes, value))],
  ["x-caracal-client-id", (head, value) => void (head.client_ids = oneMore(head.client_ids, value))],
  ["x-caracal-agent-session", (head, value) => void (head.agent_sessions = oneMore(head.agent_sessions, value))],
  ["x-caracal-delegation-edge", (head, value) => void (head.delegation_edges = oneMore(head.delegation_edges, value))],
  ["x-caracal-challenge-id", (head, value) => void (head.challenge_ids = oneMore(head.challenge_ids, value))],
  [
    "x-caracal-challenge-response",
    (head, value) => void (head.challenge_responses = oneMore(head.challenge_responses, value)),
  ],
  ["connection", (head, value) => void (head.connection = namedIn(head.connection, value))],
  ["content-length", (head, value) => void (head.lengths = oneMore(head.lengths, value))],
  ["transfer-encoding", (head, value) => void (head.encodings = oneMore(head.encodings, value))],
  ["expect", (head, value) => void (head.expects_continue ||= CONTINUE.test(value))],
  ["te", (head, value) => void (head.takes_trailers ||= namesTrailers(value))],
  ["upgrade", (head, value) => void (head.wants_websocket ||= tokensOf(value).includes("websocket"))],
  ["host", (head, value) => void (head.host = value)],
  ["cookie", (head, value) => void (head.cookies = oneMore(head.cookies, value))],
  ["x-request-id", (head, value) => void (head.request_ids = oneMore(head.request_ids, value))],
  ["traceparent", (head, value) => void (head.traceparents = oneMore(head.traceparents, value))],
  ["tracestate", (head, value) => void (head.tracestates = oneMore(head.tracestates, value))],
  ["keep-alive", drop],
  ["proxy-connection", drop],
  ["proxy-authenticate", drop],
  ["proxy-authorization", drop],
  ["trailer", drop],
  ["http2-settings", drop],
  ["forwarded", drop],
  ["x-forwarded", drop],
  ["proxy", drop], // a CGI-like upstream would take it for its own proxy, HTTP_PROXY
  // Who is at the other end is for us to say: where it calls from (`x-forwarded-for`), and by which certificate (none; RFC
  // 9440, 2.4: whoever ends the TLS removes what a client sends of these).
  ["x-real-ip", drop],
  ["x-client-ip", drop],
  ["x-cluster-client-ip", drop],
  ["client-ip", drop],
  ["true-client-ip", drop],
  ["cf-connecting-ip", drop],
  ["fastly-client-ip", drop],
  ["x-remote-ip", drop],
  ["x-remote-addr", drop],
  ["x-originating-ip", drop],
  ["client-cert", drop],
  ["client-cert-chain", drop],
  // By these an upstream would do another thing than the one that policy was asked about.
  ["x-http-method", drop],
  ["x-http-method-override", drop],
  ["x-method-override", drop],
  ["x-original-url", drop],
  ["x-rewrite-url", drop],
]);

const isOurs = (lower: string): boolean => lower.startsWith("x-caracal-") || lower.startsWith("x-forwarded-");

/** Read as one of ours, or of those that we read, though it is not spelled so: dropped in that spelling, too. */
const passesFor = (lower: string): boolean => {
  const read = asCgiReads(lower);
  return read !== lower && (READERS.has(read) || isOurs(read));
};

/** Spellings that were met, so that a name is taken apart once and not in every call. Anybody can make up new ones. */
const MAX_SPELLINGS = 512;
const MAX_SPELLING = 64;
const spellings = new Map<string, Reader>();

const readerOf = (name: string): Reader => {
  const known = spellings.get(name);
  if (known !== undefined) return known;
  const lower = name.toLowerCase();
  const reader = READERS.get(lower) ?? (isOurs(lower) || passesFor(lower) ? drop : goesOn);
  if (name.length <= MAX_SPELLING) {
    if (spellings.size >= MAX_SPELLINGS) spellings.clear();
    spellings.set(name, reader);
  }
  return reader;
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
const framingFault = ({ lengths, encodings }: Head, http_version: string): string | undefined => {
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
  const head = new Head(request.method ?? "", request.url ?? "");
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] as string;
    readerOf(name)(head, raw[i + 1] as string, name);
  }
  if (head.connection.length > 0) head.headers = withoutNamed(head.headers, head.connection);

  const [given_trace] = head.traceparents;
  if (head.traceparents.length === 1 && given_trace !== undefined && isTraceparent(given_trace)) {
    head.traceparent = given_trace;
    for (const state of head.tracestates) head.headers.push("tracestate", state);
  } else {
    head.traceparent = newTraceparent();
  }
  const [length] = head.lengths;
  if (length !== undefined) head.content_length = Number(length);
  head.chunked = head.encodings.length > 0;
  if (length !== undefined || head.chunked) head.framing_fault = framingFault(head, request.httpVersion);
  head.takes_trailers &&= request.httpVersion === "1.1";
  head.expects_continue &&= request.httpVersion === "1.1"; // RFC 9110, 10.1.1: an older client does not know 100
  head.request_id = requestIdOf(head.request_ids.length === 1 ? head.request_ids[0] : undefined);
  return head;
};
