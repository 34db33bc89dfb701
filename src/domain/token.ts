import { createPublicKey, type KeyObject } from "node:crypto";
import * as v from "valibot";
import { CALL_METHOD, CALL_PATH } from "./call.ts";
import { requireP256, signEs256, verifyEs256 } from "./es256.ts";

/** The longest token that is signed or read, in bytes. */
export const MAX_TOKEN_BYTES = 4096;
/** What clocks may differ by, in seconds. */
export const LEEWAY_S = 60;
export const AMBIENT_TTL_MAX_S = 3600;
export const MANDATE_TTL_MAX_S = 900;

const id = v.pipe(v.string(), v.minLength(1), v.maxLength(512));
const seconds = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** RFC 8693, 4.1: who acts, on which session, and who acted before it; nested. */
export type Actor = { readonly sub: string; readonly sid?: string | undefined; readonly act?: Actor | undefined };
const ActorSchema: v.GenericSchema<Actor> = v.strictObject({
  sub: id,
  sid: v.optional(id),
  act: v.optional(v.lazy(() => ActorSchema)),
});

/** The claims of both kinds of token. Unknown claims are refused: we are the only issuer, so one is a sign of a forgery. */
const EntriesSchema = v.strictObject({
  iss: id,
  sub: id,
  aud: id,
  exp: seconds,
  iat: seconds,
  jti: id,
  zone_id: id,
  client_id: id,
  /** Space-separated (RFC 9068, 2.2.3); empty where the token has none. */
  scope: v.string(),
  /** The session that the token stands for: revoking it ends every token made from it. */
  sid: id,
  use: v.picklist(["ambient", "per_call"]),
  sub_type: v.picklist(["user", "application"]),
  /** The resources that it is limited to; empty (ambient only): any that policy allows. */
  target: v.pipe(v.array(id), v.maxLength(16)),
  /** The Gateway obtained this mandate for its own hop: an upstream accepts it, no Gateway does. */
  via: v.optional(v.literal("gateway")),
  /** The one call that a mandate was decided for: its method, and its path as policy saw it (`action.path`). Both or none. */
  htm: v.optional(v.pipe(v.string(), v.regex(CALL_METHOD))),
  htp: v.optional(v.pipe(v.string(), v.regex(CALL_PATH))),
  act: v.optional(ActorSchema),
  agent_session_id: v.optional(id),
  delegation_edge_id: v.optional(id),
  grant_id: v.optional(id),
  source_session_id: v.optional(id),
  target_session_id: v.optional(id),
  delegation_chain: v.optional(
    v.array(v.strictObject({ application_id: id, agent_session_id: id, delegation_edge_id: v.optional(id) })),
  ),
  hop_count: v.optional(seconds),
  delegation_graph_epoch: v.optional(seconds),
  /** The earliest expiry of session, agent session and edges, in seconds since the epoch: a stream ends there. */
  auth_exp: v.optional(seconds),
});
/** A token that names a method alone would be good for every path, and the other way round: neither was asked for. */
export const ClaimsSchema = v.pipe(
  EntriesSchema,
  v.check((claims) => (claims.htm === undefined) === (claims.htp === undefined)),
);
export type Claims = v.InferOutput<typeof ClaimsSchema>;

/** A token whose form was checked, and nothing else: its claims are not to be believed before `verifyToken`. */
export type DecodedToken = {
  readonly kid: string;
  /** A key into the known zones, and nothing else. */
  readonly zone_id: string;
  /** Seconds since the epoch, as the token says. */
  readonly exp: number;
  readonly payload: unknown;
  readonly signed: Buffer;
  readonly signature: Buffer;
};

const BASE64URL = /^[A-Za-z0-9_-]+$/;

const decodeJson = (part: string): Record<string, unknown> | undefined => {
  const bytes = Buffer.from(part, "base64url");
  if (bytes.toString("base64url") !== part) return undefined; // one spelling only: another is a second token for every cache
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
};

/**
 * Compact JWS → its parts; undefined where it is not one of ours by form: over `MAX_TOKEN_BYTES`, not three base64url
 * parts, a header of more than `alg typ kid`, an `alg` but ES256, a `typ` but at+jwt. `crit`, `jku`, `x5u`, `jwk` and
 * their like never get further (RFC 8725, 3.1, 3.8, 3.10, 3.11).
 */
