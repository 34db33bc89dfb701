import type { Jws } from "./jws.ts";
import { LEEWAY_S } from "./token.ts";

/** RFC 7523, 2.2. */
export const JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/** How far ahead a client's own assertion may end. */
const ASSERTION_TTL_MAX_S = 300;
const MAX_JTI_CHARS = 512;

type Unverified = Readonly<Record<string, unknown>>;

/** RFC 7519, 2: a number of seconds, whole or not, that a clock can show. */
const isDate = (value: unknown): value is number =>
  typeof value === "number" && value >= 0 && value <= Number.MAX_SAFE_INTEGER / 1_000;

const timeFault = ({ exp, nbf, iat }: Unverified, now_s: number): string | undefined => {
  if (!isDate(exp)) return "exp is missing or no date";
  if (exp + LEEWAY_S <= now_s) return `exp was ${Math.floor(now_s - exp)} s ago`;
  for (const [name, at] of [
    ["nbf", nbf],
    ["iat", iat],
  ] as const) {
    if (at === undefined) continue;
    if (!isDate(at)) return `${name} is no date`;
    if (at > now_s + LEEWAY_S) return `${name} is ${Math.ceil(at - now_s)} s ahead`;
  }
  return undefined;
};

const audiencesOf = (aud: unknown): readonly string[] => {
  const all: readonly unknown[] = Array.isArray(aud) ? aud : [aud];
  return all.every((one) => typeof one === "string") ? all : [];
};

/** What of a client's own assertion makes it good for one use: seconds since the epoch. */
export type SingleUse = { readonly jti: string; readonly issued_s: number; readonly expires_s: number };

/**
 * RFC 7523, 3: `iss` and `sub` are the client, every `aud` is this server (one that is meant for others too could be played
 * here by them), `exp` is near, `jti` is there. What is wrong, or what must not be used again.
 */
export const readClientAssertion = (
  { typ, claims }: Pick<Jws, "typ" | "claims">,
  expected: { readonly client_id: string; readonly audiences: readonly string[]; readonly now_ms: number },
): string | SingleUse => {
  const now_s = expected.now_ms / 1_000;
  if (typ === "at+jwt") return "an access token is no assertion of the client's own";
  if (claims["iss"] !== expected.client_id || claims["sub"] !== expected.client_id)
    return "iss and sub are not the client";
  const audiences = audiencesOf(claims["aud"]);
  if (audiences.length === 0 || !audiences.every((one) => expected.audiences.includes(one)))
    return `aud is not ${expected.audiences[0]}`;
  const fault = timeFault(claims, now_s);
  if (fault !== undefined) return fault;
  const { exp, iat, jti } = claims as { exp: number; iat?: number; jti?: unknown };
  if (exp > now_s + ASSERTION_TTL_MAX_S + LEEWAY_S) return `exp is more than ${ASSERTION_TTL_MAX_S} s ahead`;
  if (typeof jti !== "string" || jti === "" || jti.length > MAX_JTI_CHARS) return "jti is missing or malformed";
  // Without `iat` it counts as old: where marks were lost, it is refused rather than taken twice.
  return { jti, issued_s: Math.min(iat ?? exp - ASSERTION_TTL_MAX_S, now_s), expires_s: exp };
};

/** What an application says of its workload's tokens. A value that ends in `*` is the beginning of the claim's. */
export type WorkloadRule = {
  readonly issuer_url: string;
  readonly audience: string;
  readonly claims: Readonly<Record<string, string>>;
};

const matches = (claim: unknown, wanted: string): boolean => {
  const said = typeof claim === "boolean" ? String(claim) : claim;
  if (typeof said !== "string") return false;
  // A lone `*` would be every workload of the issuer: it is a text like any other.
  return wanted.length > 1 && wanted.endsWith("*") ? said.startsWith(wanted.slice(0, -1)) : said === wanted;
};

/** Why a workload's token is not this application's; undefined where it is. Its signature is asked for apart. */
export const workloadFault = (claims: Unverified, rule: WorkloadRule, now_ms: number): string | undefined => {
  if (claims["iss"] !== rule.issuer_url) return `iss is not ${rule.issuer_url}`;
  if (!audiencesOf(claims["aud"]).includes(rule.audience)) return `aud is not ${rule.audience}`;
  const fault = timeFault(claims, now_ms / 1_000);
  if (fault !== undefined) return fault;
  const other = Object.entries(rule.claims).find(
    ([name, wanted]) => !Object.hasOwn(claims, name) || !matches(claims[name], wanted),
  );
  return other === undefined ? undefined : `${other[0]} is not ${other[1]}`;
};
