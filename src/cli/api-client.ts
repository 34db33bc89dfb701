import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Env, isDev, readVariable } from "../config/index.ts";
import { apiEndpoints, type ApiEndpoints, type ApiOperation } from "../contracts/api.ts";
import type { ApiEndpoint } from "../contracts/api-access.ts";
import { PAGE_LIMIT_MAX } from "../contracts/api-fields.ts";
import type { ResponseOf } from "../contracts/endpoint.ts";
import { isObject } from "../contracts/members.ts";
import { type Quickstart, QUICKSTART_FILE } from "../demo/quickstart.ts";
import { isUuid } from "../kernel/ids.ts";
import { UsageFault } from "../kernel/problem.ts";
import { CommandFault, EXIT, type ExitCode } from "./exit-codes.ts";
import { clean, type Item } from "./show.ts";

/** What every command over the API takes. */
export type ConnectionOptions = { readonly apiUrl?: string; readonly tokenFile?: string };

type Connection = {
  readonly url: string;
  readonly token: string;
  /** The zone of the running instance on this machine, where the address came from there. */
  readonly zone_id?: string;
};

/** What goes into one call, in the contract's words. `if_match`: the revision that was seen. */
export type CallParts = {
  readonly params?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: Readonly<Record<string, unknown>>;
  readonly if_match?: number | string | undefined;
  readonly idempotency_key?: string | undefined;
};

/** The control plane's endpoints by their names. Rejects with a `CommandFault` that holds no token. */
export type ApiClient = {
  readonly zone_id: string | undefined;
  call<N extends ApiOperation>(operation: N, parts?: CallParts): Promise<ResponseOf<ApiEndpoints[N]>>;
  /** The items of a list, page after page; `most` in all. */
  pages(operation: ApiOperation, parts?: CallParts, most?: number): AsyncIterable<readonly Item[]>;
  /** Every item of a list. */
  all(operation: ApiOperation, parts?: CallParts): Promise<readonly Item[]>;
};

/** A compile waits for its turn and takes 5 s; nothing takes longer than a minute. */
const TIMEOUT_MS = 60_000;
const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);

const readQuickstart = (env: Env): Quickstart | undefined => {
  try {
    const file = join(env["CARACAL_DATA_DIR"] || ".caracal", QUICKSTART_FILE);
    return JSON.parse(readFileSync(file, "utf8")) as Quickstart;
  } catch {
    return undefined; // nothing runs from that folder
  }
};

/** A token that was read from a file, without the last line feed. Rejects what no header can hold. */
const readToken = (file: string): string => {
  try {
    return readFileSync(file, "utf8").replace(/\r?\n$/, "");
  } catch (cause) {
    const why = cause instanceof Error && "code" in cause ? String(cause.code) : "unreadable";
    throw new UsageFault(`--token-file: ${file} can't be read (${why})`);
  }
};

const requireSafe = (env: Env, url: string): void => {
  const { protocol, hostname } = new URL(url);
  // Whoever stands between would read the token.
  if (protocol === "http:" && !LOOPBACK.has(hostname) && !isDev(env)) {
    throw new UsageFault(
      `${url} is no https address; a token goes over http to this machine alone (or with CARACAL_ENV=dev)`,
    );
  }
};

/** Address and token: named both, or both of the instance that runs from CARACAL_DATA_DIR. Never one of each. */
const connectionOf = (env: Env, options: ConnectionOptions): Connection => {
  const url = readVariable({ CARACAL_API_URL: options.apiUrl ?? env["CARACAL_API_URL"] }, "CARACAL_API_URL");
  const token =
    options.tokenFile === undefined ? readVariable(env, "CARACAL_ADMIN_TOKEN") : readToken(options.tokenFile);
  if (url === undefined && token === undefined) {
    const running = readQuickstart(env);
    if (running === undefined) {
      throw new UsageFault(
        "no address and no token: set CARACAL_API_URL and CARACAL_ADMIN_TOKEN_FILE (or --api-url and --token-file), or start an instance in CARACAL_DATA_DIR",
      );
    }
    return { url: running.api_url, token: running.admin_token, zone_id: running.zone_id };
  }
  if (url === undefined) throw new UsageFault("CARACAL_API_URL: is missing; set it or --api-url to where the API is");
  if (token === undefined) {
    throw new UsageFault(
      "CARACAL_ADMIN_TOKEN: is missing; set CARACAL_ADMIN_TOKEN_FILE or --token-file to a file with the token",
    );
  }
  if (!/^[\x21-\x7e]{1,512}$/.test(token))
    throw new UsageFault("the admin token is no line of 1 to 512 visible ASCII characters");
  requireSafe(env, url);
  return { url, token };
};

const exitCodeOf = (status: number): ExitCode => {
  if (status === 404) return EXIT.not_found;
  if (status === 409 || status === 412) return EXIT.conflict;
  return status === 429 || status >= 500 ? EXIT.unavailable : EXIT.refused;
};

