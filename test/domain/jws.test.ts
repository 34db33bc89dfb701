import assert from "node:assert/strict";
import { createHmac, createPublicKey, generateKeyPairSync, sign } from "node:crypto";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { decodeJws, type JwsVerdict, readJwks, verifyJws } from "../../src/domain/jws.ts";
import { makeJwt, makeKey, part, signatureOf } from "../support/jwt.ts";

const KEYS = [makeKey("ES256", "ec"), makeKey("RS256", "rsa"), makeKey("EdDSA", "ed")] as const;
const [EC, RSA, ED] = KEYS;
const JWKS = readJwks({ keys: KEYS.map(({ jwk }) => jwk) });
const CLAIMS = { iss: "app", sub: "app" };

const judge = (token: string, keys = JWKS): JwsVerdict | "malformed" => {
  const decoded = decodeJws(token);
  return decoded === undefined ? "malformed" : verifyJws(decoded, keys);
};
const P1363 = (key: typeof EC, signed: string) => `${signed}.${signatureOf(key, signed).toString("base64url")}`;

describe("a token of somebody else", () => {
  it("verifies by ES256, RS256 and EdDSA, with and without a kid, and under Ed25519's other name", () => {
    for (const key of KEYS) {
      assert.equal(judge(makeJwt(key, CLAIMS)), "verified", key.alg);
      assert.equal(judge(makeJwt(key, CLAIMS, { kid: undefined })), "verified", `${key.alg} without kid`);
      assert.equal(judge(makeJwt(key, CLAIMS, { typ: "JWT" })), "verified");
    }
    const { alg: _alg, ...without_alg } = ED.jwk;
    assert.equal(judge(makeJwt(ED, CLAIMS, { alg: "Ed25519" }), readJwks({ keys: [without_alg] })), "verified");
  });

  it("is none in any of the forms by which verifiers were tricked", () => {
    const good = makeJwt(EC, CLAIMS);
    const [header = "", payload = "", signature = ""] = good.split(".");
    const public_pem = createPublicKey({ key: RSA.jwk, format: "jwk" }).export({ type: "spki", format: "pem" });
    const hmac = (text: string) => {
      const signed = `${part({ alg: "HS256", kid: "rsa" })}.${payload}`;
      return `${signed}.${createHmac("sha256", text).update(signed).digest("base64url")}`;
    };
    const der = sign("sha256", Buffer.from(`${header}.${payload}`), EC.private_key);
    const bytes = Buffer.from(signature, "base64url");
    const half = (from: number) =>
      Buffer.concat([bytes.subarray(0, from), Buffer.alloc(32), bytes.subarray(from + 32)]);
    const nul = P1363(EC, `${part('{"alg":"ES256","kid":"ec"}')}.${part("null")}`);
    const refused: Readonly<Record<string, string>> = {
      "alg none": `${part({ alg: "none" })}.${payload}.`,
      "alg none, signed": `${part({ alg: "none" })}.${payload}.${signature}`,
      "alg None": P1363(EC, `${part({ alg: "None", kid: "ec" })}.${payload}`),
      "no alg": P1363(EC, `${part({ kid: "ec" })}.${payload}`),
      "alg of the prototype": P1363(EC, `${part({ alg: "constructor", kid: "ec" })}.${payload}`),
      "HS256 with the public key": hmac(String(public_pem)),
      "HS256 with the JWK": hmac(JSON.stringify(RSA.jwk)),
      "no signature": `${header}.${payload}.`,
      "two parts": `${header}.${payload}`,
      "four parts": `${good}.${signature}`,
      "a JWE": `${header}.${payload}.${signature}.${payload}.${signature}`,
      "another spelling of the signature": `${good.slice(0, -1)}${String.fromCharCode(good.charCodeAt(good.length - 1) + 1)}`,
      padding: `${good}=`,
      "plain base64": good.replaceAll("-", "+").replaceAll("_", "/").concat("+"),
      "white space": ` ${good}`,
      "a payload that is no object": nul,
      "a list as payload": P1363(EC, `${header}.${part("[]")}`),
      "no JSON": P1363(EC, `${header}.${part("{")}`),
      "a byte order mark": P1363(EC, `${header}.${part("\ufeff{}")}`),
      "no UTF-8": P1363(
        EC,
        `${header}.${Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]).toString("base64url")}`,
      ),
      "an alg that comes twice": P1363(EC, `${part('{"alg":"none","alg":"ES256","kid":"ec"}')}.${payload}`),
      "a claim that comes twice": P1363(EC, `${header}.${part('{"sub":"app","iss":"app","sub":"other"}')}`),
      "a claim that comes twice, escaped": P1363(EC, `${header}.${part('{"sub":"app","s\\u0075b":"other"}')}`),
      "a nested name that comes twice": P1363(EC, `${header}.${part('{"sub":"app","x":[{"a":1,"a":2}]}')}`),
      "too many bytes": makeJwt(EC, { ...CLAIMS, x: "x".repeat(8_192) }),
      "a kid that is no text": makeJwt(EC, CLAIMS, { kid: 1 }),
      "a kid that is too long": makeJwt(EC, CLAIMS, { kid: "k".repeat(257) }),
      "a logout token's typ": makeJwt(EC, CLAIMS, { typ: "logout+jwt" }),
    };
    for (const [why, token] of Object.entries(refused)) assert.equal(judge(token), "malformed", why);
    for (const name of ["crit", "b64", "jku", "x5u", "x5c", "jwk", "zip", "enc", "cty"]) {
      for (const value of [["exp"], false, "https://evil.test/jwks", EC.jwk])
        assert.equal(judge(makeJwt(EC, CLAIMS, { [name]: value })), "malformed", name);
    }
    const wrong: Readonly<Record<string, string>> = {
      "a DER signature": `${header}.${payload}.${der.toString("base64url")}`,
      "r of zero": `${header}.${payload}.${half(0).toString("base64url")}`,
      "s of zero": `${header}.${payload}.${half(32).toString("base64url")}`,
      "r and s of zero": `${header}.${payload}.${Buffer.alloc(64).toString("base64url")}`,
      "r and s of the order": `${header}.${payload}.${Buffer.from("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551".repeat(2), "hex").toString("base64url")}`,
      "trailing bytes": `${header}.${payload}.${Buffer.concat([bytes, Buffer.alloc(3)]).toString("base64url")}`,
      "a byte less": `${header}.${payload}.${bytes.subarray(0, 63).toString("base64url")}`,
      "another payload": `${header}.${part({ ...CLAIMS, scope: "admin" })}.${signature}`,
      "another key under its kid": makeJwt(makeKey("ES256", "ec"), CLAIMS),
    };
    for (const [why, token] of Object.entries(wrong)) assert.equal(judge(token), "wrong", why);
    for (const kid of ["../../ec", "/etc/passwd", "ec' or '1'='1", "", "EC", "ec\u0000", "__proto__"])
      assert.equal(judge(makeJwt(EC, CLAIMS, { kid })), "unknown_key", kid);
    assert.equal(judge(makeJwt(EC, CLAIMS, { kid: "rsa" })), "unknown_key", "a key of another algorithm");
    const rsa = makeJwt(RSA, CLAIMS);
    const longer = Buffer.concat([Buffer.alloc(1), Buffer.from(rsa.split(".")[2] ?? "", "base64url")]);
    assert.equal(judge(`${rsa.split(".").slice(0, 2).join(".")}.${longer.toString("base64url")}`), "wrong");
  });

  it("is read for what JSON says, whatever its strings hold", () => {
    fc.assert(
      fc.property(fc.object({ maxDepth: 3, withBigInt: false }), (claims) => {
        const json = JSON.stringify(claims);
        const decoded = decodeJws(makeJwt(EC, json));
        if (json.length < 4_096) assert.deepEqual(decoded?.claims, JSON.parse(json));
      }),
      { numRuns: 200 },
    );
  });
});

