/** Messages that no honest client sends, as bytes. What they must get depends on nothing but HTTP itself. */

export type Shape = {
  readonly name: string;
  readonly bytes: string | Buffer;
  /** Statuses of the answers, in order; `[]` is a close without one. Any judged outcome where it is left out. */
  readonly statuses?: readonly (readonly number[])[];
  readonly breaks_off?: boolean;
};

const CRLF = "\r\n";
const REFUSED: Pick<Shape, "statuses"> = { statuses: [[400]] };

/** A head with a Host, and whatever else. */
const head = (line: string, ...lines: readonly string[]): string => [line, "Host: a", ...lines, "", ""].join(CRLF);
/** A request behind another: whoever answers it has been talked into a second message. */
const SMUGGLED = head("GET /health HTTP/1.1");

/** Two readers of these would see two different messages (RFC 9112, 6; CWE-444). Exactly one answer, a refusal, and the end. */
export const SMUGGLING: readonly Shape[] = (
  [
    ["a length and chunks", ["Content-Length: 6", "Transfer-Encoding: chunked"], `0${CRLF}${CRLF}`],
    ["chunks and a length", ["Transfer-Encoding: chunked", "Content-Length: 6"], `0${CRLF}${CRLF}`],
    ["two lengths", ["Content-Length: 0", "Content-Length: 44"], ""],
    ["two equal lengths", ["Content-Length: 0", "Content-Length: 0"], ""],
    ["lengths in a list", ["Content-Length: 0, 44"], ""],
    ["a length with a sign", ["Content-Length: +0"], ""],
    ["a negative length", ["Content-Length: -1"], ""],
    ["a length in hexadecimal", ["Content-Length: 0x0"], ""],
    ["a length with a blank within", ["Content-Length: 0 0"], ""],
    ["an empty length", ["Content-Length:"], ""],
    ["a length beyond 64 bits", ["Content-Length: 18446744073709551616"], ""],
    ["a blank before the colon", ["Content-Length : 0"], ""],
    ["a coding that is no coding", ["Transfer-Encoding: xchunked"], ""],
    ["chunked, and then another", ["Transfer-Encoding: chunked, identity"], `0${CRLF}${CRLF}`],
    ["chunked in quotes", ['Transfer-Encoding: "chunked"'], `0${CRLF}${CRLF}`],
    ["chunked behind a vertical tab", ["Transfer-Encoding: \u000bchunked"], `0${CRLF}${CRLF}`],
    ["a folded coding", ["Transfer-Encoding:", " chunked"], `0${CRLF}${CRLF}`],
    ["a chunk size with a sign", ["Transfer-Encoding: chunked"], `+0${CRLF}${CRLF}`],
    ["a chunk size of 0x", ["Transfer-Encoding: chunked"], `0x0${CRLF}${CRLF}`],
    ["a chunk size beyond 64 bits", ["Transfer-Encoding: chunked"], `10000000000000000${CRLF}a${CRLF}`],
    ["a negative chunk size", ["Transfer-Encoding: chunked"], `-1${CRLF}${CRLF}`],
    ["a chunk longer than it says", ["Transfer-Encoding: chunked"], `1${CRLF}ab${CRLF}0${CRLF}${CRLF}`],
    ["a chunk that ends in LF alone", ["Transfer-Encoding: chunked"], `1${CRLF}a\n0${CRLF}${CRLF}`],
    ["a chunk line that ends in LF alone", ["Transfer-Encoding: chunked"], `1\na${CRLF}0${CRLF}${CRLF}`],
    ["a NUL in a header", ["X-A: a\u0000b"], ""],
    ["a CR alone in a header", ["X-A: a\rX-B: b"], ""],
    ["a header without a colon", ["X-A"], ""],
    ["a header without a name", [": a"], ""],
  ] as const
).map(([name, lines, body]) => ({ name, bytes: `${head("POST /nothing HTTP/1.1", ...lines)}${body}${SMUGGLED}` }));

