import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { type Program, startProgram } from "../support/program.ts";

/** The whole life of a zone, as somebody with `curl` alone lives it: every line of it is one plain HTTP request. */

type Answer = { readonly status: number; readonly body: Readonly<Record<string, unknown>> };

/** What lies at a path of an answer: `at(body, "zone", "id")`. */
const at = (value: unknown, ...path: readonly (string | number)[]): unknown =>
  path.reduce((part, name) => (part as Readonly<Record<string | number, unknown>> | undefined)?.[name], value);

const listAt = (value: unknown, name: string): readonly unknown[] => at(value, name) as readonly unknown[];

const BOOTSTRAP = randomBytes(32).toString("base64url");
const TIMEOUT_MS = 20_000;

const curl = async (
  url: string,
  options: { method?: string; token?: string; json?: object; form?: Record<string, string>; headers?: object } = {},
): Promise<Answer> => {
  const { token, json, form } = options;
  const response = await fetch(url, {
    method: options.method ?? (json === undefined && form === undefined ? "GET" : "POST"),
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(json === undefined ? {} : { "content-type": "application/json" }),
      ...options.headers,
    },
    body: json === undefined ? (form === undefined ? null : new URLSearchParams(form)) : JSON.stringify(json),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const text = await response.text();
  const is_json = response.headers.get("content-type")?.includes("json") === true;
  return { status: response.status, body: text === "" ? {} : is_json ? JSON.parse(text) : { text } };
};

describe("the life of a zone by plain HTTP requests", () => {
  let program: Program;
  let upstream: Server;
  let upstream_url: string;
  before(async () => {
    upstream = createServer((request, response) => {
      response.end(`${request.method} ${request.url}`);
    });
    await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
    upstream_url = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`;
    program = await startProgram({
      env: { BOOTSTRAP_ADMIN_TOKEN: BOOTSTRAP, EGRESS_HOST_ALLOWLIST: "login.example.com" },
    });
  });
  after(async () => {
    await program?.close();
    upstream.closeAllConnections();
    upstream.close();
  });

  it("goes from its bootstrap to its archive", async () => {
    const { api_url, sts_url, gateway_url } = program.quickstart;
    let admin = "";
    let zone = "";
    const api = async (status: number, method: string, path: string, json?: object): Promise<Answer["body"]> => {
      const answer = await curl(`${api_url}${zone}${path}`, { method, token: admin, ...(json && { json }) });
      assert.equal(answer.status, status, `${method} ${path}: ${JSON.stringify(answer.body)}`);
      return answer.body;
    };

    // The bootstrap token opens one door, once.
    const first = { slug: "life", name: "Life" };
    const made = await curl(`${api_url}/v1/bootstrap`, { token: BOOTSTRAP, json: first });
    assert.equal(made.status, 201);
    const zone_id = String(at(made.body, "zone", "id"));
    admin = String(at(made.body, "admin_token", "token"));
    zone = `/v1/zones/${zone_id}`;
    assert.equal((await curl(`${api_url}/v1/bootstrap`, { token: BOOTSTRAP, json: first })).status, 410);

    // A provider whose address is not on the deployment's list is refused when it is written.
    const oauth = { name: "crm", kind: "oauth2", client_id: "c", allowed_hosts: [new URL(upstream_url).host] };
    await api(400, "POST", "/providers", { ...oauth, token_url: "https://elsewhere.example.org/token" });
    const provider = await api(201, "POST", "/providers", { ...oauth, token_url: "https://login.example.com/token" });

    const scopes = ["tickets.read", "tickets.comment"];
    const app = await api(201, "POST", "/applications", { name: "agent", scopes, traits: ["support-agent"] });
    const tickets = {
      identifier: "resource://tickets",
      name: "Tickets",
      upstream_url,
      scopes,
      application_id: app["id"],
    };
    const resource = await api(201, "POST", "/resources", tickets);
    const spare = await api(201, "POST", "/resources", {
      identifier: "resource://spare",
      name: "Spare",
      upstream_url,
      provider_id: provider["id"],
    });

    // A policy from a template, first tested, then asked what it would change, then made to decide.
    const templates = await curl(`${api_url}/v1/policy-templates`, { token: admin });
    const template = listAt(templates.body, "items").find((one) => at(one, "name") === "trait-and-scope");
    const source = at(template, "source");
    const tests = `package caracal.authz_test
import data.caracal.authz
test_nobody if authz.result.decision == "deny" with input as {}`;
    assert.equal((await api(200, "POST", "/policies/test", { source, tests }))["passed"], 1);
    const policy = await api(201, "POST", "/policies", { name: "traits" });
    const input = {
      principal: { id: app["id"], traits: ["support-agent"] },
      resource: { identifier: "resource://tickets" },
      context: { requested_scopes: scopes },
    };
    const version = await api(201, "POST", `/policies/${policy["id"]}/versions`, { source, test_inputs: [input] });
    assert.equal(at(version, "evaluations", 0, "decision"), "allow");
    const set = await api(201, "POST", "/policy-sets", { name: "all" });
    const entries = [{ policy_version_id: version["id"] }];
    const set_version = await api(201, "POST", `/policy-sets/${set["id"]}/versions`, { entries });
    const asked = { version_id: set_version["id"], input };
    const simulated = await api(200, "POST", `/policy-sets/${set["id"]}/simulate`, asked);
    assert.equal(at(simulated, "results", 0, "change"), "deny_to_allow");
    const activated = await api(202, "POST", `/policy-sets/${set["id"]}/activate`, { version_id: set_version["id"] });
    assert.deepEqual(activated["warnings"], []);
    await eventually(async () => {
      const replicas = listAt(await api(200, "GET", `/policy-sets/${set["id"]}/activation`), "replicas");
      return (
        replicas.length === 1 &&
        at(replicas, 0, "version_id") === set_version["id"] &&
        at(replicas, 0, "current") === true
      );
    });

    // A token, and a call that is allowed by a mandate.
    const login = (client_secret: string): Promise<Answer> =>
      curl(`${sts_url}/oauth/2/token`, {
        form: { grant_type: "client_credentials", zone_id, client_id: String(app["id"]), client_secret },
      });
    const reach = (token: string): Promise<Answer> =>
      curl(`${gateway_url}/queue`, { token, headers: { "x-caracal-resource": "resource://tickets" } });
    const token = await login(String(app["client_secret"]));
    assert.equal(token.status, 200, JSON.stringify(token.body));
    const ambient = String(token.body["access_token"]);
    const called = await reach(ambient);
    assert.deepEqual([called.status, called.body["text"]], [200, "GET /queue"], JSON.stringify(called.body));
    await eventually(async () => {
      const items = listAt(await api(200, "GET", "/audit?decision=allow"), "items");
      return items.some((one) => at(one, "event_type") === "token.exchange");
    });
    // What was decided lately is what another version is judged on.
    const last = await api(200, "POST", `/policy-sets/${set["id"]}/simulate`, {
      version_id: set_version["id"],
      last: 10,
    });
    assert.deepEqual([last["complete"], last["allow_to_deny"], last["deny_to_allow"]], [true, 0, 0]);
    assert.ok(Number(last["examined"]) >= 1);

    // Its session is ended, and with it everything made from it.
    const session = String(token.body["session_id"]);
    await api(200, "POST", `/sessions/${session}/revoke`);
    await eventually(async () => (await reach(ambient)).status === 401);

    // A new secret, at once; the old one is nothing any more.
    const { client_secret } = await api(200, "POST", `/applications/${app["id"]}/secret`);
    assert.equal((await login(String(client_secret))).status, 200);
    assert.equal((await login(String(app["client_secret"]))).status, 401);

    // A new key, which signs from here on; both are published.
    const key = await api(201, "POST", "/keys/rotate", {});
    await eventually(async () => {
      const jwks = await curl(`${sts_url}/.well-known/jwks.json?zone_id=${zone_id}`);
      return listAt(jwks.body, "keys").length === 2;
    });
    const fresh = await eventually(async () => {
      const answer = await login(String(client_secret));
      const [header = ""] = String(answer.body["access_token"]).split(".");
      const { kid } = JSON.parse(Buffer.from(header, "base64url").toString());
      return kid === key["kid"] ? String(answer.body["access_token"]) : null;
    });
    assert.equal((await reach(fresh)).status, 200);

    // What others depend on stays, and says on whom; in the order of dependence all of it goes.
    const in_use = await api(409, "DELETE", `/providers/${provider["id"]}`);
    assert.deepEqual(in_use["diagnostics"], [{ kind: "resource", id: spare["id"], field: "provider_id" }]);
    assert.equal((await api(409, "DELETE", `/applications/${app["id"]}`))["error"], "in_use");
    assert.equal((await api(409, "DELETE", `/policy-sets/${set["id"]}`))["error"], "policy_set_is_active");
    assert.equal((await api(409, "DELETE", `/policies/${policy["id"]}`))["error"], "policy_is_active");
    await api(204, "DELETE", `/resources/${spare["id"]}`);
    await api(204, "DELETE", `/providers/${provider["id"]}`);
    await api(204, "DELETE", `/resources/${resource["id"]}`);
    await api(204, "DELETE", `/applications/${app["id"]}`);
    await eventually(async () => (await reach(fresh)).status === 401 || (await reach(fresh)).status === 403);
    const actions = new Set(
      listAt(await api(200, "GET", "/admin-audit?limit=200"), "items").map((one) => at(one, "action")),
    );
    for (const action of ["policy_set.activate", "session.revoke", "key.rotate", "application.archive"]) {
      assert.ok(actions.has(action), `${action} is in ${[...actions].join(" ")}`);
    }
    await api(204, "DELETE", "");
    assert.equal((await login(String(client_secret))).status, 401);
    await api(401, "GET", "/applications"); // the zone's tokens went with it
  });
});
