/**
 * Paths as they stand in the request line. The check looks at the raw text, as the upstream will get it, and at
 * everything that some decoder behind us could make of it.
 */

/** Decodings tried: what still changes after these has no honest use. */
const MAX_DECODINGS = 4;
/** RFC 3986: what may stand in a path or query; a backslash, a fragment, spaces, controls and bytes above 0x7e may not. */
const TARGET = /^\/[\x21\x22\x24-\x5b\x5d-\x7e]*$/;
const ESCAPE = /%(?:u([0-9a-f]{4})|([0-9a-f]{2}))/gi;
const MALFORMED_ESCAPE = /%(?!u[0-9a-f]{4}|[0-9a-f]{2})/i;
/** UTF-8 in more bytes than needed (`%c0%ae` for a dot): no encoder makes these, some decoders take them. */
const OVERLONG = /%c[01]|%e0%[89]|%f0%8/i;
/** A dot segment between any two separators, whatever blanks stand around it, parameters or a decoded `?` or `#` behind it. */
const DOT_SEGMENT = /(?:^|[/\\])\s*\.{1,2}\s*(?:[;?#][^/\\]*)?(?=$|[/\\])/;
// oxlint-disable-next-line no-control-regex -- a NUL ends the path for a decoder in C
const CONTROL = /[\x00-\x1f\x7f]/;

/** `%u002e` is IIS's spelling: as the bytes of its UTF-8, so that every round works on bytes. */
const wideAsBytes = (hex: string): string =>
  Buffer.from(String.fromCharCode(Number.parseInt(hex, 16))).toString("latin1");

/** Each escape as the byte that it stands for, once. The result is text of bytes (latin1). */
const decodeOnce = (text: string): string =>
  text.replace(ESCAPE, (_all, wide: string | undefined, byte: string | undefined) =>
    wide === undefined ? String.fromCharCode(Number.parseInt(byte as string, 16)) : wideAsBytes(wide),
  );

/** Full-width dots and slashes become plain ones in decoders that normalise (NFKC). */
const folded = (bytes: string): string => Buffer.from(bytes, "latin1").toString("utf8").normalize("NFKC");

const hasHighBytes = (text: string): boolean => /[\x80-\xff]/.test(text);

/**
 * Why this path must not go on; undefined where it may. `path`: the request target up to its query.
 * Refused: anything but origin-form, `//` at its start (an authority for some parsers), `.` and `..` segments in any
 * encoding, a backslash, control characters, malformed or overlong escapes.
 */
export const pathFault = (path: string): string | undefined => {
  if (!TARGET.test(path))
    return path.startsWith("/") ? "it holds a character that a path can't" : "it must begin with /";
  if (path.startsWith("//")) return "it must not begin with //";
  if (!path.includes("%") && !path.includes("/.")) return undefined; // the way of nearly every call
  if (DOT_SEGMENT.test(path)) return "it holds a . or .. segment";
  if (MALFORMED_ESCAPE.test(path)) return "it holds a malformed percent-encoding";
  let text = path;
  for (let round = 0; round < MAX_DECODINGS; round += 1) {
    if (OVERLONG.test(text)) return "it holds an overlong encoding";
    const decoded = decodeOnce(text); // leniently: a literal % that an earlier round laid bare hides nothing behind it
    if (decoded === text) return undefined;
    text = decoded;
    if (CONTROL.test(text)) return "it holds an encoded control character";
    if (text.startsWith("//") || text.startsWith("/\\")) return "it must not begin with //";
    if (DOT_SEGMENT.test(text) || (hasHighBytes(text) && DOT_SEGMENT.test(folded(text))))
      return "it holds a . or .. segment";
  }
  return decodeOnce(text) === text ? undefined : "it is percent-encoded too many times";
};

/** A request target apart: the path, and the query with its `?` (empty where there is none). */
export const splitTarget = (target: string): { readonly path: string; readonly query: string } => {
  const at = target.indexOf("?");
  return at === -1 ? { path: target, query: "" } : { path: target.slice(0, at), query: target.slice(at) };
};

/** Whether a query holds only what one can hold (RFC 3986, 3.4). */
export const isQuery = (query: string): boolean => query === "" || TARGET.test(`/${query}`);

/** `/r/{zone_id}/{resource_id}` and what follows it; the rest begins with `/`. */
const PATH_FORM = /^\/r\/([A-Za-z0-9_-]{1,128})\/([A-Za-z0-9_-]{1,128})(\/.*)?$/;

export type PathForm = {
  readonly zone_id: string;
  readonly resource_id: string;
  readonly prefix: string;
  readonly rest: string;
};

/** The resource that a path names by itself; undefined where it is not of that form. */
export const pathFormOf = (path: string): PathForm | undefined => {
  const found = PATH_FORM.exec(path);
  if (found === null) return undefined;
  const [, zone_id, resource_id, rest] = found as unknown as [string, string, string, string | undefined];
  return { zone_id, resource_id, prefix: `/r/${zone_id}/${resource_id}`, rest: rest ?? "/" };
};

const nameOf = (pair: string): string => {
  const raw = pair.split("=", 1)[0] ?? "";
  try {
    return decodeURIComponent(raw.replaceAll("+", " "));
  } catch {
    return raw;
  }
};

/**
 * The upstream's own query, then what the client's has beside it. A name that the upstream fixes is dropped from the
 * client's in every spelling (`;` is a separator for some), so that it can't be said twice.
 */
const mergeQueries = (own: string, given: string): string => {
  if (own === "" || own === "?") return given === "?" ? "" : given;
  const fixed = new Set(own.slice(1).split("&").map(nameOf));
  const kept = given
    .slice(1)
    .split("&")
    .filter((pair) => pair !== "" && !pair.split(";").some((part) => fixed.has(nameOf(part))));
  return kept.length === 0 ? own : `${own}&${kept.join("&")}`;
};

/** The base path without a slash at its end: "" for the root. */
const trimmed = (path: string): string => (path.endsWith("/") ? path.slice(0, -1) : path);

/**
 * What is asked of the upstream: its base path, then the path of the call. A call of `/` itself gets the base as it is
 * written (`/mcp` stays `/mcp`).
 */
export const upstreamPath = (upstream: URL, path: string, query: string): string =>
  (path === "/" ? upstream.pathname : trimmed(upstream.pathname) + path) + mergeQueries(upstream.search, query);

/**
 * A `Location` of the upstream as the client must see it. Inside the upstream's base: the same place at the Gateway
 * (`prefix` and the rest). A path outside of it is made whole, because at the Gateway it would name another place.
 * Another origin, a relative reference, or what is no URL: as it is.
 */
export const rewriteLocation = (location: string, upstream: URL, asked_path: string, prefix: string): string => {
  const absolute = /^(?:[a-z][a-z0-9+.-]*:|\/)/i.test(location);
  if (!absolute) return location;
  let url: URL;
  try {
    url = new URL(location, new URL(asked_path, upstream.origin));
  } catch {
    return location;
  }
  if (url.origin !== upstream.origin) return location;
  const base = trimmed(upstream.pathname);
  const inside = url.pathname === base || url.pathname === upstream.pathname || url.pathname.startsWith(`${base}/`);
  if (!inside) return url.href;
  const rest = url.pathname.slice(base.length);
  return `${prefix}/${rest.replace(/^\/+/, "")}${url.search}${url.hash}`; // one slash: two would name a host
};
