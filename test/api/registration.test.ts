import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { verifySecret } from "../../src/domain/secret-hash.ts";
import { call, expectOk, makeZone, serveApi, type ServedApi } from "./serve.ts";

describe("clients that register themselves", () => {
  let api: ServedApi;
  let zone_id: string;
  let token: string;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  const fresh = async (scopes: string[] = ["read", "write"]): Promise<{ id: string; token: string }> => {
    ({ zone_id, token } = await makeZone(api));
    const body = { name: "agents", scopes, expires_in_s: 3600 };
    const made = await expectOk(api.url, token, "createRegistrationToken", { params: { zone_id }, body });
    return { id: made.id, token: made.token ?? "" };
  };
  const register = (by: string | undefined, body: Record<string, unknown>, zone = zone_id) =>
    call(api.url, by, "registerClient", { params: { zone_id: zone }, body });

  it("become applications with the scopes that they asked for, no traits, and a secret that is shown once", async () => {
    const initial = await fresh();
    const made = await expectOk(api.url, initial.token, "registerClient", {
      params: { zone_id },
      body: { client_name: "agent", scope: "read", traits: ["trusted"], redirect_uris: ["https://a.example.com"] },
    });
    const params = { zone_id, id: made.client_id };
    const app = await expectOk(api.url, token, "getApplication", { params });
    assert.deepEqual(
      [app.name, app.kind, app.scopes, app.traits, app.registration_token_id],
      ["agent", "confidential", ["read"], [], initial.id],
    );
    const [row] = await api.db.sql<{ secret_hash: string }[]>`
      select secret_hash from applications where id = ${made.client_id}`;
    assert.ok(await verifySecret(made.client_secret ?? "", row?.secret_hash ?? "", zone_id));
    const { items } = await expectOk(api.url, token, "listZoneAdminAudit", { params: { zone_id } });
    assert.equal(items[0]?.actor, `registration_token:${initial.id}`);
    assert.doesNotMatch(JSON.stringify(items), /caracal_(?:secret|registration)_/);
  });

  it("get no more than their token has, and nothing of the platform", async () => {
    const initial = await fresh(["read"]);
    for (const scope of ["read write", "coordinator.admin", "read coordinator.spawn_for:x"]) {
      const refused = await register(initial.token, { client_name: "a", scope });
      assert.equal(refused.status, 400, scope);
      assert.equal(refused.body.issues?.[0]?.path, "scope");
    }
    const platform = { name: "t", scopes: ["coordinator.admin"], expires_in_s: 60 };
    const params = { zone_id };
    assert.equal((await call(api.url, token, "createRegistrationToken", { params, body: platform })).status, 400);
    const keyless = { client_name: "a", token_endpoint_auth_method: "private_key_jwt" };
    assert.equal((await register(initial.token, keyless)).status, 400);
  });

  it("are told what is wrong as RFC 7591 says, whatever it is", async () => {
    const initial = await fresh(["read"]);
    const refusals: readonly (readonly [Record<string, unknown>, string, RegExp])[] = [
      [{}, "invalid_client_metadata", /client_name is required/],
      [{ client_name: "a", scope: "write" }, "invalid_client_metadata", /scope must be among/],
      [{ client_name: "a", jwks: { keys: [] } }, "invalid_client_metadata", /jwks/],
      [{ client_name: "a", jwks_uri: "https://inside.example.net/" }, "invalid_client_metadata", /jwks_uri/],
      [{ client_name: "a", token_endpoint_auth_method: "private_key_jwt" }, "invalid_client_metadata", /./],
      [{ client_name: "a", redirect_uris: ["/relative"] }, "invalid_redirect_uri", /absolute URI/],
      [{ client_name: "a", redirect_uris: ["https://a.example.com/#x"] }, "invalid_redirect_uri", /fragment/],
    ];
    for (const [metadata, error, words] of refusals) {
      const { status, body } = await register(initial.token, metadata);
      const { error_description } = body as unknown as { error_description: string };
      assert.deepEqual([status, body.error], [400, error], JSON.stringify(metadata));
      assert.match(error_description, words);
      assert.match(error_description, /^[\x20\x21\x23-\x5b\x5d-\x7e]+$/, "RFC 6749, 5.2");
    }
    const stranger = await register("x".repeat(43), { client_name: "a" });
    assert.deepEqual([stranger.status, stranger.body.error], [401, "invalid_token"]);
    assert.match(stranger.text, /"error_description":/);
    const list = await call(api.url, undefined, "listApplications", { params: { zone_id } });
    assert.doesNotMatch(list.text, /error_description/, "and nobody else");
  });

  it("need an initial access token of this zone that lives, which opens nothing else", async () => {
    const initial = await fresh();
    const other = await makeZone(api);
    const body = { client_name: "a", token_endpoint_auth_method: "none" };
    assert.equal((await register(token, body)).status, 401, "an admin token is none");
    assert.equal((await register(undefined, body)).status, 401);
    assert.equal((await register(initial.token, body, other.zone_id)).status, 403);
    assert.equal((await call(api.url, initial.token, "listApplications", { params: { zone_id } })).status, 401);
    assert.equal((await register(initial.token, body)).status, 201);
    await expectOk(api.url, token, "archiveRegistrationToken", { params: { zone_id, id: initial.id } });
    assert.equal((await register(initial.token, body)).status, 401);
    const short = await expectOk(api.url, token, "createRegistrationToken", {
      params: { zone_id },
      body: { name: "short", expires_in_s: 60 },
    });
    await api.db.sql`update registration_tokens set expires_at = now() where id = ${short.id}`;
    assert.equal((await register(short.token, body)).status, 401);
  });

  it("are ten a second at most in a zone, whoever races, and a thousand that live", async () => {
    const initial = await fresh();
    const body = { client_name: "a", token_endpoint_auth_method: "none" };
    const began_ms = Date.now();
    const answers = await Promise.all(Array.from({ length: 40 }, () => register(initial.token, body)));
    const seconds = Math.ceil((Date.now() - began_ms) / 1_000);
    const made = answers.filter((answer) => answer.status === 201).length;
    const late = answers.filter((answer) => answer.status === 429);
    assert.ok(made >= 10 && made <= 10 * seconds, `${made} in ${seconds} s`);
    assert.equal(made + late.length, 40);
    assert.ok(late.every((answer) => Number(answer.headers.get("retry-after")) >= 1));
    await expectOk(api.url, api.global_token, "setQuota", {
      params: { zone_id, name: "registered_applications" },
      body: { limit: made },
    });
    await api.db.sql`update applications set created_at = created_at - interval '2 seconds' where zone_id = ${zone_id}`;
    assert.equal((await register(initial.token, body)).body.error, "quota_exceeded");
    const own = await call(api.url, token, "createApplication", { params: { zone_id }, body: { name: "by an admin" } });
    assert.equal(own.status, 201);
  });
});