export const decodeToken = (token: string): DecodedToken | undefined => {
  if (token.length > MAX_TOKEN_BYTES) return undefined;
  const [header_part, payload_part, signature_part, ...rest] = token.split(".");
  if (header_part === undefined || payload_part === undefined || signature_part === undefined || rest.length > 0)
    return undefined;
  if (!BASE64URL.test(header_part) || !BASE64URL.test(payload_part) || !BASE64URL.test(signature_part))
    return undefined;
  const header = decodeJson(header_part);
  if (header === undefined) return undefined;
  if (Object.keys(header).some((name) => name !== "alg" && name !== "typ" && name !== "kid")) return undefined;
  const { alg, typ, kid } = header;
  if (alg !== "ES256" || typ !== "at+jwt" || typeof kid !== "string" || kid.length === 0 || kid.length > 128)
    return undefined;
  const payload = decodeJson(payload_part);
  if (payload === undefined || typeof payload["zone_id"] !== "string" || typeof payload["exp"] !== "number")
    return undefined;
  const signature = Buffer.from(signature_part, "base64url");
  if (signature.byteLength !== 64 || signature.toString("base64url") !== signature_part) return undefined;
  return {
    kid,
    zone_id: payload["zone_id"],
    exp: payload["exp"],
    payload,
    signed: Buffer.from(`${header_part}.${payload_part}`),
    signature,
  };
};

/** `ISSUER_URL/zones/{zone_id}`. */
export const issuerOf = (issuer_url: string, zone_id: string): string => `${issuer_url}/zones/${zone_id}`;

export type VerifyFailure = "signature" | "claims" | "issuer" | "zone" | "not_yet_valid" | "expired";

/**
 * Signature, then claims, then that issuer, zone and the key's zone agree, then time with `LEEWAY_S`.
 * `key_zone_id`: the zone whose JWKS the key came from. `now_ms` since the epoch.
 */
export const verifyToken = (
  token: DecodedToken,
  key: KeyObject,
  expected: { readonly issuer_url: string; readonly key_zone_id: string; readonly now_ms: number },
): Claims | VerifyFailure => {
  if (!verifyEs256(key, token.signed, token.signature)) return "signature";
  const parsed = v.safeParse(ClaimsSchema, token.payload);
  if (!parsed.success) return "claims";
  const claims = parsed.output;
  if (claims.zone_id !== expected.key_zone_id) return "zone";
  if (claims.iss !== issuerOf(expected.issuer_url, claims.zone_id)) return "issuer";
  const lifetime_max_s = claims.use === "ambient" ? AMBIENT_TTL_MAX_S : MANDATE_TTL_MAX_S;
  if (claims.exp <= claims.iat || claims.exp - claims.iat > lifetime_max_s) return "claims";
  if (
    claims.use === "ambient" ? claims.aud !== claims.iss : claims.target.length !== 1 || claims.target[0] !== claims.aud
  )
    return "claims";
  return timeFault(claims, expected.now_ms) ?? claims;
};

/** The part of verification that must be asked again each time that a remembered token is used. */
export const timeFault = (
  claims: Pick<Claims, "iat" | "exp">,
  now_ms: number,
): "not_yet_valid" | "expired" | undefined => {
  const now_s = now_ms / 1000;
  if (claims.iat > now_s + LEEWAY_S) return "not_yet_valid";
  return claims.exp + LEEWAY_S <= now_s ? "expired" : undefined;
};

/** Headers are as few as keys; when they are many, the memory of them begins anew. */
const MAX_HEADERS = 1_024;
const headers = new Map<string, string>();
const headerOf = (kid: string): string => {
  const known = headers.get(kid);
  if (known !== undefined) return known;
  const made = Buffer.from(JSON.stringify({ alg: "ES256", typ: "at+jwt", kid })).toString("base64url");
  if (headers.size >= MAX_HEADERS) headers.clear();
  headers.set(kid, made);
  return made;
};

/**
 * Signs claims that are JSON text already, with `node:crypto` in place: ten times as fast as WebCrypto for ES256. Throws
 * where the result is too long.
 */
export const signPayload = (key: KeyObject, kid: string, payload_json: string): string => {
  const signed = `${headerOf(kid)}.${Buffer.from(payload_json).toString("base64url")}`;
  const token = `${signed}.${signEs256(key, Buffer.from(signed, "latin1")).toString("base64url")}`;
  if (token.length > MAX_TOKEN_BYTES)
    throw new RangeError(`the token would have ${token.length} bytes; ${MAX_TOKEN_BYTES} are the most`);
  return token;
};

export const signToken = (key: KeyObject, kid: string, claims: Claims): string =>
  signPayload(key, kid, JSON.stringify(claims));

/** A public key as it stands in a JWKS (RFC 7517). */
export const JwkSchema = v.object({
  kty: v.literal("EC"),
  crv: v.literal("P-256"),
  x: v.string(),
  y: v.string(),
  kid: id,
  alg: v.literal("ES256"),
  use: v.literal("sig"),
});
export type Jwk = v.InferOutput<typeof JwkSchema>;

export const publicKeyOf = (jwk: Jwk): KeyObject =>
  requireP256(createPublicKey({ key: { kty: jwk.kty, crv: jwk.crv, x: jwk.x, y: jwk.y }, format: "jwk" }));
