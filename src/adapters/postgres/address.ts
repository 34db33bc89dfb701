import { readFileSync } from "node:fs";
import type { ConnectionOptions } from "node:tls";
import { sslModeOf } from "../../domain/database-url.ts";
import { StartupFault } from "../../kernel/problem.ts";

/** What a database URL says. */
export type Address = {
  readonly host: string;
  readonly port: number;
  /** The unix socket, where the host is a folder. */
  readonly socket_path: string | undefined;
  readonly database: string;
  readonly user: string | undefined;
  readonly password: string | undefined;
  /** Undefined: no TLS. */
  readonly tls: ConnectionOptions | undefined;
  /** Settings for the server: `application_name`, `options`, … */
  readonly parameters: Readonly<Record<string, string>>;
};

const DEFAULT_PORT = 5432;
/** libpq's own parameters, which are nothing to the server, and which we have nothing for. */
const REFUSED: Readonly<Record<string, string>> = {
  channel_binding: "is not supported; take it out (sslmode=verify-full protects the connection)",
  target_session_attrs: "is not supported; name the primary's host",
  sslcrl: "is not supported",
  sslpassword: "is not supported; give a key file without a password",
};
const TLS_PARAMETERS: ReadonlySet<string> = new Set(["sslmode", "sslrootcert", "sslcert", "sslkey"]);

const fault = (what: string): StartupFault => new StartupFault(`the database URL: ${what}`);

const readPem = (name: string, file: string): Buffer => {
  try {
    return readFileSync(file);
  } catch (error) {
    throw fault(`${name}=${file} can't be read (${error instanceof Error ? error.message : "unreadable"})`);
  }
};

/**
 * As libpq has it: `require` encrypts and believes any certificate, unless it is told a root, which makes it `verify-ca`:
 * the chain is verified, the name is not; `verify-full` verifies both.
 */
const tlsOf = (query: URLSearchParams, host: string): ConnectionOptions | undefined => {
  const root = query.get("sslrootcert") ?? undefined;
  const mode = sslModeOf(query);
  if (mode === "disable") return undefined;
  if (mode === undefined) {
    throw fault(`sslmode=${query.get("sslmode")} is not one of disable, require, verify-ca, verify-full`);
  }
  const cert = query.get("sslcert");
  const key = query.get("sslkey");
  if ((cert === null) !== (key === null)) throw fault("sslcert and sslkey go together");
  const verified = mode !== "require" || root !== undefined;
  return {
    minVersion: "TLSv1.2",
    rejectUnauthorized: verified,
    // A name for SNI, never an address (RFC 6066, 3). The name to verify is given apart, and may be an address.
    ...(/^[\d.]+$|:/.test(host) ? {} : { servername: host }),
    ...(verified && mode !== "verify-full" ? { checkServerIdentity: () => undefined } : {}),
    // Without a root: Node's own, and those of NODE_EXTRA_CA_CERTS.
    ...(root === undefined || root === "system" ? {} : { ca: readPem("sslrootcert", root) }),
    ...(cert === null || key === null ? {} : { cert: readPem("sslcert", cert), key: readPem("sslkey", key) }),
  };
};

/** Reads `postgres://user:password@host:port/database?sslmode=…`. Throws a `StartupFault` that never holds the password. */
export const parseAddress = (url: string): Address => {
  if (!URL.canParse(url))
    throw fault("is not a URL; it looks like postgres://user:password@host:5432/database?sslmode=…");
  const parsed = new URL(url);
  if (parsed.protocol !== "postgres:" && parsed.protocol !== "postgresql:") {
    throw fault(`${parsed.protocol}// is not PostgreSQL; it begins with postgres://`);
  }
  const query = parsed.searchParams;
  const host = decodeURIComponent(query.get("host") ?? parsed.hostname).replace(/^\[(.*)\]$/, "$1") || "localhost";
  if (host.includes(",")) throw fault("names several hosts; name one (an address that follows the primary)");
  const port = Number(query.get("port") ?? (parsed.port || DEFAULT_PORT));
  for (const [name, what] of Object.entries(REFUSED)) if (query.has(name)) throw fault(`${name} ${what}`);
  const parameters = [...query].filter(([name]) => !TLS_PARAMETERS.has(name) && name !== "host" && name !== "port");
  const user = decodeURIComponent(parsed.username);
  const password = decodeURIComponent(parsed.password);
  return {
    host,
    port,
    socket_path: host.startsWith("/") ? `${host}/.s.PGSQL.${port}` : undefined,
    database: decodeURIComponent(parsed.pathname.slice(1)) || user || "postgres",
    user: user === "" ? undefined : user,
    password: password === "" ? undefined : password,
    tls: host.startsWith("/") ? undefined : tlsOf(query, host),
    parameters: Object.fromEntries(parameters.filter(([name]) => name !== "connect_timeout")),
  };
};
