import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { call, expectOk, makeZone, serveApi, type ServedApi } from "./serve.ts";

describe("a zone's quotas", () => {
  let api: ServedApi;
  let zone_id: string;
  let token: string;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  const fresh = async (): Promise<{ zone_id: string }> => {
    ({ zone_id, token } = await makeZone(api));
    return { zone_id };
  };
  const set = (name: string, limit: number | null, by = api.global_token) =>
    call(api.url, by, "setQuota", { params: { zone_id, name }, body: { limit } });

  it("hold exactly while a hundred are made at the same time, and what is archived makes room", async () => {
    const params = await fresh();
    await set("policies", 30);
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, n) => call(api.url, token, "createPolicy", { params, body: { name: `p${n}` } })),
    );
    const made = answers.filter((answer) => answer.status === 201);
    const refused = answers.filter((answer) => answer.status === 409);
    assert.deepEqual([made.length, refused.length], [30, 70]);
    assert.equal(refused[0]?.body.error, "quota_exceeded");
    assert.deepEqual(refused[0]?.body.diagnostics, [{ name: "policies", limit: 30, use: 30 }]);
    const { items } = await expectOk(api.url, token, "listPolicies", { params });
    await expectOk(api.url, token, "archivePolicy", { params: { zone_id, id: items[0]?.id ?? "" } });
    assert.equal((await call(api.url, token, "createPolicy", { params, body: { name: "again" } })).status, 201);
    const other = await makeZone(api);
    const free = { params: { zone_id: other.zone_id }, body: { name: "free" } };
    assert.equal((await call(api.url, other.token, "createPolicy", free)).status, 201);
  });

  it("are told to the zone and changed by a global admin alone, who can take the change back", async () => {
    const params = await fresh();
    const refused = await set("resources", 1_000_000, token);
    assert.equal(refused.status, 403);
    assert.equal((await set("nothing", 1)).status, 404);
    assert.equal((await set("issuers", 0)).status, 200);
    const issuer = { name: "i", issuer_url: "https://i.example.com", audience: "a" };
    assert.equal((await call(api.url, token, "createIssuer", { params, body: issuer })).status, 409);
    assert.equal((await set("issuers", null)).status, 200);
    assert.equal((await call(api.url, token, "createIssuer", { params, body: issuer })).status, 201);
    const { items } = await expectOk(api.url, token, "listQuotas", { params });
    const of = (name: string) => items.find((item) => item.name === name);
    assert.deepEqual(of("issuers"), { name: "issuers", limit: 50, use: 1 });
    assert.deepEqual(of("applications"), { name: "applications", limit: 10_000, use: 0 });
    assert.deepEqual(of("admin_tokens"), { name: "admin_tokens", limit: 500, use: 1 });
  });

  it("count a zone's admin tokens, but for those that are revoked", async () => {
    const params = await fresh();
    await set("admin_tokens", 2);
    const second = await expectOk(api.url, token, "createAdminToken", { body: { label: "second" } });
    const third = { body: { label: "third" } };
    assert.equal((await call(api.url, token, "createAdminToken", third)).body.error, "quota_exceeded");
    await expectOk(api.url, token, "revokeAdminToken", { params: { id: second.id } });
    assert.equal((await call(api.url, token, "createAdminToken", third)).status, 201);
    assert.equal(params.zone_id, zone_id);
  });

  it("bound what no row is counted for too, from the next request on: compiles, simulations, a set's members and bytes", async () => {
    const params = await fresh();
    const source = `package caracal.authz\nresult := {"decision": "deny", "zone": "${zone_id}"}`;
    const policy = await expectOk(api.url, token, "createPolicy", { params, body: { name: "p" } });
    const versions = { params: { zone_id, id: policy.id }, body: { source } };
    const set_of = await expectOk(api.url, token, "createPolicySet", { params, body: { name: "s" } });
    const in_set = { zone_id, id: set_of.id };
    const compile = () => call(api.url, token, "createPolicyVersion", versions);
    const over = (answer: Awaited<ReturnType<typeof compile>>, status: number) => {
      assert.deepEqual([answer.status, answer.body.error], [status, "quota_exceeded"], answer.text);
      return answer.body.diagnostics?.[0];
    };

    assert.equal((await set("compile_seconds_per_minute", 0)).status, 200);
    const compiles = { name: "compile_seconds_per_minute", limit: 0, use: 0 };
    assert.deepEqual(over(await compile(), 429), compiles);
    const tests = `package caracal.authz_test\ntest_nothing if true`;
    assert.deepEqual(
      over(await call(api.url, token, "testPolicy", { params, body: { source, tests } }), 429),
      compiles,
    );
    await set("compile_seconds_per_minute", null);
    await set("policy_versions", 1);
    const version = await compile();
    assert.equal(version.status, 201, version.text);
    assert.deepEqual(over(await compile(), 409), { name: "policy_versions", limit: 1, use: 1 });

    const entries = [{ policy_version_id: (version.body as unknown as { id: string }).id }];
    const together = () => call(api.url, token, "createPolicySetVersion", { params: in_set, body: { entries } });
    await set("policy_set_members", 0);
    assert.deepEqual(over(await together(), 409), { name: "policy_set_members", limit: 0, use: 1 });
    await set("policy_set_members", 1);
    await set("policy_set_wasm_bytes", 1_000);
    const [{ bytes }] = await api.db.sql<[{ bytes: number }]>`
      select octet_length(wasm) as bytes from policy_versions where zone_id = ${zone_id}`;
    assert.deepEqual(over(await together(), 409), { name: "policy_set_wasm_bytes", limit: 1_000, use: bytes });
    await set("policy_set_wasm_bytes", bytes);
    const set_version = await together();
    assert.equal(set_version.status, 201, set_version.text);

    await set("policy_set_versions", 1);
    assert.deepEqual(over(await together(), 409), { name: "policy_set_versions", limit: 1, use: 1 });

    await set("simulation_seconds_per_minute", 0);
    const { id: version_id } = set_version.body as unknown as { id: string };
    const simulate = { params: in_set, body: { version_id, input: { principal: { id: "a" } } } };
    const simulations = { name: "simulation_seconds_per_minute", limit: 0, use: 0 };
    assert.deepEqual(over(await call(api.url, token, "simulatePolicySet", simulate), 429), simulations);
    const activated = await expectOk(api.url, token, "activatePolicySet", { params: in_set, body: { version_id } });
    assert.deepEqual(
      activated.warnings.map(({ code }) => code),
      ["not_evaluated"],
      "an activation does not wait for what nobody may look at",
    );
  });

  it("are no more than there is to give, and a zone's own token changes none of them", async () => {
    const params = await fresh();
    const { items } = await expectOk(api.url, token, "listQuotas", { params });
    for (const { name, limit } of items) {
      assert.equal((await set(name, 2_000_000_000)).body.issues?.[0]?.path, "limit", name);
      assert.equal((await set(name, limit, token)).status, 403, name);
      assert.equal((await set(name, limit)).status, 200, name);
    }
    assert.ok(items.some(({ name }) => name === "compile_seconds_per_minute"));
  });

  it("bound what a zone's own token may give an application a minute, and not what a global admin may", async () => {
    const params = await fresh();
    const make = (by: string, rate_limit_per_minute: number | null) =>
      call(api.url, by, "createApplication", { params, body: { name: "a", kind: "public", rate_limit_per_minute } });
    assert.equal((await make(token, 6_000)).status, 201);
    assert.deepEqual((await make(token, 6_001)).body.diagnostics, [
      { name: "rate_limit_per_minute", limit: 6_000, use: 6_001 },
    ]);
    const fast = await expectOk(api.url, api.global_token, "createApplication", {
      params,
      body: { name: "fast", kind: "public", rate_limit_per_minute: 50_000 },
    });
    const patch = (body: Record<string, unknown>) =>
      call(api.url, token, "updateApplication", { params: { zone_id, id: fast.id }, body });
    assert.equal((await patch({ name: "renamed", rate_limit_per_minute: 50_000 })).status, 200);
    assert.equal((await patch({ rate_limit_per_minute: 60_000 })).status, 409);
    await set("rate_limit_per_minute", 100);
    assert.equal((await make(token, null)).status, 409, "the deployment's limit is more than the zone's");
    assert.equal((await make(token, 100)).status, 201);
  });
});
