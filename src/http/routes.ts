import type { IncomingMessage, ServerResponse } from "node:http";
import { getRequestListener, RequestError } from "@hono/node-server";
import { type Context, Hono } from "hono";
import * as v from "valibot";
import type { BodyOf, Endpoint, ParamsOf, QueryOf, ResponseOf } from "../contracts/endpoint.ts";
import type { Cancellation } from "../kernel/cancel.ts";
import type { Log } from "../kernel/log.ts";
import { type Issue, Problem } from "../kernel/problem.ts";
import { parseJson } from "./json.ts";
import { problemBody, problemHeaders, toProblem } from "./problem.ts";
import { requestIdOf } from "./request-id.ts";

/** What is known of a request before anything of it is read: enough to tell who calls and what for. */
export type Arrival = {
  readonly request_id: string;
  readonly authorization: string | undefined;
  /** As they stand in the path, decoded and not checked. */
  readonly params: Readonly<Record<string, string>>;
};

/** A call whose every part has been checked against the endpoint's contract. */
export type Call<E extends Endpoint, C> = {
  readonly params: ParamsOf<E>;
  readonly query: QueryOf<E>;
  readonly body: BodyOf<E>;
  readonly caller: C;
  /** Aborts when the client is gone; absent for a caller within the process. */
  readonly signal?: Cancellation;
  /** The entity tags of `If-Match` (RFC 9110, 13.1.1), quotes included; undefined: any will do. */
  readonly if_match?: readonly string[] | undefined;
};

/** One verb for each endpoint: none is missing, none is answered in another shape than the contract's. */
export type Handlers<T extends Readonly<Record<string, Endpoint>>, C> = {
  readonly [K in keyof T]: (call: Call<T[K], C>) => Promise<ResponseOf<T[K]>>;
};

export type Asked = {
  readonly params: object;
  readonly body: object | undefined;
  readonly idempotency_key: string | undefined;
};

export type RouterOptions<T extends Readonly<Record<string, Endpoint>>, C> = {
  readonly endpoints: T;
  readonly handlers: Handlers<T, C>;
  /** Who calls, and whether they may; throws a `Problem`. Runs before the query and the body are looked at. */
  readonly admit: (arrival: Arrival, endpoint: T[keyof T]) => Promise<C>;
  /** The caller of a call whose every part has been checked; `idempotency_key`: the header, as it came. */
  readonly refine?: (caller: C, endpoint: T[keyof T], asked: Asked) => C;
  /** Documents that anybody may read, by path, as JSON text; made when they are first asked for. */
  readonly documents?: Readonly<Record<string, () => string>>;
  readonly max_body_bytes: number;
  readonly log: Log;
  /** Called with each answer's status, for the metrics. */
  readonly onAnswer?: (status: number) => void;
};

const MAX_ISSUES = 32;
const MAX_PATH_CHARACTERS = 128;

/**
 * What is wrong, and what to do. What was sent is never repeated: it may be a secret in the wrong field.
 * Validations of ours bring their own words; valibot's for a wrong type or field name the input.
 */
const messageOf = (issue: v.BaseIssue<unknown>): string => {
  if (issue.kind !== "schema") return issue.message;
  if (issue.type === "strict_object" && issue.expected === "never") return "is not a field of this request; remove it";
  if (issue.input === undefined) return "is required";
  if (issue.type === "picklist")
    return `must be one of ${(issue.expected ?? "").replace(/^\(|\)$/g, "").replaceAll(" | ", ", ")}`;
  return `must be of type ${(issue.expected ?? "another").toLowerCase()}`;
};

const issuesOf = (issues: readonly v.BaseIssue<unknown>[]): readonly Issue[] =>
  issues.slice(0, MAX_ISSUES).map((issue) => ({
    path: (v.getDotPath(issue) ?? "").slice(0, MAX_PATH_CHARACTERS),
    message: messageOf(issue),
  }));

const parse = (
  schema: v.GenericSchema<unknown, object>,
  input: unknown,
  refuse: (issues: readonly Issue[]) => Problem,
): object => {
  const parsed = v.safeParse(schema, input);
  if (!parsed.success) throw refuse(issuesOf(parsed.issues));
  return parsed.output;
};

