/** RFC 6749, 3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ). */
const SCOPE_TOKEN = /^[\x21\x23-\x5b\x5d-\x7e]{1,256}$/;
export const MAX_SCOPES = 256;

export const isScope = (text: string): boolean => SCOPE_TOKEN.test(text);

/** The scopes of a space-separated list, each once; undefined where one is malformed or there are too many. */
export const parseScope = (text: string): readonly string[] | undefined => {
  const scopes = [...new Set(text.split(" ").filter((part) => part !== ""))];
  return scopes.length <= MAX_SCOPES && scopes.every(isScope) ? scopes : undefined;
};

export const formatScope = (scopes: readonly string[]): string => scopes.join(" ");

/** Those of `wanted` that every list of `limits` has, in the order of `wanted`. */
export const intersect = (wanted: readonly string[], ...limits: readonly (readonly string[])[]): readonly string[] =>
  wanted.filter((scope) => limits.every((limit) => limit.includes(scope)));

export const isSubset = (inner: readonly string[], outer: readonly string[]): boolean =>
  inner.every((scope) => outer.includes(scope));