/** What is no request of HTTP/1.1 at all, or one that nobody may take. */
export const MALFORMED: readonly Shape[] = [
  { name: "nothing but blanks", bytes: `   ${CRLF}${CRLF}`, ...REFUSED },
  { name: "nothing but line ends", bytes: CRLF.repeat(1_000), breaks_off: true },
  { name: "NULs", bytes: Buffer.alloc(4_096), ...REFUSED },
  { name: "every byte there is", bytes: Buffer.from(Array.from({ length: 1_024 }, (_, at) => at & 255)), ...REFUSED },
  { name: "a TLS greeting", bytes: Buffer.from("1603010200010001fc0303", "hex"), ...REFUSED },
  { name: "HTTP/0.9", bytes: `GET /${CRLF}`, breaks_off: true },
  { name: "the preface of HTTP/2", bytes: `PRI * HTTP/2.0${CRLF}${CRLF}SM${CRLF}${CRLF}`, ...REFUSED },
  { name: "HTTP/1.10", bytes: head("GET / HTTP/1.10"), ...REFUSED },
  { name: "HTTP/2.0", bytes: head("GET / HTTP/2.0"), ...REFUSED },
  { name: "lower-case http", bytes: head("GET / http/1.1"), ...REFUSED },
  { name: "another protocol", bytes: head("GET / ICY/1.1"), ...REFUSED },
  { name: "no target", bytes: head("GET HTTP/1.1"), ...REFUSED },
  { name: "two targets", bytes: head("GET / / HTTP/1.1"), ...REFUSED },
  { name: "a target with a NUL", bytes: head("GET /a\u0000b HTTP/1.1"), ...REFUSED },
  { name: "an unknown method", bytes: head("FETCH / HTTP/1.1"), ...REFUSED },
  { name: "a method of 100 KB", bytes: head(`${"G".repeat(100_000)} / HTTP/1.1`), ...REFUSED },
  { name: "lines that end in LF alone", bytes: "GET /nothing HTTP/1.1\nHost: a\n\n", ...REFUSED },
  { name: "a space before the first header", bytes: `GET / HTTP/1.1${CRLF} Host: a${CRLF}${CRLF}`, ...REFUSED },
  { name: "no Host", bytes: `GET /nothing HTTP/1.1${CRLF}${CRLF}`, ...REFUSED },
  { name: "an empty Host", bytes: `GET /nothing HTTP/1.1${CRLF}Host:${CRLF}${CRLF}` },
  { name: "a Host that is none", bytes: `GET /nothing HTTP/1.1${CRLF}Host: a b/c@d:e${CRLF}${CRLF}` },
  {
    name: "a Host of other letters",
    bytes: Buffer.from(`GET /nothing HTTP/1.1${CRLF}Host: \u00ff\u0100${CRLF}${CRLF}`, "utf8"),
  },
  { name: "two Hosts", bytes: head("GET /nothing HTTP/1.1", "Host: b"), ...REFUSED },
  { name: "the asterisk", bytes: head("GET * HTTP/1.1") },
  { name: "OPTIONS of the asterisk", bytes: head("OPTIONS * HTTP/1.1") },
  { name: "an absolute target", bytes: head("GET http://other.example/health HTTP/1.1") },
  { name: "an absolute target of another scheme", bytes: head("GET file:///etc/passwd HTTP/1.1") },
  { name: "an authority for a target", bytes: head("GET other.example:80 HTTP/1.1") },
  { name: "a target that begins with two slashes", bytes: head("GET //other.example/ HTTP/1.1") },
  { name: "a target with a fragment", bytes: head("GET /a#b HTTP/1.1") },
  { name: "a target of raw UTF-8", bytes: Buffer.from(head("GET /gr\u00fc\u00dfe/\u4e16 HTTP/1.1"), "utf8") },
  {
    name: "CONNECT",
    bytes: "CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n",
    statuses: [[405]],
  },
  {
    name: "CONNECT and a greeting behind it",
    bytes: Buffer.concat([Buffer.from(head("CONNECT a:1 HTTP/1.1")), Buffer.alloc(9_000, 22)]),
    statuses: [[405]],
  },
  { name: "TRACE", bytes: head("TRACE /nothing HTTP/1.1", "Cookie: secret=1") },
  {
    name: "an upgrade to HTTP/2",
    bytes: head(
      "GET /nothing HTTP/1.1",
      "Connection: Upgrade, HTTP2-Settings",
      "Upgrade: h2c",
      "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    ),
  },
  {
    name: "an upgrade to a WebSocket",
    bytes: head(
      "GET /nothing HTTP/1.1",
      "Connection: Upgrade",
      "Upgrade: websocket",
      "Sec-WebSocket-Version: 13",
      "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ),
  },
  {
    name: "an expectation that nobody meets",
    bytes: head("POST /nothing HTTP/1.1", "Expect: the-impossible", "Content-Length: 0"),
    statuses: [[417]],
  },
  { name: "an answer", bytes: `HTTP/1.1 200 OK${CRLF}Content-Length: 0${CRLF}${CRLF}`, ...REFUSED },
  { name: "a request and the end of the client's half", bytes: head("GET /health HTTP/1.1"), breaks_off: true },
  { name: "a head that breaks off", bytes: "GET /health HTTP/1.1\r\nHos", breaks_off: true },
  {
    name: "a body that breaks off",
    bytes: `${head("POST /nothing HTTP/1.1", "Content-Length: 100")}abc`,
    breaks_off: true,
  },
  {
    name: "chunks that break off",
    bytes: `${head("POST /nothing HTTP/1.1", "Transfer-Encoding: chunked")}5${CRLF}ab`,
    breaks_off: true,
  },
  {
    name: "HEAD of the server's own page with a body",
    bytes: `${head("POST /health HTTP/1.1", "Content-Length: 3")}abc`,
    statuses: [[405]],
  },
];

const many = (count: number, line: (at: number) => string): readonly string[] =>
  Array.from({ length: count }, (_, at) => line(at));

/** More of everything than anybody takes. */
export const OVERSIZE: readonly Shape[] = [
  {
    name: "a header of 1 MB",
    bytes: head("GET /nothing HTTP/1.1", `X-A: ${"a".repeat(1_000_000)}`),
    statuses: [[431]],
  },
  { name: "a target of 1 MB", bytes: head(`GET /${"a".repeat(1_000_000)} HTTP/1.1`), statuses: [[431]] },
  { name: "a query of 30 KB", bytes: head(`GET /nothing?${"a=b&".repeat(7_500)} HTTP/1.1`) },
  {
    name: "5 000 headers",
    bytes: head("GET /nothing HTTP/1.1", ...many(5_000, (at) => `X-${at}: a`)),
    statuses: [[431]],
  },
  { name: "250 headers", bytes: head("GET /nothing HTTP/1.1", ...many(250, (at) => `X-${at}: a`)), statuses: [[431]] },
  { name: "150 headers of one name", bytes: head("GET /nothing HTTP/1.1", ...many(150, (at) => `Cookie: a=${at}`)) },
  {
    name: "headers of 30 KB together",
    bytes: head("GET /nothing HTTP/1.1", ...many(100, (at) => `X-${at}: ${"a".repeat(290)}`)),
  },
  { name: "a token of 25 KB", bytes: head("GET /v1/zones HTTP/1.1", `Authorization: Bearer ${"a".repeat(25_000)}`) },
  { name: "a Basic of 25 KB", bytes: head("GET /v1/zones HTTP/1.1", `Authorization: Basic ${"QQ".repeat(12_500)}`) },
  { name: "a host of 25 KB", bytes: `GET /nothing HTTP/1.1${CRLF}Host: ${"a.".repeat(12_500)}${CRLF}${CRLF}` },
  { name: "a request id of 25 KB", bytes: head("GET /nothing HTTP/1.1", `X-Request-Id: ${"a".repeat(25_000)}`) },
  {
    name: "a body of 2 MB to nobody",
    bytes: `${head("POST /nothing HTTP/1.1", "Content-Length: 2000000")}${"a".repeat(2_000_000)}`,
  },
  {
    name: "a chunk extension of 100 KB",
    bytes: `${head("POST /nothing HTTP/1.1", "Transfer-Encoding: chunked")}1;${"a".repeat(100_000)}${CRLF}a${CRLF}0${CRLF}${CRLF}`,
  },
  {
    name: "5 000 trailers",
    bytes: `${head("POST /nothing HTTP/1.1", "Transfer-Encoding: chunked")}0${CRLF}${many(5_000, (at) => `X-${at}: a${CRLF}`).join("")}${CRLF}`,
  },
  {
    name: "20 000 chunks of one byte",
    bytes: `${head("POST /nothing HTTP/1.1", "Transfer-Encoding: chunked")}${`1${CRLF}a${CRLF}`.repeat(20_000)}0${CRLF}${CRLF}`,
  },
  { name: "2 000 requests in one piece", bytes: head("GET /metrics HTTP/1.1").repeat(2_000) },
  { name: "2 000 refusals in one piece", bytes: head("GET /nothing HTTP/1.1").repeat(2_000) },
];