const invalidBody = (issues: readonly Issue[]): Problem =>
  new Problem(400, "invalid_body", "The request's body is not what this operation takes; see issues.", { issues });
const invalidQuery = (issues: readonly Issue[]): Problem =>
  new Problem(400, "invalid_query", "The request's query is not what this operation takes; see issues.", { issues });
/** A name that can't exist is answered like one that does not: what the id of a thing looks like is no field to correct. */
const notFound = (): Problem => new Problem(404, "not_found", "There is nothing at this path.");

const queryOf = (schema: v.GenericSchema<unknown, object>, url: string): object => {
  const fields = Object.create(null) as Record<string, string>;
  for (const [name, value] of new URL(url).searchParams) {
    const path = name.slice(0, MAX_PATH_CHARACTERS);
    if (Object.hasOwn(fields, name)) throw invalidQuery([{ path, message: "is given more than once" }]);
    fields[name] = value;
  }
  return parse(schema, fields, invalidQuery);
};

const tooLarge = (max_bytes: number): Problem =>
  new Problem(413, "request_too_large", `The request's body has more than the ${max_bytes} bytes that are allowed.`);

/** A body that has not come whole by then is given up: a client that sends a byte a minute holds nothing open. */
const BODY_TIMEOUT_MS = 10_000;

const readBytes = async (request: Request, max_bytes: number): Promise<Uint8Array> => {
  if (Number(request.headers.get("content-length") ?? 0) > max_bytes) throw tooLarge(max_bytes);
  if (request.body === null) return new Uint8Array();
  const chunks: Uint8Array[] = [];
  let size = 0;
  const reader = request.body.getReader();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const problem = new Problem(408, "request_timeout", "The request's body took too long to arrive.");
    timer = setTimeout(() => reject(problem), BODY_TIMEOUT_MS);
  });
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), late]);
      if (done) return Buffer.concat(chunks, size);
      size += value.byteLength;
      if (size > max_bytes) throw tooLarge(max_bytes);
      chunks.push(value);
    }
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(400, "incomplete_request", "The request's body broke off.", { cause: error });
  } finally {
    clearTimeout(timer);
    reader.releaseLock();
  }
};

const IS_JSON = /^application\/json\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?$/i;

const bodyOf = async (endpoint: Endpoint, request: Request, max_bytes: number): Promise<object | undefined> => {
  if (request.method === "GET" || request.method === "HEAD") return undefined;
  const bytes = await readBytes(request, max_bytes);
  if (bytes.byteLength === 0 && endpoint.body === undefined) return undefined;
  if (bytes.byteLength === 0) throw invalidBody([{ path: "", message: "is required: a JSON object" }]);
  if (!IS_JSON.test(request.headers.get("content-type") ?? "")) {
    throw new Problem(415, "unsupported_media_type", "Send the body as application/json in UTF-8.");
  }
  if ((request.headers.get("content-encoding") ?? "identity").toLowerCase() !== "identity") {
    throw new Problem(415, "unsupported_media_type", "Send the body without a content encoding.");
  }
  const value = parseJson(bytes);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalidBody([{ path: "", message: "must be a JSON object" }]);
  }
  // where no body is taken an empty object is none, and a field is one that would be ignored
  return parse(endpoint.body ?? v.strictObject({}), value, invalidBody);
};

const answerJson = (status: number, headers: Readonly<Record<string, string>>, body: object): Response =>
  new Response(JSON.stringify(body), {
    status,
    headers: { ...headers, "content-type": "application/json; charset=utf-8" },
  });

const problemResponse = (problem: Problem, request_id: string): Response =>
  answerJson(
    problem.status,
    { ...problemHeaders(problem), "x-request-id": request_id },
    problemBody(problem, request_id),
  );

/** Weak tags never match (RFC 9110, 13.1.1), so they are kept as they are. */
const ifMatchOf = (header: string | undefined): readonly string[] | undefined =>
  header === undefined || header.trim() === "*" ? undefined : header.split(",").map((tag) => tag.trim());

/** What has a revision has it for its entity tag. */
const etagOf = (result: object): Record<string, string> =>
  "revision" in result && typeof result.revision === "number" ? { etag: `"${result.revision}"` } : {};

