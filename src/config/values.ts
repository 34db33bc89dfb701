import { isIP } from "node:net";
import * as v from "valibot";

/** Text of an environment variable → its value. Messages say what is wrong and what would be right. */

const TRUE = new Set(["true", "1", "yes"]);
const FALSE = new Set(["false", "0", "no"]);

export const flag = v.pipe(
  v.string(),
  v.toLowerCase(),
  v.check((text) => TRUE.has(text) || FALSE.has(text), "is neither true nor false"),
  v.transform((text) => TRUE.has(text)),
);

export const oneOf = <const O extends readonly string[]>(...options: O) =>
  v.picklist(options, `is none of ${options.join(", ")}`);

/** A whole number from `min` to `max`. */
export const count = (min: number, max: number) =>
  v.pipe(
    v.string(),
    v.regex(/^\d{1,15}$/, `is no whole number from ${min} to ${max}`),
    v.transform(Number),
    v.check((n) => n >= min && n <= max, `is no whole number from ${min} to ${max}`),
  );

export const port = count(0, 65_535);

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const DURATION = /^(\d{1,9})(ms|s|m|h)?$/;

/** `500ms`, `5s`, `2m`, `1h`, or a bare number of seconds → milliseconds. */
export const duration_ms = (min_ms: number, max_ms: number) =>
  v.pipe(
    v.string(),
    v.regex(DURATION, "is no duration; write 500ms, 5s, 2m or 1h"),
    v.transform((text) => {
      const [, amount, unit] = DURATION.exec(text) ?? [];
      return Number(amount) * (UNIT_MS[unit ?? "s"] ?? 1_000);
    }),
    v.check((ms) => ms >= min_ms && ms <= max_ms, `is not between ${min_ms} ms and ${max_ms} ms`),
  );

/** A `%` that begins no escape can't be decoded, and would be found out only where the address is used. */
const isDecodable = (text: string): boolean => {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
};
const UNDECODABLE = "has a % that begins no percent-encoding; write it as %25";

const isUrl = (text: string, protocols: readonly string[]): boolean => {
  try {
    return protocols.includes(new URL(text).protocol);
  } catch {
    return false;
  }
};

/** An address of a service: no path's end slash, no query, no user info. */
export const serviceUrl = v.pipe(
  v.string(),
  v.check((text) => isUrl(text, ["http:", "https:"]), "is no http or https URL"),
  v.check((text) => {
    const url = new URL(text);
    return url.username === "" && url.password === "" && url.search === "" && url.hash === "";
  }, "has user info, a query or a fragment; leave them out"),
  v.transform((text) => text.replace(/\/+$/, "")),
);

export const databaseUrl = v.pipe(
  v.string(),
  v.check((text) => isUrl(text, ["postgres:", "postgresql:"]), "is no postgres:// URL"),
  v.check(isDecodable, UNDECODABLE),
);

export const redisUrl = v.pipe(
  v.string(),
  v.check((text) => isUrl(text, ["redis:", "rediss:"]), "is no redis:// or rediss:// URL"),
  v.check(isDecodable, UNDECODABLE),
);

/** Hex of at least `min_bytes` bytes. */
export const hexKey = (min_bytes: number) =>
  v.pipe(
    v.string(),
    v.regex(/^([0-9a-fA-F]{2})+$/, `is not hex; make one with: openssl rand -hex ${min_bytes}`),
    v.check(
      (text) => text.length >= min_bytes * 2,
      `has fewer than ${min_bytes} bytes; make one with: openssl rand -hex ${min_bytes}`,
    ),
    v.transform((text) => Buffer.from(text, "hex")),
  );

/** Exactly 32 bytes of hex, not all zero. */
export const kek = v.pipe(
  v.string(),
  v.regex(/^[0-9a-fA-F]{64}$/, "is not 32 bytes of hex; make one with: openssl rand -hex 32"),
  v.check((text) => !/^0+$/.test(text), "is all zero; make one with: openssl rand -hex 32"),
  v.transform((text) => Buffer.from(text, "hex")),
);

const entries = v.pipe(
  v.string(),
  v.transform((text) =>
    text
      .split(",")
      .map((part) => part.trim())
      .filter((part) => part !== ""),
  ),
);

/** Former keys, separated by commas: they only open and verify. */
export const formerKeys = (min_bytes: number) => v.pipe(entries, v.array(hexKey(min_bytes)));

/** Former KEKs, separated by commas, each as a KEK must be. */
export const formerKeks = v.pipe(entries, v.array(kek));

const HOST = /^(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/;

/** Exact host names or addresses, separated by commas; no ports, no wildcards. */
export const hosts = v.pipe(
  v.string(),
  v.transform((text) =>
    text
      .split(",")
      .map((part) =>
        part
          .trim()
          .toLowerCase()
          .replace(/^\[|\]$/g, ""),
      )
      .filter((part) => part !== ""),
  ),
  v.array(
    v.pipe(
      v.string(),
      v.check(
        (host) => HOST.test(host) || isIP(host) !== 0,
        "has an entry that is no host name or address (no scheme, port or wildcard)",
      ),
    ),
  ),
);

const isNetwork = (entry: string): boolean => {
  const [address = "", prefix, ...rest] = entry.split("/");
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  return prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128));
};

/** Addresses or networks (`10.0.0.0/8`), separated by commas. */
export const networks = v.pipe(
  v.string(),
  v.transform((text) =>
    text
      .split(",")
      .map((part) => part.trim())
      .filter((part) => part !== ""),
  ),
  v.array(
    v.pipe(v.string(), v.check(isNetwork, "has an entry that is neither an address nor a network such as 10.0.0.0/8")),
  ),
);

const isNameServer = (entry: string): boolean => {
  const [, bracketed, plain = entry, port] = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?$/.exec(entry) ?? [];
  const family = bracketed === undefined ? isIP(plain) : isIP(bracketed) === 6 ? 6 : 0;
  return family !== 0 && !entry.includes("%") && (port === undefined || (Number(port) > 0 && Number(port) <= 65_535));
};

/** Addresses of name servers, each with a port or without (`10.0.0.2`, `10.0.0.2:5353`, `[fd00::2]:53`), separated by commas. */
export const nameServers = v.pipe(
  v.string(),
  v.transform((text) =>
    text
      .split(",")
      .map((part) => part.trim())
      .filter((part) => part !== ""),
  ),
  v.array(
    v.pipe(
      v.string(),
      v.check(isNameServer, "has an entry that is no address such as 10.0.0.2, 10.0.0.2:53 or [fd00::2]:53"),
    ),
  ),
  v.maxLength(8, "has more than 8 entries"),
);

/** What can stand in `Authorization: Bearer` (RFC 6750, 2.1): another text could never be sent, so it would open nothing. */
export const bearerSecret = (min_bytes: number) =>
  v.pipe(
    v.string(),
    v.regex(
      /^[A-Za-z0-9._~+/-]{1,512}=*$/,
      `has a space, a line feed or another character that no Bearer header takes, or is too long; make one with: openssl rand -base64 ${min_bytes}`,
    ),
    v.check(
      (text) => Buffer.byteLength(text) >= min_bytes,
      `has fewer than ${min_bytes} bytes; make one with: openssl rand -base64 ${min_bytes}`,
    ),
  );

export const text = v.pipe(v.string(), v.minLength(1, "is empty"), v.maxLength(4096, "is too long"));
