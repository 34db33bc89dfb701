import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { bootstrapZone, callApi } from "../support/control-plane.ts";
import { eventually } from "../support/eventually.ts";
import { type Program, runToEnd, startProgram } from "../support/program.ts";

/** The whole life of a zone again, by its file alone: what is not `caracal apply` is an agent that calls. */

const BOOTSTRAP = randomBytes(32).toString("base64url");
const TIMEOUT_MS = 20_000;
const APPLY_MS = 60_000;
const API_KEY = "upstream-key-of-a-test";

/** Who has the trait may call. */
const policyFor = (trait: string): string => `package caracal.authz
import rego.v1
default result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": [], "diagnostics": []}
result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["traits"], "diagnostics": []} if {
  "${trait}" in input.principal.traits
}
`;

describe("the life of a zone by its file", () => {
  let program: Program;
  let upstream: Server;
  const dir = mkdtempSync(join(tmpdir(), "caracal-file-"));
  const file = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text, { mode: 0o600 });
    return join(dir, name);
  };
  before(async () => {
    upstream = createServer((request, response) => {
      response.end(JSON.stringify({ url: request.url }));
    });
    await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
    program = await startProgram({ env: { BOOTSTRAP_ADMIN_TOKEN: BOOTSTRAP } });
  });
  after(async () => {
    await program?.close();
    upstream.closeAllConnections();
    upstream.close();
    rmSync(dir, { recursive: true, force: true });
  });

  it("goes from an empty zone to calls, to a denial, and to nothing", async () => {
    const { api_url, sts_url, gateway_url } = program.quickstart;
    const { zone_id, admin_token: token } = await bootstrapZone(api_url, BOOTSTRAP, {
      slug: "by-file",
      name: "By file",
    });
    const env = { CARACAL_API_URL: api_url, CARACAL_ADMIN_TOKEN_FILE: file("token", `${token}\n`) };
    const caracal = async (...args: readonly string[]): Promise<string> => {
      const ended = await runToEnd(args, { env, cwd: dir, timeout_ms: APPLY_MS });
      assert.equal(ended.code, 0, `caracal ${args.join(" ")}: ${ended.stderr}`);
      return ended.stdout;
    };
    const apply = (name: string, ...more: readonly string[]): Promise<string> =>
      caracal("apply", "-f", name, "--yes", "--prune", "--secrets-out", "secrets.json", ...more);

    const host = `127.0.0.1:${(upstream.address() as AddressInfo).port}`;
    file("key.txt", API_KEY);
    file("traits.rego", policyFor("support-agent"));
    const zone = `providers:
  - name: desk
    kind: apikey
    allowed_hosts: ["${host}"]
    auth_header: X-Api-Key
    auth_scheme: null
    api_key: { file: key.txt }
applications:
  - name: agent
    scopes: [tickets.read]
    traits: [support-agent]
resources:
  - identifier: resource://tickets
    name: Tickets
    upstream_url: http://${host}
    scopes: [tickets.read]
  - identifier: resource://desk
    name: Desk
    upstream_url: http://${host}
    provider: desk
policies:
  - name: traits
    file: traits.rego
policy_set:
  name: main
  policies: [traits]
`;
    file("zone.yaml", zone);

    // One file makes all of it, and an agent can call.
    await apply("zone.yaml");
    assert.equal(await apply("zone.yaml"), "Nothing to do.\n");
    const { agent } = JSON.parse(readFileSync(join(dir, "secrets.json"), "utf8")) as {
      agent: { client_id: string; client_secret: string };
    };
    const login = (): Promise<Response> =>
      fetch(`${sts_url}/oauth/2/token`, {
        method: "POST",
        body: new URLSearchParams({ grant_type: "client_credentials", zone_id, ...agent }),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    const token_answer = await login();
    assert.equal(token_answer.status, 200);
    const { access_token } = (await token_answer.json()) as { access_token: string };
    const reach = async (): Promise<{ readonly status: number; readonly body: unknown }> => {
      const answer = await fetch(`${gateway_url}/queue`, {
        headers: { authorization: `Bearer ${access_token}`, "x-caracal-resource": "resource://tickets" },
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      return { status: answer.status, body: await answer.json() };
    };
    assert.deepEqual(await reach(), { status: 200, body: { url: "/queue" } });

    // Another policy in the file is another decision for the token that is there; the former one is taken back alike.
    file("traits.rego", policyFor("nobody"));
    await apply("zone.yaml");
    await eventually(async () => (await reach()).status === 403);
    file("traits.rego", policyFor("support-agent"));
    await apply("zone.yaml");
    await eventually(async () => (await reach()).status === 200);
    const versions = JSON.parse(await caracal("policy", "versions", "traits", "--json")) as readonly unknown[];
    assert.equal(versions.length, 2, "what decides again is the former version");

    // What is exported is what was applied.
    await caracal("export", "-f", "exported/zone.yaml");
    assert.equal(await apply("exported/zone.yaml"), "Nothing to do.\n");

    // What is no longer in the file goes, in the order of dependence, and what was made from it ends.
    file("zone.yaml", zone.replace(/^providers:\n(?: .*\n)+applications:\n(?: .*\n)+resources:\n(?: .*\n)+/m, ""));
    const gone = await apply("zone.yaml");
    for (const line of ["- resource resource://tickets", "- application agent", "- provider desk"])
      assert.ok(gone.split("\n").includes(line), gone);
    await eventually(async () => (await reach()).status === 403); // there is no such resource
    await eventually(async () => (await login()).status === 401); // and no such client
    await caracal("zone", "archive", zone_id);
    assert.equal((await callApi(api_url, token, "GET", `/v1/zones/${zone_id}`)).status, 401);
  });
});
