import { type ConversionConfig, type JsonSchema, toJsonSchema } from "@valibot/to-json-schema";
import type * as v from "valibot";
import { isUuid } from "../kernel/ids.ts";
import type { ApiEndpoint, Reach } from "./api-access.ts";
import { entriesOfList } from "./api-fields.ts";

type Schema = v.GenericSchema<unknown, object>;
type Json = Readonly<Record<string, unknown>>;

/** What JSON Schema has no word for stands in the description, in the words of the refusal. */
const CONVERSION: ConversionConfig = {
  target: "draft-2020-12",
  typeMode: "input",
  errorMode: "ignore",
  overrideSchema: ({ valibotSchema, jsonSchema }) => {
    const entries = entriesOfList(valibotSchema);
    return entries === undefined ? undefined : { ...jsonSchema, items: convert(entries) };
  },
  overrideAction: ({ valibotAction, jsonSchema }) => {
    if (valibotAction.type !== "check") return undefined;
    const { requirement, message } = valibotAction as unknown as { requirement: unknown; message: unknown };
    if (requirement === isUuid) return { ...jsonSchema, format: "uuid" };
    const words = [jsonSchema.description, typeof message === "string" ? message : undefined];
    return { ...jsonSchema, description: words.filter((word) => word !== undefined).join("; ") };
  },
};

const convert = (schema: v.GenericSchema): JsonSchema => {
  const { $schema: _dialect, ...rest } = toJsonSchema(schema, CONVERSION);
  return rest;
};

/** The fields of an object, each as JSON Schema describes what a caller may send, and which of them there must be. */
export const propertiesOf = (schema: Schema): { readonly properties: Json; readonly required: readonly string[] } => {
  const { properties = {}, required = [] } = convert(schema);
  return { properties: properties as Json, required };
};

const parametersOf = ({ params, query, edits, status, reach }: ApiEndpoint): readonly Json[] => {
  const asked = propertiesOf(query);
  return [
    ...Object.entries(propertiesOf(params).properties).map(([name, schema]) => ({
      name,
      in: "path",
      required: true,
      schema,
    })),
    ...Object.entries(asked.properties).map(([name, schema]) => ({
      name,
      in: "query",
      required: asked.required.includes(name),
      schema,
    })),
    ...(edits === true ? [{ $ref: "#/components/parameters/IfMatch" }] : []),
    ...(status === 201 && reach !== "bootstrap" ? [{ $ref: "#/components/parameters/IdempotencyKey" }] : []),
  ];
};

/** What follows the zone in the path, else what follows the version. */
const tagOf = (path: string): string => /^\/v1\/(?:zones\/\{zone_id\}\/)?([a-z-]+)/.exec(path)?.[1] ?? "zones";

/** Whose token an endpoint takes, where it is no admin's. */
const SCHEMES: Readonly<Partial<Record<Reach, string>>> = {
  bootstrap: "bootstrapToken",
  registration: "registrationToken",
};

/** Whose refusals have a shape of their own. */
const REFUSALS: Readonly<Partial<Record<Reach, string>>> = { registration: "RegistrationRefused" };

const operationOf = (name: string, endpoint: ApiEndpoint): Json => ({
  operationId: name,
  summary: endpoint.summary,
  tags: [tagOf(endpoint.path)],
  security: [{ [SCHEMES[endpoint.reach] ?? "adminToken"]: [] }],
  parameters: parametersOf(endpoint),
  ...(endpoint.body === undefined
    ? {}
    : { requestBody: { required: true, content: { "application/json": { schema: convert(endpoint.body) } } } }),
  responses: {
    [endpoint.status]: {
      description: "Done",
      ...(endpoint.response === undefined || !("revision" in propertiesOf(endpoint.response).properties)
        ? {}
        : { headers: { ETag: { $ref: "#/components/headers/ETag" } } }),
      ...(endpoint.response === undefined
        ? {}
        : { content: { "application/json": { schema: convert(endpoint.response) } } }),
    },
    "4XX": { $ref: `#/components/responses/${REFUSALS[endpoint.reach] ?? "Refused"}` },
    "5XX": { $ref: "#/components/responses/Failed" },
  },
});

const REFUSAL: Json = {
  type: "object",
  required: ["error", "message", "requestId"],
  properties: {
    error: { type: "string", description: "A word for programs" },
    message: { type: "string", description: "A sentence for people" },
    requestId: { type: "string" },
    reason: { type: "string" },
    issues: {
      type: "array",
      items: {
        type: "object",
        required: ["path", "message"],
        properties: {
          path: { type: "string" },
          message: { type: "string" },
          row: { type: "integer" },
          col: { type: "integer" },
        },
      },
    },
    diagnostics: { type: "array", items: {} },
  },
};

/** RFC 7591, 3.2.2. */
const REGISTRATION_REFUSAL: Json = {
  allOf: [
    { $ref: "#/components/schemas/Refusal" },
    { type: "object", required: ["error_description"], properties: { error_description: { type: "string" } } },
  ],
};

const errorAnswer = (description: string, schema = "Refusal"): Json => ({
  description,
  content: { "application/json": { schema: { $ref: `#/components/schemas/${schema}` } } },
});

const header = (name: string, description: string): Json => ({
  name,
  in: "header",
  required: false,
  description,
  schema: { type: "string" },
});

/** The OpenAPI 3.1 document of those endpoints, from the very contracts that check each request. */
export const openApiOf = (endpoints: Readonly<Record<string, ApiEndpoint>>): Json => {
  const paths: Record<string, Record<string, Json>> = {};
  for (const [name, endpoint] of Object.entries(endpoints)) {
    (paths[endpoint.path] ??= {})[endpoint.method.toLowerCase()] = operationOf(name, endpoint);
  }
  const tags = [...new Set(Object.values(endpoints).map(({ path }) => tagOf(path)))];
  return {
    openapi: "3.1.0",
    info: {
      title: "Caracal control plane",
      version: "1",
      description: "Zones, applications, resources, policies and what else decides who may call what.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [{ url: "/" }],
    tags: tags.map((name) => ({ name, description: `Operations on ${name.replaceAll("-", " ")}` })),
    paths,
    components: {
      securitySchemes: {
        adminToken: { type: "http", scheme: "bearer", description: "An admin token, global or of one zone" },
        registrationToken: { type: "http", scheme: "bearer", description: "An initial access token of the zone" },
        bootstrapToken: { type: "http", scheme: "bearer", description: "BOOTSTRAP_ADMIN_TOKEN, once" },
      },
      parameters: {
        IfMatch: header(
          "If-Match",
          'The ETag that was seen (`"3"`): 412 where another is there. Without it the last writer wins.',
        ),
        IdempotencyKey: header(
          "Idempotency-Key",
          "The same request again under this key makes nothing and gets the first answer, without secrets, for 7 days; another request under it is 409.",
        ),
      },
      headers: {
        ETag: { description: "The revision, in quotes: for If-Match", schema: { type: "string" } },
      },
      responses: {
        Refused: errorAnswer("Refused, and nothing was changed"),
        RegistrationRefused: errorAnswer("Refused as RFC 7591 says, and nothing was registered", "RegistrationRefusal"),
        Failed: errorAnswer("Failed; what was asked may be asked again"),
      },
      schemas: { Refusal: REFUSAL, RegistrationRefusal: REGISTRATION_REFUSAL },
    },
  };
};
