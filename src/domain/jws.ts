import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { requireP256, verifyEs256 } from "./es256.ts";

/** The longest assertion that is read, in bytes: workloads' tokens name groups and pods. */
const MAX_ASSERTION_BYTES = 8_192;
const MAX_KID_CHARS = 256;
/** Keys of one set that are looked at, and those that are tried where the header names none. */
const MAX_KEYS = 16;
const MAX_TRIES = 4;
/** Below 2048 bits a key is broken; above 4096, or with a large exponent, a verification is a way to spend our time. */
const RSA_BITS = { least: 2_048, most: 4_096 } as const;
const RSA_EXPONENT_MOST = 2n ** 32n;

/** Somebody else's token, whose form was checked, and nothing else: nothing in it is to be believed before `verifyJws`. */
export type Jws = {
  readonly alg: Algorithm;
  readonly kid: string | undefined;
  /** In lower case, without `application/`. */
  readonly typ: string | undefined;
  readonly claims: Readonly<Record<string, unknown>>;
  readonly signed: Buffer;
  readonly signature: Buffer;
};

/** A public key of a JWKS, and what it may verify. */
export type JwsKey = {
  readonly kid: string | undefined;
  readonly algorithms: readonly Algorithm[];
  readonly key: KeyObject;
};

type Verifies = (key: KeyObject, bytes: Buffer, signature: Buffer) => boolean;

const verifyEd25519: Verifies = (key, bytes, signature) =>
  signature.byteLength === 64 && verify(null, bytes, key, signature);

/** Each algorithm that is taken. A key is bound to its own: no HMAC with a public key, no `none` (RFC 8725, 3.1). */
const ALGORITHMS = {
  ES256: verifyEs256,
  RS256: (key, bytes, signature) =>
    signature.byteLength * 8 === key.asymmetricKeyDetails?.modulusLength && verify("sha256", bytes, key, signature),
  EdDSA: verifyEd25519,
  /** The same, by its name of RFC 9864. */
  Ed25519: verifyEd25519,
} as const satisfies Record<string, Verifies>;
export type Algorithm = keyof typeof ALGORITHMS;
export const ALGORITHM_NAMES = Object.keys(ALGORITHMS) as readonly Algorithm[];

const isAlgorithm = (value: unknown): value is Algorithm =>
  typeof value === "string" && Object.hasOwn(ALGORITHMS, value);

/** Members of a header that change what is signed, or say where the key is: the key comes from the registration alone. */
const REFUSED_MEMBERS = ["crit", "b64", "jku", "x5u", "x5c", "jwk", "zip", "enc", "cty"];
/** What a workload is given may be an access token, for us. Others, such as logout tokens, say nothing of who shows them. */
const TYP = /^(?:application\/)?(jwt|jose|at\+jwt|client-authentication\+jwt)$/;
const BASE64URL = /^[A-Za-z0-9_-]+$/;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** How many members the text writes: the colons outside of its strings. */
const membersWritten = (json: string): number => {
  let count = 0;
  let quoted = false;
  for (let at = 0; at < json.length; at += 1) {
    const char = json[at];
    if (char === '"') quoted = !quoted;
    else if (quoted && char === "\\") at += 1;
    else if (!quoted && char === ":") count += 1;
  }
  return count;
};

/** How many members a value has, on all levels. */
const membersRead = (value: unknown): number => {
  let count = 0;
  const left: unknown[] = [value];
  while (left.length > 0) {
    const one = left.pop();
    if (typeof one !== "object" || one === null) continue;
    if (!Array.isArray(one)) count += Object.keys(one).length;
    left.push(...Object.values(one));
  }
  return count;
};

/** A part of a token → the object. None where a name stands in it twice: two readers would take each another value. */
const readObject = (part: string): Record<string, unknown> | undefined => {
  const bytes = Buffer.from(part, "base64url");
  if (bytes.toString("base64url") !== part) return undefined; // one spelling only
  try {
    const json = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    const value: unknown = JSON.parse(json);
    return isObject(value) && membersRead(value) === membersWritten(json) ? value : undefined;
  } catch {
    return undefined;
  }
};

