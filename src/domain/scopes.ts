/** RFC 6749, 3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ). */
const SCOPE_TOKEN = /^[\x21\x23-\x5b\x5d-\x7e]{1,256}$/;
export const MAX_SCOPES = 256;
/** With those that come again, and the gaps between two. */
const MAX_PARTS = 4 * MAX_SCOPES;

export const isScope = (text: string): boolean => SCOPE_TOKEN.test(text);

const readScope = (text: string): readonly string[] | undefined => {
  const parts = text.split(" ", MAX_PARTS + 1); // who is nobody yet may send 64 KiB of them
  if (parts.length > MAX_PARTS) return undefined;
  const scopes = [...new Set(parts.filter((part) => part !== ""))];
  return scopes.length <= MAX_SCOPES && scopes.every(isScope) ? scopes : undefined;
};

/** Lists that were read, by their text: tokens carry the same few over and over. When they are many, they begin anew. */
const MAX_READ = 1_024;
const MAX_READ_CHARS = 512;
const read = new Map<string, readonly string[]>();

/** The scopes of a space-separated list, each once; undefined where one is malformed or there are too many. Frozen. */
export const parseScope = (text: string): readonly string[] | undefined => {
  const known = read.get(text);
  if (known !== undefined) return known;
  const scopes = readScope(text);
  if (scopes === undefined) return undefined;
  Object.freeze(scopes);
  if (text.length > MAX_READ_CHARS) return scopes;
  if (read.size >= MAX_READ) read.clear();
  read.set(text, scopes);
  return scopes;
};

/** Scopes that say what an application may do with other agents, and not with a resource. */
export const isPlatformScope = (scope: string): boolean => scope.startsWith("coordinator.");

export const formatScope = (scopes: readonly string[]): string => scopes.join(" ");

/** Those of `wanted` that every list of `limits` has, in the order of `wanted`; `wanted` itself where that is all of them. */
export const intersect = (wanted: readonly string[], ...limits: readonly (readonly string[])[]): readonly string[] => {
  const has = (scope: string): boolean => limits.every((limit) => limit.includes(scope));
  return wanted.every(has) ? wanted : wanted.filter(has);
};

export const isSubset = (inner: readonly string[], outer: readonly string[]): boolean =>
  inner.every((scope) => outer.includes(scope));
