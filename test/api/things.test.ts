import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { STREAMS } from "../../src/contracts/streams.ts";
import { unseal } from "../../src/domain/sealing.ts";
import { verifySecret } from "../../src/domain/secret-hash.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { call, expectOk, KEK, makeZone, serveApi, type ServedApi } from "./serve.ts";

const OAUTH = {
  name: "payments",
  kind: "oauth2",
  client_id: "caracal",
  token_url: "https://auth.example.com/token",
  allowed_hosts: ["pay.example.com"],
  client_secret: "the-client-secret",
} as const;
const PAY = {
  identifier: "resource://pay",
  name: "Pay",
  upstream_url: "https://pay.example.com/v1",
  scopes: ["pay", "see"],
};

describe("providers, issuers, grants and keys", () => {
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
  const everythingElse = async (): Promise<string> =>
    JSON.stringify([await api.db.sql`select * from admin_audit`, await api.db.sql`select * from outbox`]);
  const marks = async (): Promise<Record<string, string>[]> =>
    (
      await api.db.sql<{ fields_json: string }[]>`
        select fields_json from outbox where zone_id = ${zone_id} and stream = ${STREAMS.revoke} order by seq`
    ).map((row) => JSON.parse(row.fields_json) as Record<string, string>);

  it("keep a provider's secrets sealed for their own row and column, and show their names alone", async () => {
    const params = await fresh();
    const made = await expectOk(api.url, token, "createProvider", { params, body: OAUTH });
    assert.deepEqual(made.secret_config_keys, ["client_secret"]);
    assert.equal(made.auth_header, "Authorization");
    const [row] = await api.db.sql<{ sealed_client_secret: string }[]>`
      select sealed_client_secret from providers where id = ${made.id}`;
    const place = { table: "providers", zone_id, row: made.id, column: "sealed_client_secret" };
    assert.equal(unseal(KEK, place, row?.sealed_client_secret ?? "").toString(), "the-client-secret");
    for (const other of [{ zone_id: "z" }, { row: "r" }, { column: "sealed_api_key" }, { table: "grants" }]) {
      assert.throws(() => unseal(KEK, { ...place, ...other }, row?.sealed_client_secret ?? ""));
    }
    assert.doesNotMatch(await everythingElse(), /the-client-secret/);
  });

  it("clear a provider's secrets when they would go elsewhere, unless they are brought anew", async () => {
    const params = await fresh();
    const made = await expectOk(api.url, token, "createProvider", { params, body: OAUTH });
    const patch = (body: Record<string, unknown>) =>
      expectOk(api.url, token, "updateProvider", { params: { zone_id, id: made.id }, body });
    assert.deepEqual((await patch({ name: "renamed", token_url: OAUTH.token_url })).secret_config_keys, [
      "client_secret",
    ]);
    assert.deepEqual((await patch({ token_url: "https://evil.example.com/token" })).secret_config_keys, []);
    assert.deepEqual((await patch({ client_secret: "again" })).secret_config_keys, ["client_secret"]);
    assert.deepEqual((await patch({ allowed_hosts: ["evil.example.com"] })).secret_config_keys, []);
    const both = await patch({ allowed_hosts: ["pay.example.com"], client_secret: "meant for there" });
    assert.deepEqual(both.secret_config_keys, ["client_secret"]);
  });

  it("keep a credential on the provider's hosts: no resource elsewhere takes it, and one that moves loses it", async () => {
    const params = await fresh();
    const body = { ...OAUTH, allowed_hosts: ["pay.example.com", "pay2.example.com"] };
    const provider = await expectOk(api.url, token, "createProvider", { params, body });
    const provider_id = provider.id;
    const elsewhere = { ...PAY, upstream_url: "https://evil.example.com", provider_id };
    const refused = await call(api.url, token, "createResource", { params, body: elsewhere });
    assert.equal(refused.status, 400);
    assert.equal(refused.body.issues?.[0]?.path, "upstream_url");
    const resource = await expectOk(api.url, token, "createResource", { params, body: { ...PAY, provider_id } });
    const move = (upstream_url: string) =>
      call(api.url, token, "updateResource", { params: { zone_id, id: resource.id }, body: { upstream_url } });
    const keys = async () =>
      (await expectOk(api.url, token, "getProvider", { params: { zone_id, id: provider_id } })).secret_config_keys;
    assert.equal((await move("https://evil.example.com")).status, 400);
    assert.equal((await move("https://pay.example.com/v2")).status, 200);
    assert.deepEqual(await keys(), ["client_secret"]);
    assert.equal((await move("https://pay2.example.com/v2")).status, 200);
    assert.deepEqual(await keys(), []);
    const busy = await call(api.url, token, "archiveProvider", { params: { zone_id, id: provider_id } });
    assert.deepEqual(busy.body.diagnostics, [{ kind: "resource", id: resource.id, field: "provider_id" }]);
  });

  it("refuse what a kind of provider does not have, headers that are not a credential's, and addresses inside", async () => {
    const params = await fresh();
    const bad: [string, Record<string, unknown>][] = [
      ["token_url", { token_url: null }],
      ["api_key", { api_key: "k" }],
      ["issuer_url", { issuer_url: "https://auth.example.com" }],
      ["token_url", { token_url: "https://inside.example.net/token" }],
      ["token_url", { token_url: "https://169.254.169.254/latest" }],
      ["token_url", { token_url: "http://auth.example.com/token" }],
      ["allowed_hosts", { allowed_hosts: [] }],
      ["allowed_hosts", { allowed_hosts: ["https://pay.example.com"] }],
      ["allowed_hosts", { allowed_hosts: ["PAY.example.com"] }],
      ["allowed_hosts", { allowed_hosts: ["a.example.com/x"] }],
      ["allowed_hosts", { allowed_hosts: ["u@a.example.com"] }],
      ...["Host", "cookie", "Connection", "TE", "X-Caracal-Resource", "a b", "a:", "Content-Length"].map(
        (auth_header): [string, Record<string, unknown>] => ["auth_header", { auth_header }],
      ),
      ["auth_scheme", { auth_scheme: "Bearer x" }],
      ["client_secret", { client_secret: "a\r\nb" }],
    ];
    for (const [field, change] of bad) {
      const answer = await call(api.url, token, "createProvider", { params, body: { ...OAUTH, ...change } });
      assert.equal(answer.status, 400, JSON.stringify(change));
      assert.equal(answer.body.issues?.[0]?.path.split(".")[0], field, answer.text);
    }
  });

  it("let an application prove itself by an issuer's workload, which stays while that application lives", async () => {
    const params = await fresh();
    const issuer = await expectOk(api.url, token, "createIssuer", {
      params,
      body: { name: "ci", issuer_url: "https://ci.example.com", audience: "caracal" },
    });
    const inside = { name: "x", issuer_url: "https://inside.example.net", audience: "a" };
    assert.equal((await call(api.url, token, "createIssuer", { params, body: inside })).status, 400);
    const jwks = { keys: [{ kty: "EC", crv: "P-256", x: "x", y: "y", d: "private" }] };
    const with_private = { ...inside, issuer_url: "https://b.example.com", jwks };
    assert.equal((await call(api.url, token, "createIssuer", { params, body: with_private })).status, 400);
    const workload = { credential_types: ["workload"], workload_issuer_id: issuer.id };
    for (const workload_claims of [undefined, {}, { sub: "*" }, { sub: "repo:a/*", repository: "*" }]) {
      const body = { name: "ci", ...workload, ...(workload_claims === undefined ? {} : { workload_claims }) };
      const open = await call(api.url, token, "createApplication", { params, body });
      assert.equal(open.status, 400, "every workload of the issuer would be this application");
    }
    const app = await expectOk(api.url, token, "createApplication", {
      params,
      body: { name: "ci", ...workload, workload_claims: { sub: "repo:a/b" } },
    });
    assert.equal(app.client_secret, undefined);
    assert.deepEqual(app.workload_claims, { sub: "repo:a/b" });
    const refused = await call(api.url, token, "archiveIssuer", { params: { zone_id, id: issuer.id } });
    assert.deepEqual(refused.body.diagnostics, [{ kind: "application", id: app.id, field: "workload_issuer_id" }]);
  });

  it("give a grant to a user of an issuer of this zone alone, and keep the issuer while the grant lives", async () => {
    const elsewhere = await fresh();
    const issuer = { name: "people", issuer_url: "https://login.example.com", audience: "caracal" };
    const foreign = await expectOk(api.url, token, "createIssuer", { params: elsewhere, body: issuer });
    const params = await fresh();
    const own = await expectOk(api.url, token, "createIssuer", { params, body: issuer });
    const app = await expectOk(api.url, token, "createApplication", { params, body: { name: "a", kind: "public" } });
    const resource = await expectOk(api.url, token, "createResource", { params, body: PAY });
    const grantTo = (subject: string) =>
      call(api.url, token, "createGrant", {
        params,
        body: { application_id: app.id, resource_id: resource.id, subject, scopes: [] },
      });
    for (const issuer_id of [foreign.id, uuidv7()]) {
      const refused = await grantTo(`${issuer_id}|ann`);
      assert.deepEqual(
        [refused.status, refused.body.issues],
        [400, [{ path: "subject", message: "names no issuer of this zone" }]],
      );
    }
    const made = await grantTo(`${own.id}|ann|of|many`);
    assert.equal(made.status, 201, made.text);
    const { id } = made.body as unknown as { id: string };
    const archive = () => call(api.url, token, "archiveIssuer", { params: { zone_id, id: own.id } });
    assert.deepEqual((await archive()).body.diagnostics, [{ kind: "grant", id, field: "subject" }]);
    await expectOk(api.url, token, "archiveGrant", { params: { zone_id, id } });
    assert.equal((await archive()).status, 204);
  });

  it("keep an old client secret beside the new one for as long as is asked, and one at most", async () => {
    const params = await fresh();
    const app = await expectOk(api.url, token, "createApplication", { params, body: { name: "a" } });
    const replace = (query: Record<string, string>) =>
      expectOk(api.url, token, "replaceSecret", { params: { zone_id, id: app.id }, query });
    const hashes = async () =>
      (
        await api.db.sql<{ secret_hash: string; previous_secret_hash: string | null }[]>`
          select secret_hash, previous_secret_hash from applications where id = ${app.id}`
      )[0];
    const second = await replace({ keep_old_s: "600" });
    assert.ok(second.previous_secret_expires_at !== null);
    assert.ok(await verifySecret(app.client_secret ?? "", (await hashes())?.previous_secret_hash ?? "", zone_id));
    const third = await replace({ keep_old_s: "600" });
    assert.ok(await verifySecret(second.client_secret, (await hashes())?.previous_secret_hash ?? "", zone_id));
    assert.ok(await verifySecret(third.client_secret, (await hashes())?.secret_hash ?? "", zone_id));
    assert.equal((await replace({})).previous_secret_expires_at, null);
    assert.equal((await hashes())?.previous_secret_hash, null);
  });

  it("end what a revoked grant let through, and forget its credential", async () => {
    const params = await fresh();
    const app = await expectOk(api.url, token, "createApplication", { params, body: { name: "a" } });
    const resource = await expectOk(api.url, token, "createResource", { params, body: PAY });
    const body = { application_id: app.id, resource_id: resource.id, subject: "i|ann", scopes: ["pay"] };
    const wide = await call(api.url, token, "createGrant", { params, body: { ...body, scopes: ["pay", "all"] } });
    assert.equal(wide.status, 400);
    const grant = await expectOk(api.url, token, "createGrant", { params, body });
    assert.equal((await call(api.url, token, "createGrant", { params, body })).body.error, "subject_taken");
    const held = await expectOk(api.url, token, "putGrantCredential", {
      params: { zone_id, id: grant.id },
      body: { access_token: "user-access", refresh_token: "user-refresh", expires_at: "2030-01-01T00:00:00Z" },
    });
    assert.deepEqual(held.credential_keys, ["access_token", "refresh_token"]);
    assert.equal(held.credential_expires_at, "2030-01-01T00:00:00.000Z");
    assert.equal((await call(api.url, token, "archiveResource", { params: { zone_id, id: resource.id } })).status, 409);
    await expectOk(api.url, token, "archiveGrant", { params: { zone_id, id: grant.id } });
    const [mark] = await marks();
    assert.deepEqual([mark?.["op"], mark?.["kind"], mark?.["id"]], ["revoke", "grant", grant.id]);
    assert.ok(Number(mark?.["expires_at"]) > Date.now() / 1000 + 3600);
    const [row] = await api.db.sql`select sealed_access_token, sealed_refresh_token from grants where id = ${grant.id}`;
    assert.deepEqual({ ...row }, { sealed_access_token: null, sealed_refresh_token: null });
    assert.doesNotMatch(await everythingElse(), /user-access|user-refresh/);
    await expectOk(api.url, token, "createGrant", { params, body });
  });

  it("rotate a zone's key without ending a token, and end them all when the key was stolen", async () => {
    const params = await fresh();
    const [first] = (await expectOk(api.url, token, "listKeys", { params })).items;
    const second = await expectOk(api.url, token, "rotateKeys", { params, body: {} });
    const delay_s = (Date.parse(second.signs_from) - Date.parse(second.created_at)) / 1000;
    assert.ok(delay_s >= 299 && delay_s <= 301);
    assert.deepEqual(second.ended, { kids: [], sessions: 0 });
    const again = await call(api.url, token, "rotateKeys", { params, body: {} });
    assert.equal(again.body.error, "rotation_too_soon");
    const long_ago = api.db.sql`
      update zone_keys set signs_from = now() - interval '2 hours' where zone_id = ${zone_id} and kid = ${second.kid}`;
    await long_ago;
    const third = await expectOk(api.url, token, "rotateKeys", { params, body: {} });
    assert.deepEqual(third.ended.kids, [first?.kid], "the two most recent stay");
    const forced = await expectOk(api.url, token, "rotateKeys", { params, body: { force: true } });
    assert.deepEqual(forced.ended.kids.toSorted(), [second.kid, third.kid].toSorted());
    assert.equal(forced.signs_from <= new Date(Date.now() + 1_000).toISOString(), true);
    const told = await api.db.sql<{ fields_json: string }[]>`
      select fields_json from outbox where zone_id = ${zone_id} and stream = ${STREAMS.keys} order by seq`;
    const kids = told.map((row) => (JSON.parse(row.fields_json) as { id: string }).id);
    assert.deepEqual(kids, [first?.kid, second.kid, third.kid, forced.kid]);
  });

  it("let one of many rotations through that race", async () => {
    const params = await fresh();
    const answers = await Promise.all(
      Array.from({ length: 5 }, () => call(api.url, token, "rotateKeys", { params, body: {} })),
    );
    assert.deepEqual(answers.map((answer) => answer.status).toSorted(), [201, 409, 409, 409, 409]);
  });
});
