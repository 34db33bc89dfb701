import { createHash, createPrivateKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { requireP256 } from "./es256.ts";
import type { Keyring } from "./keyring.ts";
import { type SealedAt, seal, unseal } from "./sealing.ts";

/** A row of `zone_keys` before it is written. `public_jwk`: the JSON text of a `Jwk`, as it goes into the JWKS. */
export type SealedZoneKey = { readonly kid: string; readonly public_jwk: string; readonly sealed_private: string };

/** How long a JWKS may be cached, and so how long after it is published a new key begins to sign, in seconds. */
export const JWKS_MAX_AGE_S = 300;

const placeOf = (zone_id: string, kid: string): SealedAt => ({
  table: "zone_keys",
  zone_id,
  row: kid,
  column: "sealed_private",
});

/**
 * A new P-256 signing key of the zone. `kid` is the RFC 7638 thumbprint, so that the id can't be another key's; the
 * private part (PKCS #8 DER) is sealed under the ring's current key for this zone and `kid`, and for no other row.
 */
export const makeZoneKey = (ring: Keyring, zone_id: string): SealedZoneKey => {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { x, y } = publicKey.export({ format: "jwk" });
  if (x === undefined || y === undefined) throw new Error("a P-256 key without coordinates");
  // RFC 7638, 3.2: exactly these members, in this order, without white space
  const thumbprint = createHash("sha256")
    .update(JSON.stringify({ crv: "P-256", kty: "EC", x, y }))
    .digest("base64url");
  const private_der = privateKey.export({ format: "der", type: "pkcs8" });
  const sealed_private = seal(ring, placeOf(zone_id, thumbprint), private_der);
  private_der.fill(0);
  const public_jwk = JSON.stringify({ kty: "EC", crv: "P-256", x, y, kid: thumbprint, alg: "ES256", use: "sig" });
  return { kid: thumbprint, public_jwk, sealed_private };
};

/**
 * The private key of a row that `makeZoneKey` made. Throws where it was sealed under a key that is not in the ring, or
 * for another zone or `kid`: a row that was moved or swapped signs nothing.
 */
export const openZoneKey = (ring: Keyring, zone_id: string, kid: string, sealed_private: string): KeyObject => {
  const private_der = unseal(ring, placeOf(zone_id, kid), sealed_private);
  try {
    return requireP256(createPrivateKey({ key: private_der, format: "der", type: "pkcs8" }));
  } finally {
    private_der.fill(0);
  }
};