/** The lines of a refusal: what it says, what is wrong with each field, what stands in the way, and where to look it up. */
const linesOf = (status: number, body: unknown): readonly string[] => {
  if (!isObject(body) || typeof body["message"] !== "string") {
    return [`the answer ${status} is none of the control plane's; check --api-url`];
  }
  const issues = Array.isArray(body["issues"]) ? body["issues"].filter(isObject) : [];
  const diagnostics = Array.isArray(body["diagnostics"]) ? body["diagnostics"] : [];
  const placeOf = ({ path, row, col }: Item): string => {
    const at = row === undefined ? "" : ` (row ${String(row)}, column ${String(col)})`;
    return path === "" ? `the body${at}` : `${String(path)}${at}`;
  };
  return [
    body["message"],
    ...issues.map((issue) => `  ${placeOf(issue)}: ${String(issue["message"])}`),
    ...diagnostics.map((one) => `  ${JSON.stringify(one)}`),
    `  request ${String(body["requestId"])}`,
  ].map(clean);
};

const jsonOf = (text: string): unknown => {
  try {
    return text === "" ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** A client of the API's endpoints. Connects with the first call. */
export const createApiClient = (env: Env, options: ConnectionOptions): ApiClient => {
  const { url, token, zone_id } = connectionOf(env, options);

  const call = async (operation: ApiOperation, parts: CallParts = {}): Promise<unknown> => {
    const endpoint: ApiEndpoint = apiEndpoints[operation];
    const path = endpoint.path.replace(/\{([a-z_]+)\}/g, (_, name: string) =>
      encodeURIComponent(parts.params?.[name] ?? ""),
    );
    const query = new URLSearchParams(parts.query).toString();
    const answer = await fetch(`${url}${path}${query === "" ? "" : `?${query}`}`, {
      method: endpoint.method,
      headers: {
        authorization: `Bearer ${token}`,
        accept: "application/json",
        ...(endpoint.body === undefined ? {} : { "content-type": "application/json" }),
        ...(parts.if_match === undefined ? {} : { "if-match": `"${parts.if_match}"` }),
        ...(parts.idempotency_key === undefined ? {} : { "idempotency-key": parts.idempotency_key }),
      },
      ...(endpoint.body === undefined ? {} : { body: JSON.stringify(parts.body ?? {}) }),
      redirect: "manual", // or the token would follow wherever somebody points
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
      .then(async (response) => ({ status: response.status, body: jsonOf(await response.text()) }))
      .catch((cause: unknown) => {
        const reason = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause;
        const why = reason instanceof Error && "code" in reason ? String(reason.code) : "no answer";
        throw new CommandFault(
          EXIT.unavailable,
          `${url} can't be reached (${why}); check the address and that the API runs`,
        );
      });
    if (answer.status === endpoint.status) return answer.body;
    throw new CommandFault(exitCodeOf(answer.status), ...linesOf(answer.status, answer.body));
  };

  const pages = async function* (
    operation: ApiOperation,
    parts: CallParts = {},
    most = Infinity,
  ): AsyncIterable<readonly Item[]> {
    const paged = Object.hasOwn(
      (apiEndpoints[operation] as { query: { entries?: object } }).query.entries ?? {},
      "cursor",
    );
    let left = most;
    for (let cursor: string | undefined; left > 0;) {
      const page = paged
        ? { limit: String(Math.min(left, PAGE_LIMIT_MAX)), ...(cursor === undefined ? {} : { cursor }) }
        : {};
      const body = (await call(operation, { ...parts, query: { ...parts.query, ...page } })) as {
        readonly items: readonly Item[];
        readonly next_cursor?: string;
      };
      yield body.items;
      left -= body.items.length;
      cursor = body.next_cursor;
      if (cursor === undefined) return;
    }
  };

  return {
    zone_id,
    call: call as ApiClient["call"],
    pages,
    async all(operation, parts) {
      const items: Item[] = [];
      for await (const page of pages(operation, parts)) items.push(...page);
      return items;
    },
  };
};

/** The zone that is meant: by id, by slug, else that of the running instance, else the only one that the token sees. */
export const zoneOf = async (client: ApiClient, named: string | undefined): Promise<string> => {
  if (named !== undefined) {
    if (isUuid(named)) return named;
    const [zone] = await client.all("listZones", { query: { slug: named } });
    if (zone === undefined)
      throw new CommandFault(EXIT.not_found, `--zone: this token sees no zone ${JSON.stringify(named.slice(0, 80))}`);
    return String(zone["id"]);
  }
  if (client.zone_id !== undefined) return client.zone_id;
  const { items } = await client.call("listZones", { query: { limit: "2" } });
  const [only] = items;
  if (only === undefined || items.length > 1)
    throw new UsageFault("--zone: is missing; this token sees more than one zone, or none");
  return only.id;
};
