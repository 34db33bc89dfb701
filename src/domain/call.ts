/** A call as policy is asked about it, and as a mandate is bound to it (`htm`, `htp`). */

/** RFC 9110, 9.1: a token, in its own case. */
export const CALL_METHOD = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$/;
/** RFC 3986, 3.3: what may stand in a path, without query and fragment; a backslash, spaces and controls may not. */
export const CALL_PATH = /^\/[\x21\x22\x24-\x3e\x40-\x5b\x5d-\x7e]{0,2047}$/;

/** RFC 3986, 2.3: what an escape of means the same as the character itself. */
const UNRESERVED_ESCAPE = /%(?:2[DE]|3\d|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])/gi;

/**
 * The path with needless escapes undone (RFC 3986, 6.2.2.2): policy is asked about this spelling, and the upstream gets
 * this one, so that `/%61dmin` is `/admin` to both. Other escapes stay: undone, they would mean another thing.
 */
export const plainPath = (path: string): string =>
  path.includes("%")
    ? path.replace(UNRESERVED_ESCAPE, (escape) => String.fromCharCode(Number.parseInt(escape.slice(1), 16)))
    : path;
