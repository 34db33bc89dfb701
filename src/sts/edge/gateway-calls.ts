import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import { contentSha256, GATEWAY_HEADERS, GATEWAY_SKEW_MS, isGatewayCall } from "../../domain/gateway-signature.ts";
import type { Keyring } from "../../domain/keyring.ts";
import type { Arrival } from "../../http/router.ts";
import type { Clock } from "../../kernel/clock.ts";
import { Problem } from "../../kernel/problem.ts";
import type { Marks } from "../../ports/marks.ts";

/** `replayed`: seen before, or made before the memory of nonces is known to be whole. */
export type NonceResult = "new" | "replayed";

export type GatewayNonces = {
  /** Rejects where it can't be known; the caller refuses then. */
  use(nonce: string, timestamp_ms: number): Promise<NonceResult>;
};

/** The nonce of one signed call, which is asked about once, however many exchanges the call brought. */
export type CallNonce = {
  /** Rejects where it can't be known; the caller refuses then. */
  use(): Promise<NonceResult>;
};

export const callNonce = (nonces: GatewayNonces, nonce: SignedNonce): CallNonce => {
  let asked: Promise<NonceResult> | undefined;
  return { use: () => (asked ??= nonces.use(nonce.id, nonce.timestamp_ms)) };
};

const KIND = "gateway-nonce";

/**
 * A nonce counts as issued no later than now, whatever the Gateway's clock says: one from a clock that is ahead would
 * otherwise seem younger than a loss of the memory that it is older than.
 */
export const createGatewayNonces = (marks: Marks, clock: Clock): GatewayNonces => ({
  async use(nonce, timestamp_ms) {
    const issued_ms = Math.min(timestamp_ms, clock.now_ms());
    const result = await marks.once(KIND, nonce, issued_ms, timestamp_ms + 2 * GATEWAY_SKEW_MS);
    return result === "marked" ? "new" : "replayed";
  },
});

type SignedNonce = { readonly id: string; readonly timestamp_ms: number };

export type SignedBy =
  | { readonly signed: "no" }
  | { readonly signed: "badly"; readonly reason: "gateway_signature" | "gateway_clock" }
  | { readonly signed: "well"; readonly nonce: SignedNonce };

const TIMESTAMP = /^[1-9][0-9]{12,13}$/;
const NONCE = /^[A-Za-z0-9_-]{16,64}$/;
/** HMAC-SHA256 as base64url: one spelling only. */
const SIGNATURE = /^[A-Za-z0-9_-]{43}$/;

/** SHA-256 of a body as its header says, in base64url; undefined: not said, or in another spelling. */
export const saidSha256 = (headers: IncomingHttpHeaders): Buffer | undefined => {
  const said = headers[GATEWAY_HEADERS.content_sha256];
  return typeof said === "string" && SIGNATURE.test(said) ? Buffer.from(said, "base64url") : undefined;
};

/**
 * Whether a request is the Gateway's: by the signature over all of it, and made within a minute of our clock.
 * `content_sha256`: of the body, or, before it is read, as the request says; that it is the body's is the caller's to see.
 */
export const readGatewaySignature = (
  ring: Keyring | undefined,
  request: {
    readonly method: string;
    readonly path: string;
    readonly headers: IncomingHttpHeaders;
    readonly content_sha256: Uint8Array;
  },
  now_ms: number,
): SignedBy => {
  const timestamp = request.headers[GATEWAY_HEADERS.timestamp];
  const nonce = request.headers[GATEWAY_HEADERS.nonce];
  const signature = request.headers[GATEWAY_HEADERS.signature];
  if (timestamp === undefined && nonce === undefined && signature === undefined) return { signed: "no" };
  const bad = { signed: "badly", reason: "gateway_signature" } as const;
  if (ring === undefined || typeof timestamp !== "string" || typeof nonce !== "string" || typeof signature !== "string")
    return bad;
  if (!TIMESTAMP.test(timestamp) || !NONCE.test(nonce) || !SIGNATURE.test(signature)) return bad;
  const timestamp_ms = Number(timestamp);
  const call = {
    method: request.method,
    path: request.path,
    timestamp_ms,
    nonce,
    content_sha256: request.content_sha256,
  };
  if (!isGatewayCall(ring, call, signature)) return bad;
  if (Math.abs(now_ms - timestamp_ms) > GATEWAY_SKEW_MS) return { signed: "badly", reason: "gateway_clock" };
  return { signed: "well", nonce: { id: nonce, timestamp_ms } };
};

const SHA256_OF_NOTHING = contentSha256(new Uint8Array());

/** Who may use the paths that are the Gateway's alone. */
export type GatewayAdmission = {
  /** The 401 for a call that is not the Gateway's; counts it. */
  refusal(reason: string): Problem;
  /** By its signature; throws the refusal. Whether the nonce was seen before is still to be asked. */
  signed(request: IncomingMessage, content_sha256: Uint8Array): CallNonce;
  /** A call without a body: by its signature and its nonce. */
  admit(arrival: Arrival): Promise<void>;
};

export const createGatewayAdmission = (options: {
  readonly gateway_ring: Keyring | undefined;
  readonly nonces: GatewayNonces;
  readonly onUnauthenticated: (reason: string) => void;
  readonly clock: Clock;
}): GatewayAdmission => {
  const refusal = (reason: string): Problem => {
    options.onUnauthenticated(reason);
    const description = "This path is for the Gateway, whose signature does not verify.";
    return new Problem(401, "invalid_token", description, { reason });
  };
  const signed = (request: IncomingMessage, content_sha256: Uint8Array): CallNonce => {
    const call = { method: request.method ?? "", path: request.url ?? "", headers: request.headers, content_sha256 };
    const signature = readGatewaySignature(options.gateway_ring, call, options.clock.now_ms());
    if (signature.signed === "well") return callNonce(options.nonces, signature.nonce);
    throw refusal(signature.signed === "no" ? "gateway_signature" : signature.reason);
  };
  return {
    refusal,
    signed,
    async admit({ request }) {
      if ((await signed(request, SHA256_OF_NOTHING).use()) !== "new") throw refusal("gateway_call_replayed");
    },
  };
};
