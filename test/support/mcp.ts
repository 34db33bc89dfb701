import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

/** The official MCP client, as an agent behind the Gateway uses it: two headers, nothing else is special. */
export type Agent = {
  readonly client: Client;
  readonly transport: StreamableHTTPClientTransport;
  /** What the transport reported. `callTool` hangs when a streamed answer is cut: the cut is seen here. */
  readonly errors: readonly Error[];
  close(): Promise<void>;
};

export type AgentOptions = {
  readonly gateway_url: string;
  readonly access_token: string;
  /** The resource's identifier. */
  readonly resource: string;
  readonly request_id?: string;
};

/** What the Gateway needs of a caller. */
export const gatewayHeaders = (options: Omit<AgentOptions, "gateway_url">): Record<string, string> => ({
  Authorization: `Bearer ${options.access_token}`,
  "X-Caracal-Resource": options.resource,
  ...(options.request_id === undefined ? {} : { "X-Request-Id": options.request_id }),
});

/** Connects and initializes. Rejects as the SDK does where the Gateway or the server refuses. */
export const connectAgent = async (options: AgentOptions): Promise<Agent> => {
  const transport = new StreamableHTTPClientTransport(new URL(`${options.gateway_url}/mcp`), {
    requestInit: { headers: gatewayHeaders(options) },
    reconnectionOptions: {
      maxRetries: 0, // a retry of the SDK's would hide what happened to the first answer
      initialReconnectionDelay: 10,
      maxReconnectionDelay: 10,
      reconnectionDelayGrowFactor: 1,
    },
  });
  const errors: Error[] = [];
  const client = new Client({ name: "caracal-scenario", version: "1" });
  client.onerror = (error) => void errors.push(error);
  await client.connect(transport);
  return { client, transport, errors, close: () => client.close() };
};
