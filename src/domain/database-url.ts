/** The TLS modes of a database URL that we have (libpq's `sslmode`). */
const SSL_MODES = ["disable", "require", "verify-ca", "verify-full"] as const;
export type SslMode = (typeof SSL_MODES)[number];

/**
 * How a database URL asks for TLS, by its query. `require` encrypts and believes any certificate; `verify-ca` verifies the
 * chain; `verify-full` the name, too. No `sslmode` is `disable`. undefined: a mode that we don't have.
 */
export const sslModeOf = (query: URLSearchParams): SslMode | undefined => {
  const asked = query.get("sslmode") ?? "disable";
  return SSL_MODES.find((mode) => mode === asked);
};

/** What is wrong with a database URL that must be encrypted; undefined where it is. `url`: one that parses. */
export const unencryptedFault = (url: string): string | undefined => {
  const mode = sslModeOf(new URL(url).searchParams);
  if (mode !== undefined && mode !== "disable") return undefined;
  return "has no sslmode=require, verify-ca or verify-full; add ?sslmode=verify-full";
};
