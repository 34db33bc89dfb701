import { hash, hkdfSync } from "node:crypto";
import { hmacOfFields, type Keyring, keyring, type NamedKey, sameBytes } from "./keyring.ts";

/**
 * How the Gateway proves itself to the STS: HMAC-SHA256 over method, path, time, nonce and the body's SHA-256, in these
 * headers. Where the body is large its hash comes along, so that nothing is read for who can't sign.
 */
export const GATEWAY_HEADERS = {
  timestamp: "x-caracal-gateway-timestamp",
  nonce: "x-caracal-gateway-nonce",
  signature: "x-caracal-gateway-signature",
  content_sha256: "x-caracal-gateway-content-sha256",
} as const;

/** What clocks may differ by, and therefore how long a nonce is remembered (twice it), in milliseconds. */
export const GATEWAY_SKEW_MS = 60_000;

export type SignedCall = {
  readonly method: string;
  /** With its query, as it stands in the request line. */
  readonly path: string;
  readonly timestamp_ms: number;
  readonly nonce: string;
  /** Of the body. */
  readonly content_sha256: Uint8Array;
};

/** SHA-256 of a body, 32 bytes. */
export const contentSha256 = (body: Uint8Array): Buffer => hash("sha256", body, "buffer");

const signatureOf = (key: NamedKey, call: SignedCall): Buffer => {
  const { method, path, timestamp_ms, nonce, content_sha256 } = call;
  const fields = ["caracal gateway call 1", method, path, String(timestamp_ms), nonce, content_sha256];
  return Buffer.from(hmacOfFields(key, fields), "hex");
};

/** base64url. */
export const signGatewayCall = (ring: Keyring, call: SignedCall): string =>
  signatureOf(ring.current, call).toString("base64url");

/** Whether any key of the ring signed this call. Skew and nonce are the caller's to check, after this. */
export const isGatewayCall = (ring: Keyring, call: SignedCall, signature: string): boolean => {
  const given = Buffer.from(signature, "base64url");
  return ring.all.filter((key) => sameBytes(signatureOf(key, call), given)).length > 0; // every key is tried: no early way out
};

/** `GATEWAY_STS_HMAC_KEY` where it is not set: HKDF-SHA256 (RFC 5869) of `STREAMS_HMAC_KEY`. */
export const deriveGatewayKey = (streams: Keyring): Keyring => {
  const derive = (bytes: Buffer): Buffer =>
    Buffer.from(hkdfSync("sha256", bytes, Buffer.alloc(0), "caracal gateway-sts", 32));
  const [current, ...previous] = streams.all.map((key) => derive(key.bytes));
  return keyring(current as Buffer, previous);
};
