import fc from "fast-check";

/** Random requests of a port: good parts put together badly, from a seed, so that a finding can be had again. */

/** What a request may be put together from. */
export type Vocabulary = {
  readonly paths: readonly string[];
  /** Values that are right for these headers at this port; others are made up. */
  readonly headers: Readonly<Record<string, readonly string[]>>;
  /** What nearly every request has, so that more than the door is tried. */
  readonly usual: readonly string[];
  readonly bodies: readonly string[];
  /** Names of fields of its bodies and queries. */
  readonly fields: readonly string[];
};

export type RandomRequest = { readonly bytes: Buffer; readonly head_only: boolean };

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND", "LOCK", "M-SEARCH", "TRACE"];

/** Texts that some reader takes for something else. */
export const ODD_TEXTS: readonly string[] = [
  "",
  " ",
  "0",
  "-1",
  "1e999",
  "NaN",
  "null",
  "undefined",
  "true",
  "[]",
  "{}",
  "__proto__",
  "constructor",
  "%00",
  "%",
  "%zz",
  "%c0%ae%c0%ae/",
  "../../../etc/passwd",
  "..%2f..%2f",
  "'; drop table zones; --",
  "${jndi:ldap://127.0.0.1/a}",
  "{{7*7}}",
  "<script>alert(1)</script>",
  "\u00fc\u4e16\u{1f600}",
  "\u202egnp.exe",
  "a".repeat(600),
  "9".repeat(400),
  "2026-13-45T99:99:99Z",
  "2026-02-30T00:00:00Z",
  "0000-01-01T00:00:00Z",
  "9999-12-31T23:59:59.999Z",
  "+275760-09-13T00:00:00.000Z",
  "-271821-04-20T00:00:00.000Z",
  "2026-01-01T00:00:00+24:00",
  "0195f2b0-0000-7000-8000-000000000000",
  "\u0000",
  "9007199254740993",
  "1000000000000000",
  "e30",
];
const ODD = fc.constantFrom(...ODD_TEXTS);
const anyText = fc.oneof(ODD, fc.string({ unit: "binary", maxLength: 24 }), fc.string({ maxLength: 24 }));

const anyJson = (fields: readonly string[]): fc.Arbitrary<string> =>
  fc.oneof(
    fc.json({ maxDepth: 4, stringUnit: "binary" }),
    fc
      .dictionary(fc.oneof(fc.constantFrom(...fields), anyText), fc.oneof(anyText, fc.jsonValue({ maxDepth: 2 })), {
        maxKeys: 6,
      })
      .map((value) => JSON.stringify(value)),
    fc.constantFrom(
      '{"a":1,"a":2}',
      "1e400",
      '{"name":"\\ud800"}',
      '{"name":"\\u0000"}',
      "[".repeat(3_000),
      '"',
      "\ufeff{}",
      "{}{}",
    ),
  );

const anyForm = (fields: readonly string[]): fc.Arbitrary<string> =>
  fc
    .array(fc.tuple(fc.oneof(fc.constantFrom(...fields), anyText), anyText), { maxLength: 8 })
    .map((pairs) => pairs.map(([name, value]) => `${encode(name)}=${encode(value)}`).join("&"));

/** As a browser does, but for text that has no UTF-8: that goes out as its broken bytes, escaped. */
const encode = (text: string): string =>
  [...Buffer.from(text, "utf8")]
    .map((byte) => (byte > 0x2f && byte < 0x7b ? String.fromCharCode(byte) : `%${byte.toString(16).padStart(2, "0")}`))
    .join("");

const anyTarget = ({ paths, fields }: Vocabulary): fc.Arbitrary<string> =>
  fc
    .tuple(
      fc.oneof(
        { weight: 6, arbitrary: fc.constantFrom(...paths) },
        { weight: 1, arbitrary: anyText.map((text) => `/${encode(text)}`) },
      ),
      fc.oneof({ weight: 4, arbitrary: fc.constant("") }, { weight: 1, arbitrary: ODD.map((text) => `/${text}`) }),
      fc.oneof(
        { weight: 2, arbitrary: fc.constant("") },
        { weight: 1, arbitrary: anyForm(fields).map((form) => `?${form}`) },
      ),
    )
    .map(([path, more, query]) => `${path}${more}${query}`.replaceAll(/[\s\p{Cc}]/gu, "%20"));

