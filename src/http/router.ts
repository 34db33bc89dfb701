import type { IncomingMessage, ServerResponse } from "node:http";
import { getRequestListener, type HttpBindings, RequestError } from "@hono/node-server";
import { RESPONSE_ALREADY_SENT } from "@hono/node-server/utils/response";
import { type Context, Hono } from "hono";
import type { Method } from "../contracts/endpoint.ts";
import { systemClock } from "../kernel/clock.ts";
import { createFailureLog } from "../kernel/failure-log.ts";
import type { Log } from "../kernel/log.ts";
import { Problem } from "../kernel/problem.ts";
import { problemBody, problemHeaders, sendJson, toProblem } from "./problem.ts";
import { requestIdOf } from "./request-id.ts";

/** What is known of a request before anything of its body is read: enough to tell who calls and what for. */
export type Arrival = {
  readonly request: IncomingMessage;
  readonly request_id: string;
  /** As they stand in the path, decoded and not checked. */
  readonly params: Readonly<Record<string, string>>;
  /** The target's query, `?` included; empty where there is none. */
  readonly search: string;
};

/** `body`: an object goes out as JSON, a text is JSON already; absent: an answer without a body. */
export type Answer = {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: object | string;
};

/** A path that a role serves: a row of its table. Whatever it throws is answered as a `Problem`. */
export type Route = {
  readonly method: Method;
  /** Names its parameters in braces (`/v1/zones/{zone_id}`). */
  readonly path: string;
  /** Who may ask; throws the `Problem` for all others. Absent: anybody, or the answer itself sees to it. */
  readonly admit?: (arrival: Arrival) => Promise<unknown>;
  /** Resolves to undefined where it has sent its answer itself. */
  readonly answer: (arrival: Arrival, response: ServerResponse) => Promise<Answer | undefined>;
  /** The body of a refusal, where it is not the general one. */
  readonly refusal?: ((problem: Problem, request_id: string) => object) | undefined;
  /** The path of every call: spelt as it stands here, it is found without a web Request, which costs three times as much. */
  readonly direct?: true;
};

export type RouterOptions = {
  readonly routes: readonly Route[];
  readonly log: Log;
  /** Called with each answer's status, for the metrics. */
  readonly onAnswer?: (status: number) => void;
};

/** A name that can't exist is answered like one that does not: what the id of a thing looks like is no field to correct. */
export const nothingHere = (): Problem => new Problem(404, "not_found", "There is nothing at this path.");

type Served = Pick<Route, "admit" | "answer" | "refusal">;
type Env = { Bindings: HttpBindings };

const NOWHERE = { params: {}, search: "" } as const;

const unreadable = (error: unknown): unknown =>
  error instanceof RequestError
    ? new Problem(400, "invalid_request", "The request's target or Host header is not well-formed.")
    : error;

/** For each path the methods that it takes; whatever takes GET takes HEAD (RFC 9110, 9.1). */
const methodsOf = (routes: readonly Route[]): ReadonlyMap<string, string> => {
  const methods = new Map<string, readonly string[]>();
  for (const { path, method } of routes) methods.set(path, [...(methods.get(path) ?? []), method]);
  return new Map(
    [...methods].map(([path, taken]) => [path, [...taken, ...(taken.includes("GET") ? ["HEAD"] : [])].join(", ")]),
  );
};

/**
 * Binds a role's table of paths: 404 for others, 405 with `Allow` for other methods. An answer before the whole body came
 * leaves the rest to the server, which ends a connection on which it does not follow. Returns a listener for `node:http`.
 */
export const createRouter = ({
  routes,
  log,
  onAnswer,
}: RouterOptions): ((request: IncomingMessage, response: ServerResponse) => void) => {
  const failures = createFailureLog(log, systemClock);
  const serve = async (
    route: Served,
    request: IncomingMessage,
    response: ServerResponse,
    { params, search }: Pick<Arrival, "params" | "search">,
  ): Promise<void> => {
    const request_id = requestIdOf(request.headers["x-request-id"]);
    try {
      const arrival = { request, request_id, params, search };
      if (route.admit !== undefined) await route.admit(arrival);
      const answer = await route.answer(arrival, response);
      if (answer === undefined) return;
      onAnswer?.(answer.status);
      sendJson(response, answer.status, { ...answer.headers, "x-request-id": request_id }, answer.body);
    } catch (error) {
      const problem = toProblem(error, log, failures, request_id);
      onAnswer?.(problem.status);
      const headers = { ...problemHeaders(problem), "x-request-id": request_id };
      const body = (route.refusal ?? problemBody)(problem, request_id);
      sendJson(response, problem.status, headers, body);
    }
  };

  const app = new Hono<Env>();
  const through = (route: Served) => async (c: Context<Env>) => {
    const where = { params: c.req.param() as Record<string, string>, search: new URL(c.req.url).search };
    await serve(route, c.env.incoming, c.env.outgoing, where);
    return RESPONSE_ALREADY_SENT;
  };
  const pattern = (path: string): string => path.replace(/\{([a-z_]+)\}/g, ":$1");
  for (const route of routes) app.on(route.method, pattern(route.path), through(route));
  for (const [path, allow] of methodsOf(routes)) {
    const answer: Route["answer"] = async (_arrival, response) => {
      response.setHeader("allow", allow);
      throw new Problem(405, "method_not_allowed", `This path takes ${allow}.`);
    };
    app.all(pattern(path), through({ answer }));
  }
  app.notFound(through({ answer: () => Promise.reject(nothingHere()) }));

  const listener = getRequestListener(app.fetch, {
    overrideGlobalObjects: false, // the process has other users of them
    hostname: "localhost", // a client of HTTP/1.0 sends none
    errorHandler: (error) => {
      throw unreadable(error);
    },
  });
  const direct = new Map(routes.filter((one) => one.direct).map((one) => [one.path, one]));
  return (request, response) => {
    const route = direct.get(request.url ?? "");
    if (route !== undefined && route.method === request.method) void serve(route, request, response, NOWHERE);
    else
      listener(request, response).catch((error: unknown) =>
        serve({ answer: () => Promise.reject(error) }, request, response, NOWHERE),
      );
  };
};
