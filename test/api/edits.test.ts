import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { STREAMS } from "../../src/contracts/streams.ts";
import { verifySecret } from "../../src/domain/secret-hash.ts";
import { call, expectOk, makeZone, send, serveApi, type ServedApi } from "./serve.ts";

const RESOURCE = { identifier: "resource://r", name: "R", upstream_url: "https://r.example.com", scopes: ["a"] };

describe("what is edited", () => {
  let api: ServedApi;
  let zone_id: string;
  let token: string;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  const fresh = async (): Promise<void> => {
    ({ zone_id, token } = await makeZone(api));
  };

  it("has an ETag, and whoever saw another state is told instead of overwriting it", async () => {
    await fresh();
    const made = await expectOk(api.url, token, "createResource", { params: { zone_id }, body: RESOURCE });
    const path = `/v1/zones/${zone_id}/resources/${made.id}`;
    const read = await send(api.url, { path, token });
    assert.equal(read.headers.get("etag"), '"1"');
    const patch = (name: string, if_match: string | undefined) =>
      send(api.url, {
        method: "PATCH",
        path,
        token,
        body: { name },
        headers: if_match === undefined ? {} : { "if-match": if_match },
      });
    const both = await Promise.all([patch("one", '"1"'), patch("two", '"1"')]);
    assert.deepEqual(both.map((answer) => answer.status).toSorted(), [200, 412]);
    assert.equal(both.find((answer) => answer.status === 200)?.headers.get("etag"), '"2"');
    assert.equal(both.find((answer) => answer.status === 412)?.body.error, "precondition_failed");
    assert.equal((await patch("three", 'W/"2"')).status, 412, "a weak tag never matches");
    assert.equal((await patch("three", '"7", "2"')).status, 200);
    assert.equal((await patch("four", "*")).status, 200);
    assert.equal((await patch("five", undefined)).status, 200);
    const gone = await send(api.url, { method: "DELETE", path, token, headers: { "if-match": '"1"' } });
    assert.equal(gone.status, 412);
    assert.equal((await send(api.url, { path, token })).status, 200);
  });

  it("is audited with what it was and what it is", async () => {
    await fresh();
    const made = await expectOk(api.url, token, "createResource", { params: { zone_id }, body: RESOURCE });
    const params = { zone_id, id: made.id };
    await expectOk(api.url, token, "updateResource", { params, body: { name: "Renamed" } });
    await expectOk(api.url, token, "archiveResource", { params });
    const { items } = await expectOk(api.url, token, "listZoneAdminAudit", { params: { zone_id } });
    const details = new Map(items.map((item) => [item.action, item.detail]));
    assert.deepEqual(details.get("resource.create"), { after: made });
    assert.deepEqual(details.get("resource.update"), { before: { name: "R" }, after: { name: "Renamed" } });
    const { before: last } = details.get("resource.archive") as { before: { name: string } };
    assert.equal(last.name, "Renamed");
  });

  it("is not archived while something depends on it, and the answer says what", async () => {
    await fresh();
    const app = await expectOk(api.url, token, "createApplication", { params: { zone_id }, body: { name: "server" } });
    const body = { ...RESOURCE, application_id: app.id };
    const resource = await expectOk(api.url, token, "createResource", { params: { zone_id }, body });
    const params = { zone_id, id: app.id };
    const refused = await call(api.url, token, "archiveApplication", { params });
    assert.equal(refused.status, 409);
    assert.equal(refused.body.error, "in_use");
    assert.deepEqual(refused.body.diagnostics, [{ kind: "resource", id: resource.id, field: "application_id" }]);
    await expectOk(api.url, token, "archiveResource", { params: { zone_id, id: resource.id } });
    await expectOk(api.url, token, "archiveApplication", { params });
  });

  it("takes two hundred writers at the same time: nothing is made twice, lost, or told out of order", async () => {
    await fresh();
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, n) =>
        call(api.url, token, "createResource", {
          params: { zone_id },
          body: { ...RESOURCE, identifier: `resource://r${n % 100}` },
        }),
      ),
    );
    const made = answers.filter((answer) => answer.status === 201).map((answer) => (answer.body as { id?: string }).id);
    assert.equal(made.length, 100);
    assert.ok(answers.every(({ status, body }) => status === 201 || body.error === "identifier_taken"));
    const told = await api.db.sql<{ seq: number; fields_json: string }[]>`
      select seq::float8 as seq, fields_json from outbox
      where zone_id = ${zone_id} and stream = ${STREAMS.config} order by seq`;
    assert.deepEqual(
      told.map((row) => row.seq),
      told.map((_, n) => n + 1),
    );
    const ids = told.map((row) => JSON.parse(row.fields_json) as { kind: string; id: string });
    const resources = ids.filter(({ kind }) => kind === "resource").map(({ id }) => id);
    assert.deepEqual(resources.toSorted(), made.toSorted());
    const [audited] = await api.db.sql<[{ rows: number }]>`
      select count(*)::float8 as rows from admin_audit where zone_id = ${zone_id} and action = 'resource.create'`;
    assert.equal(audited.rows, 100);
  });

  it("is listed by what it has", async () => {
    await fresh();
    for (const name of ["one", "two"]) {
      await expectOk(api.url, token, "createApplication", { params: { zone_id }, body: { name, kind: "public" } });
    }
    const list = (query: Record<string, string>) =>
      expectOk(api.url, token, "listApplications", { params: { zone_id }, query });
    assert.deepEqual(
      (await list({ name: "two" })).items.map((item) => item.name),
      ["two"],
    );
    assert.deepEqual((await list({ kind: "public" })).items.length, 2);
    assert.deepEqual((await list({ kind: "confidential" })).items, []);
  });
});

