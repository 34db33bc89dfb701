import { type Answer, send, type ServedApi } from "./serve.ts";

/** The operations of the OpenAPI document, for tests that walk through all of them. */

export type Schema = {
  readonly format?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
};
type Parameter = { readonly name?: string; readonly in?: string; readonly schema?: Schema; readonly $ref?: string };
export type Route = {
  readonly name: string;
  readonly method: string;
  readonly path: string;
  readonly parameters: readonly Parameter[];
  readonly body: Schema | undefined;
  /** Whose token it takes: `adminToken`, … */
  readonly scheme: string;
};

type Operation = {
  readonly operationId: string;
  readonly security: readonly Readonly<Record<string, unknown>>[];
  readonly parameters: readonly Parameter[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
};

/** In the order of the document. */
export const routesOf = (document: string): readonly Route[] => {
  const { paths } = JSON.parse(document) as { paths: Record<string, Record<string, Operation>> };
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { operationId, security, parameters, requestBody }]) => ({
      name: operationId,
      method: method.toUpperCase(),
      path,
      parameters,
      body: requestBody?.content["application/json"]?.schema,
      scheme: Object.keys(security[0] ?? {})[0] ?? "",
    })),
  );
};

/** The route's parameters of that place that are ids, but for the zone's. */
export const idsAmong = ({ parameters }: Route, place: "path" | "query"): readonly string[] =>
  parameters.flatMap((one) =>
    one.in === place && one.schema?.format === "uuid" && (place === "query" || one.name !== "zone_id")
      ? [one.name ?? ""]
      : [],
  );

/** Whether the route takes this header: its name in `components.parameters`. */
export const takes = ({ parameters }: Route, component: "IfMatch" | "IdempotencyKey"): boolean =>
  parameters.some(({ $ref }) => $ref === `#/components/parameters/${component}`);

/** Where a schema takes ids, as paths into a body, each once; `[]` is an entry of a list. */
export const idsIn = (schema: Schema | undefined): readonly (readonly string[])[] => {
  const below = (one: Schema | undefined, at: readonly string[]): readonly (readonly string[])[] => {
    if (one === undefined) return [];
    if (one.format === "uuid") return [at];
    return [
      ...Object.entries(one.properties ?? {}).flatMap(([name, field]) => below(field, [...at, name])),
      ...below(one.items, [...at, "[]"]),
      ...(one.anyOf ?? []).flatMap((some) => below(some, at)),
    ];
  };
  return [...new Map(below(schema, []).map((at) => [at.join("."), at])).values()];
};

/** The body with `id` where `at` points. */
export const withId = (body: unknown, at: readonly string[], id: string): unknown => {
  const [step, ...rest] = at;
  if (step === undefined) return id;
  if (step === "[]") return (body as unknown[]).map((entry) => withId(entry, rest, id));
  const object = body as Readonly<Record<string, unknown>>;
  return { ...object, [step]: withId(object[step], rest, id) };
};

/** One request to a route. A route that takes a body gets `{}` where there is none. */
export const ask = (
  api: ServedApi,
  route: Route,
  path: string,
  token: string | undefined,
  parts: { readonly body?: unknown; readonly headers?: Record<string, string> } = {},
): Promise<Answer> =>
  send(api.url, {
    method: route.method,
    path,
    token,
    ...(route.body === undefined ? {} : { body: parts.body ?? {} }),
    ...(parts.headers === undefined ? {} : { headers: parts.headers }),
  });