/** Compact JWS → its parts; undefined where its form is none of those that are taken. */
export const decodeJws = (token: string): Jws | undefined => {
  if (token.length > MAX_ASSERTION_BYTES) return undefined;
  const parts = token.split(".", 4);
  const [header_part, payload_part, signature_part] = parts;
  if (parts.length !== 3 || !parts.every((part) => BASE64URL.test(part))) return undefined;
  if (header_part === undefined || payload_part === undefined || signature_part === undefined) return undefined;
  const header = readObject(header_part);
  if (header === undefined || REFUSED_MEMBERS.some((name) => Object.hasOwn(header, name))) return undefined;
  const { alg, kid, typ } = header;
  if (!isAlgorithm(alg)) return undefined;
  if (kid !== undefined && (typeof kid !== "string" || kid.length > MAX_KID_CHARS)) return undefined;
  const type = typeof typ === "string" ? TYP.exec(typ.toLowerCase())?.[1] : undefined;
  if (typ !== undefined && type === undefined) return undefined;
  const claims = readObject(payload_part);
  const signature = Buffer.from(signature_part, "base64url");
  if (claims === undefined || signature.toString("base64url") !== signature_part) return undefined;
  return { alg, kid, typ: type, claims, signed: Buffer.from(`${header_part}.${payload_part}`, "latin1"), signature };
};

/** The public members of each kind of key, and the algorithms that it is for. Throws where it is no such key. */
const KINDS: Readonly<
  Record<
    string,
    {
      readonly members: readonly string[];
      readonly algorithms: readonly Algorithm[];
      readonly require: (key: KeyObject) => KeyObject;
    }
  >
> = {
  EC: { members: ["kty", "crv", "x", "y"], algorithms: ["ES256"], require: requireP256 },
  RSA: {
    members: ["kty", "n", "e"],
    algorithms: ["RS256"],
    require: (key) => {
      const { modulusLength: bits = 0, publicExponent = 0n } = key.asymmetricKeyDetails ?? {};
      if (bits < RSA_BITS.least || bits > RSA_BITS.most || bits % 8 !== 0 || publicExponent > RSA_EXPONENT_MOST)
        throw new Error("the key is too small, or too slow");
      return key;
    },
  },
  OKP: {
    members: ["kty", "crv", "x"],
    algorithms: ["EdDSA", "Ed25519"],
    require: (key) => {
      if (key.asymmetricKeyType !== "ed25519") throw new Error("the key is none for Ed25519");
      return key;
    },
  },
};

const readKey = (jwk: unknown): JwsKey | undefined => {
  if (!isObject(jwk) || typeof jwk["kty"] !== "string" || !Object.hasOwn(KINDS, jwk["kty"])) return undefined;
  const kind = KINDS[jwk["kty"]];
  const { kid, alg, use } = jwk;
  if (kind === undefined || (use !== undefined && use !== "sig")) return undefined;
  if (kid !== undefined && (typeof kid !== "string" || kid.length > MAX_KID_CHARS)) return undefined;
  const algorithms = alg === undefined ? kind.algorithms : kind.algorithms.filter((one) => one === alg);
  try {
    // Public members alone: what else it says is nobody's business here.
    const members = Object.fromEntries(kind.members.map((name) => [name, jwk[name]]));
    return { kid, algorithms, key: kind.require(createPublicKey({ key: members, format: "jwk" })) };
  } catch {
    return undefined;
  }
};

/** RFC 7517, 5: those keys of a set that may verify here; the others are no fault. */
export const readJwks = (jwks: unknown): readonly JwsKey[] => {
  const keys = isObject(jwks) && Array.isArray(jwks["keys"]) ? jwks["keys"].slice(0, MAX_KEYS) : [];
  return keys.map(readKey).filter((key) => key !== undefined);
};

/** `unknown_key`: none of these keys is the one that the token means; another set may have it. */
export type JwsVerdict = "verified" | "wrong" | "unknown_key";

/** A token without a `kid` is tried against few keys. */
export const verifyJws = ({ alg, kid, signed, signature }: Jws, keys: readonly JwsKey[]): JwsVerdict => {
  const fitting = keys.filter(
    (one) => one.algorithms.includes(alg) && (kid === undefined || one.kid === undefined || one.kid === kid),
  );
  if (fitting.slice(0, MAX_TRIES).some(({ key }) => ALGORITHMS[alg](key, signed, signature))) return "verified";
  return kid === undefined || fitting.length === 0 ? "unknown_key" : "wrong";
};
