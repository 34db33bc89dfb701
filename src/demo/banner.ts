import type { Quickstart } from "./quickstart.ts";

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

const rpc = (name: string, args: object): string =>
  quoted(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args } }));

/** The lines of a protected call of a tool; `resource` as an agent names it. */
const call = (q: Quickstart, resource: string, body: string, options = "-s -i"): string =>
  [
    `curl ${options} ${q.gateway_url}/ \\`,
    `  -H "Authorization: Bearer $TOKEN" -H 'X-Caracal-Resource: ${resource}' \\`,
    `  -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\`,
    `  -d ${body}`,
  ].join("\n");

/** What a person sees at the start: what runs where, and lines to paste, in their order. */
export const bannerOf = (q: Quickstart, data_dir: string, ready_ms: number): string => {
  const steps: readonly (readonly [string, string])[] = [
    [
      "Get an ambient token: what the agent is, until it expires or its session is revoked.",
      [
        `ANSWER=$(curl -s ${q.sts_url}/oauth/2/token \\`,
        `  -d grant_type=client_credentials -d zone_id=${q.zone_id} \\`,
        `  -d application_id=${q.application_id} -d client_secret=${quoted(q.client_secret)})`,
        `TOKEN=$(printf '%s' "$ANSWER" | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')`,
        `SESSION=$(printf '%s' "$ANSWER" | sed 's/.*"session_id":"\\([^"]*\\)".*/\\1/')`,
        `echo "$ANSWER"`,
      ].join("\n"),
    ],
    [
      "Make a protected call. The MCP server answers with the mandate that it got, not with this token.",
      call(q, q.resource, rpc("whoami", {})),
    ],
    ["A call that policy denies: 403, with the policy's own words.", call(q, q.denied_resource, rpc("whoami", {}))],
    [
      "Revoke the session.",
      `curl -s -X POST ${q.api_url}/v1/zones/${q.zone_id}/sessions/$SESSION/revoke \\\n  -H ${quoted(`Authorization: Bearer ${q.admin_token}`)}`,
    ],
    ["The same call, refused: 401.", call(q, q.resource, rpc("whoami", {}))],
    [
      "What the ledger kept of all this.",
      `curl -s "${q.api_url}/v1/zones/${q.zone_id}/audit?session_id=$SESSION" \\\n  -H ${quoted(`Authorization: Bearer ${q.admin_token}`)}`,
    ],
  ];
  return [
    "",
    `Caracal is ready (${(ready_ms / 1000).toFixed(1)} s). Development mode: embedded or local parts, on loopback.`,
    "",
    `  Gateway       ${q.gateway_url}   what agents call`,
    `  STS           ${q.sts_url}   where tokens come from`,
    `  API           ${q.api_url}   the control plane`,
    `  Coordinator   ${q.coordinator_url}   agent sessions (not yet)`,
    `  Audit         ${q.audit_url}   the ledger`,
    `  MCP server    ${q.upstream_url}   the demo's upstream; it accepts mandates only`,
    "",
    `Everything is kept in ${data_dir}; the values below are also in quickstart.json there. Paste in this order:`,
    ...steps.flatMap(([title, lines], at) => ["", `# ${at + 1}. ${title}`, lines]),
    "",
    "Ctrl-C stops.",
    "",
  ].join("\n");
};
