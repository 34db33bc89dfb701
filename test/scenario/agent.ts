import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { HOP_PAGE } from "../support/everything.ts";
import { gatewayHeaders } from "../support/mcp.ts";
import type { TestApplication, TestResource, Topology, ZoneUnderTest } from "./topology.ts";

/** What an agent does: it asks the STS for tokens and calls through the Gateway. */

const GRANT_TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";
const TIMEOUT_MS = 15_000;

export type Answer = {
  readonly status: number;
  readonly headers: Headers;
  /** Parsed where it is JSON, else the text. */
  readonly body: Readonly<Record<string, unknown>>;
};

export const answerOf = async (response: Response): Promise<Answer> => {
  const text = await response.text();
  const is_json = response.headers.get("content-type")?.includes("json") === true;
  const body = is_json ? (JSON.parse(text) as Record<string, unknown>) : { text };
  return { status: response.status, headers: response.headers, body };
};

/** A request to the token endpoint. */
const askSts = async (topology: Topology, fields: Readonly<Record<string, string>>): Promise<Answer> =>
  answerOf(
    await fetch(`${topology.sts_urls[0]}/oauth/2/token`, {
      method: "POST",
      body: new URLSearchParams(fields),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    }),
  );

const clientFields = (zone: ZoneUnderTest, application: TestApplication): Record<string, string> => ({
  zone_id: zone.id,
  client_id: application.id,
  client_secret: application.secret,
});

/** Asks for an ambient token, without judging the answer. */
export const askAmbient = (
  topology: Topology,
  zone: ZoneUnderTest,
  application: TestApplication,
  fields: Readonly<Record<string, string>> = {},
): Promise<Answer> =>
  askSts(topology, { grant_type: "client_credentials", ...clientFields(zone, application), ...fields });

/** Asks for a mandate of the agent's own, by default for a call of the hop's own page, without judging the answer. */
export const askMandate = (
  topology: Topology,
  zone: ZoneUnderTest,
  application: TestApplication,
  subject_token: string,
  resource: string,
  fields: Readonly<Record<string, string>> = {},
): Promise<Answer> =>
  askSts(topology, {
    grant_type: GRANT_TOKEN_EXCHANGE,
    ...clientFields(zone, application),
    subject_token,
    subject_token_type: ACCESS_TOKEN,
    resource,
    call_method: "GET",
    call_path: HOP_PAGE,
    ...fields,
  });

const tokenOf = (answer: Answer): string => {
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  assert.equal(typeof answer.body["access_token"], "string");
  return String(answer.body["access_token"]);
};

export type Ambient = { readonly token: string; readonly session_id: string };

/** An agent's ambient token and the session that it stands for. */
export const ambientToken = async (
  topology: Topology,
  zone: ZoneUnderTest,
  application: TestApplication,
): Promise<Ambient> => {
  const answer = await askAmbient(topology, zone, application);
  return { token: tokenOf(answer), session_id: String(answer.body["session_id"]) };
};

/** A single-use mandate for a resource. */
export const mandate = async (
  topology: Topology,
  zone: ZoneUnderTest,
  application: TestApplication,
  ambient: Ambient,
  resource: TestResource,
): Promise<string> => tokenOf(await askMandate(topology, zone, application, ambient.token, resource.identifier));

export type CallOptions = {
  readonly method?: string;
  readonly path?: string;
  readonly request_id?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly gateway_url?: string;
};

export const newRequestId = (): string => `scenario-${randomUUID()}`;

/** A call through the Gateway, by default for the hop's own page. */
export const callGateway = async (
  topology: Topology,
  access_token: string,
  resource: TestResource,
  options: CallOptions = {},
): Promise<Answer> =>
  answerOf(
    await fetch(`${options.gateway_url ?? topology.gateway_urls[0]}${options.path ?? HOP_PAGE}`, {
      method: options.method ?? "GET",
      headers: {
        ...gatewayHeaders({
          access_token,
          resource: resource.identifier,
          ...(options.request_id === undefined ? {} : { request_id: options.request_id }),
        }),
        ...options.headers,
      },
      redirect: "manual",
      ...(options.body === undefined ? {} : { body: options.body }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    }),
  );