/** A value as it may stand in a header: bytes, but for those that end it. */
const headerValue = (text: string): string => text.replaceAll(/[\r\n\0]/g, " ");

const anyHeaders = (vocabulary: Vocabulary): fc.Arbitrary<readonly string[]> => {
  const common = {
    Accept: ["*/*", "application/json, text/event-stream", "text/event-stream;q=0"],
    "Accept-Encoding": ["gzip, br", "identity;q=0, *;q=0"],
    Authorization: ["Bearer a.b.c", "Basic OjpAOg==", "Bearer", "Negotiate"],
    "Content-Encoding": ["gzip", "identity", "br, gzip"],
    "Content-Type": [
      "application/json",
      "application/x-www-form-urlencoded",
      "application/json; charset=utf-16",
      "multipart/form-data",
      "text/xml",
    ],
    Expect: ["100-continue", "100-Continue, 100-continue"],
    "If-None-Match": ["*", '"a"'],
    Range: ["bytes=0-,0-,0-", "bytes=99999999999-"],
    TE: ["trailers", "chunked;q=0"],
    Traceparent: ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "ff-0-0-0"],
    Upgrade: ["websocket", "h2c"],
    "X-Forwarded-For": ["127.0.0.1, 10.0.0.1", "unknown"],
    "X-HTTP-Method-Override": ["DELETE"],
    "X-Request-Id": ["fuzz", "not ok!"],
  };
  const known: Record<string, readonly string[]> = { ...common };
  for (const [name, values] of Object.entries(vocabulary.headers))
    known[name] = [...values, ...values, ...(known[name] ?? [])];
  const one = fc
    .constantFrom(...Object.keys(known))
    .chain((name) =>
      fc
        .oneof({ weight: 4, arbitrary: fc.constantFrom(...(known[name] ?? [""])) }, { weight: 1, arbitrary: anyText })
        .map((value) => `${name}: ${headerValue(value)}`),
    );
  const usual = vocabulary.usual.map((line) =>
    fc.oneof({ weight: 6, arbitrary: fc.constant([line]) }, { weight: 1, arbitrary: fc.constant([]) }),
  );
  return fc
    .tuple(fc.array(one, { maxLength: 5 }), ...usual)
    .map(([made_up, ...right]) => [...right.flat(), ...made_up]);
};

const chunked = (body: Buffer, sizes: readonly number[]): Buffer => {
  const parts: Buffer[] = [];
  let at = 0;
  for (const size of [...sizes, body.length]) {
    const piece = body.subarray(at, at + size);
    if (piece.length > 0) parts.push(Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from("\r\n"));
    at += piece.length;
  }
  return Buffer.concat([...parts, Buffer.from("0\r\n\r\n")]);
};

type Framing = "none" | "length" | "chunked";

/** One request, well framed; its connection ends with the answer. */
export const anyRequest = (vocabulary: Vocabulary): fc.Arbitrary<RandomRequest> =>
  fc
    .record({
      method: fc.oneof(
        { weight: 3, arbitrary: fc.constantFrom("GET", "POST") },
        { weight: 2, arbitrary: fc.constantFrom(...METHODS) },
      ),
      target: anyTarget(vocabulary),
      headers: anyHeaders(vocabulary),
      body: fc.oneof(
        fc.constantFrom(...vocabulary.bodies),
        fc
          .tuple(fc.constantFrom(...vocabulary.bodies), anyForm(vocabulary.fields))
          .map(([body, more]) => (body.startsWith("{") ? body : `${body}&${more}`)),
        anyJson(vocabulary.fields),
        anyForm(vocabulary.fields),
        fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
      ),
      framing: fc.constantFrom<Framing>("none", "length", "length", "chunked"),
      sizes: fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 5 }),
    })
    .map(({ method, target, headers, body, framing, sizes }) => {
      const bytes = Buffer.from(body, "utf8");
      const lines = [`${method} ${target} HTTP/1.1`, "Host: a", "Connection: close", ...headers];
      if (framing === "length") lines.push(`Content-Length: ${bytes.length}`);
      if (framing === "chunked") lines.push("Transfer-Encoding: chunked");
      const head = Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "utf8");
      const sent = framing === "none" ? [head] : [head, framing === "length" ? bytes : chunked(bytes, sizes)];
      return { bytes: Buffer.concat(sent), head_only: method === "HEAD" };
    });
