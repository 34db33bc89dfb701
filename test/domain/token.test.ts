import assert from "node:assert/strict";
import { createHmac, generateKeyPairSync, sign } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  type Claims,
  decodeToken,
  issuerOf,
  MAX_TOKEN_BYTES,
  publicKeyOf,
  signToken,
  verifyToken,
} from "../../src/domain/token.ts";

const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const ISSUER = "https://sts.example";
const NOW_S = 1_800_000_000;
const EXPECTED = { issuer_url: ISSUER, key_zone_id: "z1", now_ms: NOW_S * 1000 };

const mandate = (over: Partial<Claims> = {}): Claims => ({
  iss: issuerOf(ISSUER, "z1"),
  sub: "app1",
  aud: "resource://demo",
  exp: NOW_S + 300,
  iat: NOW_S,
  jti: "0193a0c0-0000-7000-8000-000000000000",
  zone_id: "z1",
  client_id: "app1",
  scope: "read",
  sid: "s1",
  use: "per_call",
  sub_type: "application",
  target: ["resource://demo"],
  ...over,
});

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
/** A token with any header and payload, rightly signed. */
const forged = (header: object, payload: object): string => {
  const signed = `${part(header)}.${part(payload)}`;
  return `${signed}.${sign("sha256", Buffer.from(signed), { key: privateKey, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
};
const HEADER = { alg: "ES256", typ: "at+jwt", kid: "k1" };

const verified = (token: string): unknown => {
  const decoded = decodeToken(token);
  return decoded === undefined ? "malformed" : verifyToken(decoded, publicKey, EXPECTED);
};

describe("a token", () => {
  it("comes back with the claims that were signed", () => {
    assert.deepEqual(verified(signToken(privateKey, "k1", mandate())), mandate());
  });

  it("that is bound to a call names its method and its path, or it is none of ours", () => {
    const bound = mandate({ htm: "GET", htp: "/a" });
    assert.deepEqual(verified(signToken(privateKey, "k1", bound)), bound);
    for (const half of [{ htm: "GET" }, { htp: "/a" }, { htm: "GET", htp: "a" }, { htm: "G T", htp: "/" }]) {
      assert.equal(verified(signToken(privateKey, "k1", mandate(half))), "claims", JSON.stringify(half));
    }
  });

  it("is read by the key of a JWKS alike", () => {
    const { x, y } = publicKey.export({ format: "jwk" });
    const key = publicKeyOf({
      kty: "EC",
      crv: "P-256",
      x: String(x),
      y: String(y),
      kid: "k1",
      alg: "ES256",
      use: "sig",
    });
    const decoded = decodeToken(signToken(privateKey, "k1", mandate()));
    assert.ok(decoded !== undefined);
    assert.deepEqual(verifyToken(decoded, key, EXPECTED), mandate());
  });

  const HEADERS: Readonly<Record<string, object>> = {
    "alg none": { ...HEADER, alg: "none" },
    "alg HS256": { ...HEADER, alg: "HS256" },
    "alg ES384": { ...HEADER, alg: "ES384" },
    "typ JWT": { ...HEADER, typ: "JWT" },
    "no typ": { alg: "ES256", kid: "k1" },
    "no kid": { alg: "ES256", typ: "at+jwt" },
    "an empty kid": { ...HEADER, kid: "" },
    "a kid that is no text": { ...HEADER, kid: ["k1"] },
    "a crit": { ...HEADER, crit: ["exp"] },
    "a jku": { ...HEADER, jku: "https://evil.example/jwks" },
    "an x5u": { ...HEADER, x5u: "https://evil.example/x5" },
    "a jwk": { ...HEADER, jwk: {} },
  };
  for (const [name, header] of Object.entries(HEADERS)) {
    it(`is refused with ${name} in its header, though rightly signed`, () => {
      assert.equal(verified(forged(header, mandate())), "malformed");
    });
  }

  it("is refused when it is signed with HMAC under the public key", () => {
    const signed = `${part({ ...HEADER, alg: "HS256" })}.${part(mandate())}`;
    const pem = publicKey.export({ type: "spki", format: "pem" });
    assert.equal(verified(`${signed}.${createHmac("sha256", pem).update(signed).digest("base64url")}`), "malformed");
  });

  const PAYLOADS: Readonly<Record<string, readonly [object, string]>> = {
    "another zone's claims": [mandate({ zone_id: "z2", iss: issuerOf(ISSUER, "z2") }), "zone"],
    "another issuer": [mandate({ iss: "https://evil.example/zones/z1" }), "issuer"],
    "an issuer of another zone": [mandate({ iss: issuerOf(ISSUER, "z2") }), "issuer"],
    "two resources in a mandate": [mandate({ target: ["resource://demo", "resource://more"] }), "claims"],
    "a target that is not its audience": [mandate({ target: ["resource://more"] }), "claims"],
    "an ambient audience that is not the issuer": [mandate({ use: "ambient", exp: NOW_S + 60 }), "claims"],
    "a lifetime over its kind's": [mandate({ exp: NOW_S + 901 }), "claims"],
    "an end before its beginning": [mandate({ exp: NOW_S - 1 }), "claims"],
    "an unknown claim": [{ ...mandate(), admin: true }, "claims"],
    "a scope that is a list": [{ ...mandate(), scope: ["read"] }, "claims"],
    "a fraction of a second": [{ ...mandate(), exp: NOW_S + 0.5 }, "claims"],
    "a time far ahead": [mandate({ iat: NOW_S + 61, exp: NOW_S + 200 }), "not_yet_valid"],
    "an end that is past, leeway included": [mandate({ iat: NOW_S - 200, exp: NOW_S - 60 }), "expired"],
  };
  for (const [name, [payload, answer]] of Object.entries(PAYLOADS)) {
    it(`is refused with ${name}`, () => {
      assert.equal(verified(forged(HEADER, payload)), answer);
    });
  }

  it("is refused when any character of it is changed", () => {
    const token = signToken(privateKey, "k1", mandate());
    fc.assert(
      fc.property(fc.nat(token.length - 1), fc.constantFrom(..."abcXYZ019-_."), (at, other) => {
        fc.pre(token[at] !== other);
        const answer = verified(`${token.slice(0, at)}${other}${token.slice(at + 1)}`);
        assert.equal(typeof answer, "string");
      }),
    );
  });

  it("has one spelling: padding, other base64 and trailing bits are refused", () => {
    const token = signToken(privateKey, "k1", mandate());
    const last = token.at(-1) ?? "";
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const sibling = alphabet[alphabet.indexOf(last) ^ 1] ?? "";
    for (const other of [`${token}=`, `${token}.`, ` ${token}`, `${token}\n`, `${token.slice(0, -1)}${sibling}`]) {
      assert.equal(verified(other), "malformed", JSON.stringify(other.slice(-5)));
    }
  });

  it("is never longer than 4096 bytes: neither signed nor read", () => {
    assert.throws(() => signToken(privateKey, "k1", mandate({ scope: "x".repeat(4_000) })), RangeError);
    assert.equal(decodeToken("a".repeat(MAX_TOKEN_BYTES + 1)), undefined);
  });

  it("is refused, never an exception, whatever the text", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(fc.base64String(), { minLength: 3, maxLength: 3 }).map((parts) => parts.join(".")),
        ),
        (text) => {
          assert.equal(decodeToken(text), undefined);
        },
      ),
    );
  });
});