type AnyCall = {
  readonly if_match: readonly string[] | undefined;
  readonly params: object;
  readonly query: object;
  readonly body: object | undefined;
  readonly caller: unknown;
  readonly signal: Cancellation;
};

/**
 * Binds contracts to their verbs: `/v1/{thing}` → a route that admits the caller, checks params, query and body (in this
 * order, a body last and bounded), runs the verb, and gives its answer as JSON. Everything that is thrown becomes a
 * `Problem` in the general shape. Returns a listener for `node:http`.
 */
export const createRouter = <const T extends Readonly<Record<string, Endpoint>>, C>(
  options: RouterOptions<T, C>,
): ((request: IncomingMessage, response: ServerResponse) => void) => {
  const { log } = options;
  const app = new Hono();
  const methods = new Map<string, Set<string>>();

  const guarded = async (c: Context, run: (request_id: string) => Promise<Response>): Promise<Response> => {
    const request_id = requestIdOf(c.req.header("x-request-id"));
    let answer: Response;
    try {
      answer = await run(request_id);
    } catch (error) {
      answer = problemResponse(toProblem(error, log, request_id), request_id);
    }
    options.onAnswer?.(answer.status);
    return answer;
  };

  const bind = (name: keyof T & string, endpoint: T[keyof T]): void => {
    const path = endpoint.path.replace(/\{([a-z_]+)\}/g, ":$1");
    methods.set(path, (methods.get(path) ?? new Set()).add(endpoint.method));
    const handler = options.handlers[name] as unknown as (call: AnyCall) => Promise<object | undefined>;
    app.on(endpoint.method, path, (c) =>
      guarded(c, async (request_id) => {
        const raw_params = c.req.param() as Record<string, string>;
        const admitted = await options.admit(
          { request_id, authorization: c.req.header("authorization"), params: raw_params },
          endpoint,
        );
        const params = parse(endpoint.params, raw_params, notFound);
        const query = queryOf(endpoint.query, c.req.url);
        const body = await bodyOf(endpoint, c.req.raw, options.max_body_bytes);
        const idempotency_key = c.req.header("idempotency-key");
        const caller = options.refine?.(admitted, endpoint, { params, body, idempotency_key }) ?? admitted;
        const if_match = ifMatchOf(c.req.header("if-match"));
        const result = await handler({ params, query, body, caller, if_match, signal: c.req.raw.signal });
        const headers = { "cache-control": "no-store", "x-request-id": request_id }; // answers hold secrets and states
        return result === undefined
          ? new Response(null, { status: endpoint.status, headers })
          : answerJson(endpoint.status, { ...headers, ...etagOf(result) }, result);
      }),
    );
  };

  for (const [name, endpoint] of Object.entries(options.endpoints)) bind(name, endpoint as T[keyof T]);
  for (const [path, allowed] of methods) {
    const allow = [...allowed, ...(allowed.has("GET") ? ["HEAD"] : [])].join(", ");
    app.all(path, (c) =>
      guarded(c, async (request_id) => {
        const answer = problemResponse(new Problem(405, "method_not_allowed", `This path takes ${allow}.`), request_id);
        answer.headers.set("allow", allow);
        return answer;
      }),
    );
  }
  for (const [path, textOf] of Object.entries(options.documents ?? {})) {
    app.get(path, (c) =>
      guarded(c, async (request_id) => {
        const headers = { "content-type": "application/json; charset=utf-8", "x-request-id": request_id };
        return new Response(textOf(), { headers: { ...headers, "cache-control": "public, max-age=300" } });
      }),
    );
  }
  app.notFound((c) =>
    guarded(c, async () => {
      throw notFound();
    }),
  );
  app.onError((error, c) =>
    guarded(c, async () => {
      throw error;
    }),
  );

  const listener = getRequestListener(app.fetch, {
    overrideGlobalObjects: false, // the process has other users of them
    hostname: "localhost", // a client of HTTP/1.0 sends none
    errorHandler: (error) => {
      const request_id = requestIdOf(undefined);
      const problem =
        error instanceof RequestError
          ? new Problem(400, "invalid_request", "The request's target or Host header is not well-formed.")
          : toProblem(error, log, request_id);
      options.onAnswer?.(problem.status);
      return problemResponse(problem, request_id);
    },
  });
  return (request, response) => {
    void listener(request, response);
  };
};
