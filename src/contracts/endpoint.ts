import type * as v from "valibot";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/**
 * An endpoint's contract: what a route is bound from, and what its documentation is generated from.
 * `path` names its parameters in braces (`/v1/zones/{zone_id}`). An endpoint without a `body` takes none; one without a
 * `response` answers without a body.
 */
export type Endpoint = {
  readonly method: Method;
  readonly path: `/${string}`;
  /** One line for people. */
  readonly summary: string;
  readonly params: v.GenericSchema<unknown, object>;
  readonly query: v.GenericSchema<unknown, object>;
  readonly body?: v.GenericSchema<unknown, object>;
  readonly status: 200 | 201 | 202 | 204;
  readonly response?: v.GenericSchema<unknown, object>;
};

export type ParamsOf<E extends Endpoint> = v.InferOutput<E["params"]>;
export type QueryOf<E extends Endpoint> = v.InferOutput<E["query"]>;
export type BodyOf<E extends Endpoint> = E["body"] extends v.GenericSchema<unknown, infer B> ? B : undefined;
export type ResponseOf<E extends Endpoint> = E["response"] extends v.GenericSchema<unknown, infer R> ? R : undefined;
