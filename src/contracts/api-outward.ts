import * as v from "valibot";
import { isAllowedHost } from "../domain/allowed-hosts.ts";
import { list, text } from "./api-fields.ts";

const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);

const isSafeUrl = (value: string): boolean => {
  if (!URL.canParse(value)) return false;
  const { protocol, hostname, username, password } = new URL(value);
  if (username !== "" || password !== "") return false;
  return protocol === "https:" || (protocol === "http:" && LOOPBACK.has(hostname));
};

/**
 * What the STS calls: a token endpoint, an issuer, its keys. Kept as it was written, since an issuer is compared byte by
 * byte. What it resolves to is judged when it is written, and each time that it is called.
 */
export const CalledUrlSchema = v.pipe(
  v.string(),
  v.maxLength(2048, "must have at most 2048 characters"),
  v.regex(/^[\x21-\x22\x24-\x7e]+$/, "must be visible ASCII without spaces or a fragment"),
  v.check(isSafeUrl, "must be an https URL without a user name; http is for loopback addresses alone"),
);

/** RFC 9110, 5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/;

/** Headers that are not an upstream's credential but somebody else's word: who is called, where a message ends, who asks. */
const NEVER = new Set([
  "host",
  "cookie",
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "content-length",
  "expect",
]);

export const CredentialHeaderSchema = v.pipe(
  v.string(),
  v.regex(TOKEN, "must be a header name (RFC 9110)"),
  v.check((name) => {
    const lower = name.toLowerCase();
    return !NEVER.has(lower) && !lower.startsWith("x-caracal-") && !lower.startsWith("x-forwarded-");
  }, "must not be Host, Cookie, a hop-by-hop or framing header, X-Forwarded-* or X-Caracal-*"),
);

export const CredentialSchemeSchema = v.nullable(
  v.pipe(v.string(), v.regex(TOKEN, "must be an authentication scheme (RFC 9110)")),
);

export const AllowedHostsSchema = v.pipe(
  list(
    v.pipe(
      v.string(),
      v.maxLength(260, "must have at most 260 characters"),
      v.check(isAllowedHost, "must be a host, such as api.example.com or api.example.com:8443"),
    ),
    64,
    1,
  ),
  v.check((hosts) => new Set(hosts).size === hosts.length, "must name each host once"),
);

/** A secret that is brought in: what a header can hold. */
export const BroughtSecretSchema = v.pipe(
  text(8192),
  v.check((value) => /^[\x21-\x7e]+(?: [\x21-\x7e]+)*$/.test(value), "must be visible ASCII"),
);

const PRIVATE_MEMBERS = ["d", "p", "q", "dp", "dq", "qi", "k", "oth"];

/** RFC 7517, public keys only: a private one that was pasted is refused before it rests anywhere. */
export const JwksSchema = v.strictObject({
  keys: v.pipe(
    list(v.looseObject({ kty: v.picklist(["EC", "RSA", "OKP"]), kid: v.optional(text(256)) }), 16, 1),
    v.check(
      (keys) => keys.every((key) => !PRIVATE_MEMBERS.some((member) => Object.hasOwn(key, member))),
      "must hold public keys only",
    ),
    v.check((keys) => JSON.stringify(keys).length <= 16_384, "must have at most 16384 characters"),
    v.check((keys) => !JSON.stringify(keys).includes("\\u0000"), "must not contain NUL characters"),
  ),
});