describe("what is made under an Idempotency-Key", () => {
  let api: ServedApi;
  let zone_id: string;
  let token: string;
  before(async () => {
    api = await serveApi();
    ({ zone_id, token } = await makeZone(api));
  });
  after(() => api.close());

  const make = (key: string, body: unknown, by = token) =>
    send(api.url, {
      method: "POST",
      path: `/v1/zones/${zone_id}/applications`,
      token: by,
      body,
      headers: { "idempotency-key": key },
    });

  it("is made once, also by many at the same time, and its secret is in the first answer alone", async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, () => make("k1", { name: "once" })));
    assert.deepEqual(new Set(answers.map((answer) => answer.status)), new Set([201]));
    const bodies = answers.map((answer) => answer.body as unknown as { id: string; client_secret?: string });
    assert.equal(new Set(bodies.map((body) => body.id)).size, 1);
    const secrets = bodies.flatMap((body) => body.client_secret ?? []);
    assert.equal(secrets.length, 1);
    const rows = await api.db.sql<{ secret_hash: string }[]>`
      select secret_hash from applications where zone_id = ${zone_id} and name = 'once'`;
    assert.equal(rows.length, 1);
    assert.ok(await verifySecret(secrets[0] ?? "", rows[0]?.secret_hash ?? "", zone_id));
    const kept = JSON.stringify(await api.db.sql`select * from idempotency_keys`);
    assert.doesNotMatch(kept, /caracal_secret_/);
  });

  it("is refused where the key was used for something else, and another token's keys are its own", async () => {
    assert.equal((await make("k2", { name: "first" })).status, 201);
    const other = await make("k2", { name: "second" });
    assert.equal(other.status, 409);
    assert.equal(other.body.error, "idempotency_key_reused");
    assert.equal((await make("k2", { name: "second" }, api.global_token)).status, 201);
    assert.equal((await make("", { name: "x" })).status, 400);
    assert.equal((await make("a b", { name: "x" })).status, 400);
  });

  it("leaves the key free where it was refused", async () => {
    const create = (upstream_url: string) =>
      send(api.url, {
        method: "POST",
        path: `/v1/zones/${zone_id}/resources`,
        token,
        body: { ...RESOURCE, upstream_url },
        headers: { "idempotency-key": "k3" },
      });
    const taken = await expectOk(api.url, token, "createResource", { params: { zone_id }, body: RESOURCE });
    assert.equal((await create("https://r.example.com")).status, 409);
    await expectOk(api.url, token, "archiveResource", { params: { zone_id, id: taken.id } });
    assert.equal((await create("https://r.example.com")).status, 201);
  });
});
