import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";

/** Tokens as strangers make them: right ones, and any wrong one. */

export type TestKey = {
  readonly alg: "ES256" | "RS256" | "EdDSA";
  readonly kid: string;
  readonly private_key: KeyObject;
  /** Public members, with `kid`, `alg` and `use`. */
  readonly jwk: Readonly<Record<string, unknown>>;
};

const PAIRS = {
  ES256: () => generateKeyPairSync("ec", { namedCurve: "P-256" }),
  RS256: () => generateKeyPairSync("rsa", { modulusLength: 2_048 }),
  EdDSA: () => generateKeyPairSync("ed25519"),
} as const;

export const makeKey = (alg: TestKey["alg"], kid: string): TestKey => {
  const { publicKey, privateKey } = PAIRS[alg]();
  return { alg, kid, private_key: privateKey, jwk: { ...publicKey.export({ format: "jwk" }), kid, alg, use: "sig" } };
};

/** JSON text, or what is to be JSON, as a part of a token. */
export const part = (value: object | string): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

export const signatureOf = ({ alg, private_key }: Pick<TestKey, "alg" | "private_key">, signed: string): Buffer => {
  if (alg === "EdDSA") return sign(null, Buffer.from(signed), private_key);
  return sign("sha256", Buffer.from(signed), { key: private_key, dsaEncoding: "ieee-p1363" });
};

/** A token of these claims; `header` beside `alg` and `kid`. */
export const makeJwt = (
  key: TestKey,
  claims: object | string,
  header: Readonly<Record<string, unknown>> = {},
): string => {
  const signed = `${part({ alg: key.alg, kid: key.kid, ...header })}.${part(claims)}`;
  return `${signed}.${signatureOf(key, signed).toString("base64url")}`;
};