describe("a set of keys", () => {
  it("gives those that may verify, and no private, weak, slow or foreign one", () => {
    const rsaOf = (bits: number) => ({ kty: "RSA", e: "AQAB", n: Buffer.alloc(bits / 8, 0xff).toString("base64url") });
    const p384 = generateKeyPairSync("ec", { namedCurve: "P-384" }).publicKey.export({ format: "jwk" });
    const x25519 = generateKeyPairSync("x25519").publicKey.export({ format: "jwk" });
    const useless = [
      rsaOf(1_024),
      rsaOf(4_104),
      { ...RSA.jwk, e: Buffer.concat([Buffer.from([1]), Buffer.alloc(31), Buffer.from([1])]).toString("base64url") },
      p384,
      x25519,
      { kty: "oct", k: "AAAA", kid: "oct" },
      { ...EC.jwk, use: "enc" },
      { ...EC.jwk, x: EC.jwk["y"] },
      { ...EC.jwk, kid: 1 },
      { ...EC.jwk, kty: "__proto__" },
      {},
      null,
      "key",
      [],
    ];
    assert.deepEqual(readJwks({ keys: useless }), []);
    assert.equal(readJwks({ keys: [rsaOf(2_048), rsaOf(4_096)] }).length, 2);
    for (const no_set of [undefined, null, [], "x", {}, { keys: {} }, { keys: "x" }])
      assert.deepEqual(readJwks(no_set), []);
    const with_private = { ...EC.private_key.export({ format: "jwk" }), kid: "ec" };
    assert.equal(readJwks({ keys: [with_private] })[0]?.key.type, "public");
    assert.equal(readJwks({ keys: Array.from({ length: 40 }, () => EC.jwk) }).length, 16);
    assert.deepEqual(readJwks({ keys: [{ ...RSA.jwk, alg: "PS256" }] })[0]?.algorithms, []);
  });
});
