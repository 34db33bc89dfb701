import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CALL_FIELDS,
  GRANT_CLIENT_CREDENTIALS,
  GRANT_TOKEN_EXCHANGE,
  TOKEN_PATH,
  TOKEN_TYPE_ACCESS_TOKEN,
} from "../../src/contracts/sts.ts";
import type { Quickstart } from "../../src/demo/quickstart.ts";
import { told } from "./stage.ts";

const TIMEOUT_MS = 10_000;

type Json = Readonly<Record<string, unknown>>;

export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** JSON text → its object; an empty one where it is something else. */
export const parsed = (text: string): Json => {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : {};
  } catch {
    return {};
  }
};

/** A token's claims, unverified: only to be shown. */
export const claimsOf = (token: string): Json =>
  parsed(Buffer.from(token.split(".")[1] ?? "", "base64url").toString("utf8"));

const askSts = async (q: Quickstart, fields: Readonly<Record<string, string>>): Promise<Json> => {
  const own = { zone_id: q.zone_id, application_id: q.application_id, client_secret: q.client_secret };
  const answer = await fetch(`${q.sts_url}${TOKEN_PATH}`, {
    method: "POST",
    body: new URLSearchParams({ ...own, ...fields }),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const body = parsed(await answer.text());
  told(
    answer.status === 200 && typeof body["access_token"] === "string",
    "a token",
    `${answer.status} ${JSON.stringify(body)}`,
  );
  return body;
};

export type Ambient = { readonly token: string; readonly session_id: string };

/** What the agent is, until it expires or its session is revoked. */
export const ambientToken = async (q: Quickstart): Promise<Ambient> => {
  const body = await askSts(q, { grant_type: GRANT_CLIENT_CREDENTIALS });
  return { token: String(body["access_token"]), session_id: String(body["session_id"]) };
};

/** A mandate that the agent asks for itself, for one call of a tool: MCP posts each of them to the same path. */
export const ownMandate = async (q: Quickstart, ambient: Ambient, resource: string): Promise<string> => {
  const body = await askSts(q, {
    grant_type: GRANT_TOKEN_EXCHANGE,
    subject_token: ambient.token,
    subject_token_type: TOKEN_TYPE_ACCESS_TOKEN,
    resource,
    [CALL_FIELDS.method]: "POST",
    [CALL_FIELDS.path]: "/",
  });
  return String(body["access_token"]);
};

/** The Gateway's refusal of the last request of an agent. */
export type Refusal = { readonly status: number; readonly body: Json };

/** The official MCP client behind the Gateway: two headers, nothing else is special. */
export type Agent = {
  readonly client: Client;
  readonly transport: StreamableHTTPClientTransport;
  /** What the Gateway refused last; undefined where nothing was. */
  refusal(): Refusal | undefined;
  close(): Promise<void>;
};

const createAgent = (q: Quickstart, token: string, resource: string): Agent => {
  let refused: Refusal | undefined;
  const transport = new StreamableHTTPClientTransport(new URL(`${q.gateway_url}/`), {
    requestInit: { headers: { Authorization: `Bearer ${token}`, "X-Caracal-Resource": resource } },
    // A retry would hide what became of the first answer.
    reconnectionOptions: {
      maxRetries: 0,
      initialReconnectionDelay: 10,
      maxReconnectionDelay: 10,
      reconnectionDelayGrowFactor: 1,
    },
    fetch: async (url, init) => {
      const answer = await fetch(url, init);
      if (answer.status >= 400 && answer.status !== 405) {
        refused = { status: answer.status, body: parsed(await answer.clone().text()) };
      }
      return answer;
    },
  });
  const client = new Client({ name: "caracal-demo", version: "1" });
  return { client, transport, refusal: () => refused, close: () => client.close() };
};

/** Connects and initializes. Rejects as the SDK does where the Gateway refuses; the refusal is then in `onRefused`. */
export const connectAgent = async (
  q: Quickstart,
  token: string,
  resource: string,
  onRefused: (refusal: Refusal | undefined) => void = () => undefined,
): Promise<Agent> => {
  const agent = createAgent(q, token, resource);
  try {
    await agent.client.connect(agent.transport, { timeout: TIMEOUT_MS });
    return agent;
  } catch (error) {
    onRefused(agent.refusal());
    await agent.close();
    throw error;
  }
};

/**
 * One call of a tool with the SDK's transport and no session: one request, as a mandate allows. The refusal where it was
 * refused, else the answer's text.
 */
export const callOnce = async (
  q: Quickstart,
  token: string,
  tool: string,
  args: Json,
): Promise<{ readonly text: string } | { readonly refusal: Refusal }> => {
  const agent = createAgent(q, token, q.resource);
  const { transport } = agent;
  let text = "";
  transport.onmessage = (message) => {
    text = toolText("result" in message ? message.result : undefined);
  };
  await transport.start();
  try {
    await transport.send({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: tool, arguments: args } });
    return { text };
  } catch (error) {
    const refusal = agent.refusal();
    if (refusal === undefined) throw error;
    return { refusal };
  } finally {
    await transport.close();
  }
};

/** The text of a tool's result. */
export const toolText = (result: unknown): string => {
  const content: unknown = isObject(result) ? result["content"] : undefined;
  const [first] = Array.isArray(content) ? (content as unknown[]) : [];
  return isObject(first) && typeof first["text"] === "string" ? first["text"] : "";
};

/** A request to the control plane with the zone's token. */
export const askApi = async (q: Quickstart, method: "GET" | "POST", path: string): Promise<Json> => {
  const answer = await fetch(`${q.api_url}/v1/zones/${q.zone_id}${path}`, {
    method,
    headers: { Authorization: `Bearer ${q.admin_token}` },
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const body = parsed(await answer.text());
  told(answer.status === 200, `200 from ${method} ${path}`, `${answer.status} ${JSON.stringify(body)}`);
  return body;
};
