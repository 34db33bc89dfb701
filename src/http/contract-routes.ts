import type { IncomingMessage, ServerResponse } from "node:http";
import * as v from "valibot";
import type { BodyOf, Endpoint, ParamsOf, QueryOf, ResponseOf } from "../contracts/endpoint.ts";
import { type Cancellation, Cancelling } from "../kernel/cancel.ts";
import { type Issue, Problem } from "../kernel/problem.ts";
import { mustBeJson, parseJson, wholeBody } from "./body.ts";
import { headerNamed } from "./headers.ts";
import { type Arrival, nothingHere, type Route } from "./router.ts";

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
  readonly if_match: readonly string[] | undefined;
};

export type ContractOptions<T extends Readonly<Record<string, Endpoint>>, C> = {
  readonly endpoints: T;
  readonly handlers: Handlers<T, C>;
  /** Who calls, and whether they may; throws a `Problem`. Runs before the query and the body are looked at. */
  readonly admit: (arrival: Arrival, endpoint: T[keyof T]) => Promise<C>;
  /** Resolves when the caller's request may be worked on, to what ends its turn; throws a `Problem`. Its body is not read before. */
  readonly turn?: (caller: C, signal: Cancellation) => Promise<() => void>;
  /** The caller of a call whose every part has been checked; throws a `Problem`. `idempotency_key`: the header, as it came. */
  readonly refine?: (caller: C, endpoint: T[keyof T], asked: Asked) => C;
  /** What makes the body of an operation's refusals, where it is not the general one. */
  readonly refusal?: (endpoint: T[keyof T]) => Route["refusal"];
  readonly max_body_bytes: number;
};

const MAX_ISSUES = 32;
const MAX_PATH_CHARACTERS = 128;

/**
 * What is wrong, and what to do. What was sent is never repeated: it may be a secret in the wrong field.
 * Validations of ours bring their own words; valibot's for a wrong type or field name the input.
 */
export const messageOf = (issue: v.BaseIssue<unknown>): string => {
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
  // What fails its first check (often its length) is not put through the others: they cost what the value weighs.
  const parsed = v.safeParse(schema, input, { abortPipeEarly: true });
  if (!parsed.success) throw refuse(issuesOf(parsed.issues));
  return parsed.output;
};

const invalidBody = (issues: readonly Issue[]): Problem =>
  new Problem(400, "invalid_body", "The request's body is not what this operation takes; see issues.", { issues });
const invalidQuery = (issues: readonly Issue[]): Problem =>
  new Problem(400, "invalid_query", "The request's query is not what this operation takes; see issues.", { issues });
const queryOf = (schema: v.GenericSchema<unknown, object>, search: string): object => {
  const fields = Object.create(null) as Record<string, string>;
  for (const [name, value] of new URLSearchParams(search)) {
    const path = name.slice(0, MAX_PATH_CHARACTERS);
    if (Object.hasOwn(fields, name)) throw invalidQuery([{ path, message: "is given more than once" }]);
    fields[name] = value;
  }
  return parse(schema, fields, invalidQuery);
};

const bodyOf = async (endpoint: Endpoint, request: IncomingMessage, max_bytes: number): Promise<object | undefined> => {
  if (request.method === "GET" || request.method === "HEAD") return undefined;
  const bytes = await wholeBody(request, max_bytes);
  if (bytes.byteLength === 0 && endpoint.body === undefined) return undefined;
  if (bytes.byteLength === 0) throw invalidBody([{ path: "", message: "is required: a JSON object" }]);
  mustBeJson(request);
  const value = parseJson(bytes);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalidBody([{ path: "", message: "must be a JSON object" }]);
  }
  // where no body is taken an empty object is none, and a field is one that would be ignored
  return parse(endpoint.body ?? v.strictObject({}), value, invalidBody);
};

/** Weak tags never match (RFC 9110, 13.1.1), so they are kept as they are. */
const ifMatchOf = (header: string | undefined): readonly string[] | undefined =>
  header === undefined || header.trim() === "*" ? undefined : header.split(",").map((tag) => tag.trim());

/** What has a revision has it for its entity tag. */
const etagOf = (result: object): Record<string, string> =>
  "revision" in result ? { etag: `"${String(result.revision)}"` } : {};

type AnyCall = {
  readonly if_match: readonly string[] | undefined;
  readonly params: object;
  readonly query: object;
  readonly body: object | undefined;
  readonly caller: unknown;
  readonly signal: Cancellation;
};

/** Aborts when the client is gone before it has its answer. */
const goneOf = (response: ServerResponse): Cancellation => {
  const gone = new Cancelling();
  if (response.destroyed) gone.cancel();
  response.once("close", () => {
    if (!response.writableFinished) gone.cancel();
  });
  return gone;
};

/**
 * Contracts and their verbs as rows of a table of paths: each admits the caller, checks params, query and body (in this
 * order, a body last and bounded), runs the verb, and gives its answer as JSON.
 */
export const contractRoutes = <const T extends Readonly<Record<string, Endpoint>>, C>(
  options: ContractOptions<T, C>,
): readonly Route[] =>
  Object.keys(options.endpoints).map((name) => {
    const endpoint = options.endpoints[name] as T[keyof T];
    const handler = options.handlers[name] as unknown as (call: AnyCall) => Promise<object | undefined>;
    const answer: Route["answer"] = async (arrival, response) => {
      const { request } = arrival;
      const signal = goneOf(response);
      const admitted = await options.admit(arrival, endpoint);
      const params = parse(endpoint.params, arrival.params, nothingHere);
      const query = queryOf(endpoint.query, arrival.search);
      const endTurn = await options.turn?.(admitted, signal);
      try {
        const body = await bodyOf(endpoint, request, options.max_body_bytes);
        const if_match = ifMatchOf(headerNamed(request, "if-match"));
        const asked = { params, body, idempotency_key: headerNamed(request, "idempotency-key"), if_match };
        const caller = options.refine?.(admitted, endpoint, asked) ?? admitted;
        const result = await handler({ params, query, body, caller, if_match, signal });
        const headers = { "cache-control": "no-store" }; // answers hold secrets and states
        return result === undefined
          ? { status: endpoint.status, headers }
          : { status: endpoint.status, headers: { ...headers, ...etagOf(result) }, body: result };
      } finally {
        endTurn?.();
      }
    };
    return { method: endpoint.method, path: endpoint.path, answer, refusal: options.refusal?.(endpoint) };
  });
