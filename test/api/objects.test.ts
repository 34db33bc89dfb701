import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { STREAMS } from "../../src/contracts/streams.ts";
import { verifySecret } from "../../src/domain/secret-hash.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { call, expectOk, makeZone, serveApi, type ServedApi } from "./serve.ts";

type Message = { readonly stream: string; readonly seq: number; readonly fields: Record<string, string> };

describe("zones, applications and resources", () => {
  let api: ServedApi;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  const messages = async (zone_id: string, stream: string): Promise<readonly Message[]> => {
    const rows = await api.db.sql<{ stream: string; seq: number; fields_json: string }[]>`
      select stream, seq::float8 as seq, fields_json from outbox where zone_id = ${zone_id} and stream = ${stream} order by seq`;
    return rows.map((row) => ({
      stream: row.stream,
      seq: row.seq,
      fields: JSON.parse(row.fields_json) as Record<string, string>,
    }));
  };
  const audited = async (zone_id: string): Promise<readonly string[]> =>
    (
      await api.db.sql<
        { action: string }[]
      >`select action from admin_audit where zone_id = ${zone_id} order by occurred_at`
    ).map((row) => row.action);

  it("live, change and are archived, and each change is audited and told in the order in which it was made", async () => {
    const { zone_id, token } = await makeZone(api);
    const params = { zone_id };
    const app = await expectOk(api.url, token, "createApplication", {
      params,
      body: { name: "agent", scopes: ["b", "a"], traits: ["team:x"], rate_limit_per_minute: 60 },
    });
    assert.deepEqual(
      [app.kind, app.scopes, app.traits, app.rate_limit_per_minute],
      ["confidential", ["b", "a"], ["team:x"], 60],
    );
    const id = app.id;
    const { client_secret, ...shown } = app;
    assert.deepEqual(await expectOk(api.url, token, "getApplication", { params: { zone_id, id } }), shown);
    const changed = await expectOk(api.url, token, "updateApplication", {
      params: { zone_id, id },
      body: { scopes: [], rate_limit_per_minute: null },
    });
    assert.deepEqual(
      [changed.name, changed.scopes, changed.traits, changed.rate_limit_per_minute],
      ["agent", [], ["team:x"], null],
    );

    const resource = await expectOk(api.url, token, "createResource", {
      params,
      body: {
        identifier: "resource://payments",
        name: "Payments",
        upstream_url: "https://Pay.example.com",
        scopes: ["pay"],
        application_id: id,
      },
    });
    assert.equal(resource.upstream_url, "https://pay.example.com/");
    await expectOk(api.url, token, "updateResource", {
      params: { zone_id, id: resource.id },
      body: { application_id: null },
    });
    await expectOk(api.url, token, "archiveResource", { params: { zone_id, id: resource.id } });
    await expectOk(api.url, token, "archiveApplication", { params: { zone_id, id } });

    for (const name of ["getApplication", "updateApplication", "replaceSecret"] as const) {
      const body = name === "updateApplication" ? { body: { name: "x" } } : {};
      assert.equal((await call(api.url, token, name, { params: { zone_id, id }, ...body })).status, 404, name);
    }
    assert.deepEqual((await expectOk(api.url, token, "listApplications", { params })).items, []);
    assert.deepEqual((await expectOk(api.url, token, "listResources", { params })).items, []);
    const gone = await call(api.url, token, "createResource", {
      params,
      body: { identifier: "resource://x", name: "X", upstream_url: "https://x.example.com", application_id: id },
    });
    assert.equal(gone.status, 400);
    assert.equal(gone.body.issues?.[0]?.path, "application_id");

    const config = await messages(zone_id, STREAMS.config);
    assert.deepEqual(
      config.map((one) => one.seq),
      config.map((_, i) => i + 1),
    );
    assert.deepEqual(
      config.map((one) => `${one.fields["kind"]} ${one.fields["id"]}`),
      [
        `zone ${zone_id}`,
        `application ${id}`,
        `application ${id}`,
        `resource ${resource.id}`,
        `resource ${resource.id}`,
        `resource ${resource.id}`,
        `application ${id}`,
      ],
    );
    assert.equal((await messages(zone_id, STREAMS.keys)).length, 1);
    assert.deepEqual(await audited(zone_id), [
      "zone.create",
      "admin_token.create",
      "application.create",
      "application.update",
      "resource.create",
      "resource.update",
      "resource.archive",
      "application.archive",
    ]);
    assert.ok(client_secret !== undefined && client_secret.length >= 43);
  });

  it("show a secret once, keep it as a hash, and replace it at once", async () => {
    const { zone_id, token } = await makeZone(api);
    const app = await expectOk(api.url, token, "createApplication", { params: { zone_id }, body: { name: "a" } });
    const hashOf = async (): Promise<string> =>
      (await api.db.sql<{ secret_hash: string }[]>`select secret_hash from applications where id = ${app.id}`)[0]
        ?.secret_hash ?? "";
    assert.ok(await verifySecret(app.client_secret ?? "", await hashOf(), "z"));
    const next = await expectOk(api.url, token, "replaceSecret", { params: { zone_id, id: app.id } });
    assert.ok(await verifySecret(next.client_secret, await hashOf(), "z"));
    assert.ok(!(await verifySecret(app.client_secret ?? "", await hashOf(), "z")));
    const everything = JSON.stringify([
      await api.db.sql`select * from admin_audit`,
      await api.db.sql`select * from outbox`,
    ]);
    assert.doesNotMatch(everything, /caracal_secret_/);

    const open = await expectOk(api.url, token, "createApplication", {
      params: { zone_id },
      body: { name: "p", kind: "public" },
    });
    assert.equal(open.client_secret, undefined);
    const refused = await call(api.url, token, "replaceSecret", { params: { zone_id, id: open.id } });
    assert.equal(refused.status, 409);
  });

  it("tell which field is taken, also to those that race, and free it when they are archived", async () => {
    const { zone_id, token } = await makeZone(api);
    const make = () =>
      call(api.url, token, "createResource", {
        params: { zone_id },
        body: { identifier: "resource://one", name: "One", upstream_url: "https://one.example.com/base?x=1" },
      });
    const answers = await Promise.all([make(), make(), make(), make()]);
    assert.deepEqual(answers.map((one) => one.status).toSorted(), [201, 409, 409, 409]);
    const refused = answers.find((one) => one.status === 409);
    assert.equal(refused?.body.error, "identifier_taken");
    assert.equal(refused?.body.issues?.[0]?.path, "identifier");
    const { items } = await expectOk(api.url, token, "listResources", { params: { zone_id } });
    await expectOk(api.url, token, "archiveResource", { params: { zone_id, id: items[0]?.id ?? "" } });
    assert.equal((await make()).status, 201);

    const zone = await expectOk(api.url, api.global_token, "getZone", { params: { zone_id } });
    const other = await makeZone(api);
    const slug = await call(api.url, other.token, "updateZone", {
      params: { zone_id: other.zone_id },
      body: { slug: zone.slug },
    });
    assert.equal(slug.body.error, "slug_taken");
  });

  it("are unreachable from another zone, by every operation", async () => {
    const one = await makeZone(api);
    const other = await makeZone(api);
    const app = await expectOk(api.url, one.token, "createApplication", {
      params: { zone_id: one.zone_id },
      body: { name: "a" },
    });
    const params = { zone_id: other.zone_id, id: app.id };
    for (const name of ["getApplication", "updateApplication", "archiveApplication", "replaceSecret"] as const) {
      const body = name === "updateApplication" ? { body: { name: "mine now" } } : {};
      assert.equal((await call(api.url, api.global_token, name, { params, ...body })).status, 404, name);
    }
    const named = await call(api.url, other.token, "createResource", {
      params: { zone_id: other.zone_id },
      body: { identifier: "resource://x", name: "X", upstream_url: "https://x.example.com", application_id: app.id },
    });
    assert.equal(named.status, 400);
  });

  it("come in pages that miss none and repeat none while others are made", async () => {
    const { zone_id, token } = await makeZone(api);
    const made: string[] = [];
    const make = async (n: number): Promise<void> => {
      made.push(
        (
          await expectOk(api.url, token, "createApplication", {
            params: { zone_id },
            body: { name: `a${n}`, kind: "public" },
          })
        ).id,
      );
    };
    for (let n = 0; n < 7; n += 1) await make(n);
    const before_paging = [...made];
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const query = { limit: "3", ...(cursor === undefined ? {} : { cursor }) };
      const page = await expectOk(api.url, token, "listApplications", { params: { zone_id }, query });
      seen.push(...page.items.map((item) => item.id));
      cursor = page.next_cursor;
      await make(100);
    } while (cursor !== undefined && seen.length < 50);
    assert.equal(new Set(seen).size, seen.length);
    assert.ok(before_paging.every((id) => seen.includes(id)));
    assert.deepEqual(seen, seen.toSorted());
  });

  it("refuse pages that make no sense, naming the parameter", async () => {
    const { zone_id, token } = await makeZone(api);
    const queries: Record<string, string>[] = [
      { limit: "0" },
      { limit: "201" },
      { limit: "-1" },
      { limit: "1e2" },
      { limit: "" },
      { cursor: "x" },
      { cursor: "" },
      { cursor: Buffer.from("' or 1=1").toString("base64url") },
      { page: "2" },
    ];
    for (const query of queries) {
      const answer = await call(api.url, token, "listApplications", { params: { zone_id }, query });
      assert.equal(answer.status, 400, JSON.stringify(query));
      assert.equal(answer.body.error, "invalid_query");
      assert.equal(answer.body.issues?.[0]?.path, Object.keys(query)[0]);
    }
  });

  it("refuse values that can't be meant, naming the field", async () => {
    const { zone_id, token } = await makeZone(api);
    const resource = { identifier: "resource://r", name: "R", upstream_url: "https://r.example.com" };
    const bad: [string, unknown][] = [
      ["upstream_url", "ftp://r.example.com"],
      ["upstream_url", "https://user:pw@r.example.com"],
      ["upstream_url", "https://r.example.com/#x"],
      ["upstream_url", "https://r.example.com/#"],
      ["upstream_url", "//r.example.com"],
      ["upstream_url", "javascript:alert(1)"],
      ["upstream_url", "https://r.exa\nmple.com"],
      ["upstream_url", "https://"],
      ["upstream_url", 5],
      ["identifier", "payments"],
      ["identifier", "resource://a#b"],
      ["identifier", "resource://a b"],
      ["identifier", "resource://"],
      ["identifier", "resource://é"],
      ["identifier", `resource://${"a".repeat(600)}`],
      ["name", ""],
      ["name", " x"],
      ["name", "a\u0000b"],
      ["name", "a\nb"],
      ["name", "a\u202eb"],
      ["name", "\ud800"],
      ["name", "x".repeat(201)],
      ["scopes", ["a b"]],
      ["scopes", ["a", "a"]],
      ["scopes", "a"],
      ["scopes", Array.from({ length: 257 }, (_, i) => `s${i}`)],
      ["application_id", "x"],
      ["application_id", uuidv7()],
    ];
    for (const [field, value] of bad) {
      const answer = await call(api.url, token, "createResource", {
        params: { zone_id },
        body: { ...resource, [field]: value },
      });
      assert.equal(answer.status, 400, `${field} ${JSON.stringify(value).slice(0, 60)}: ${answer.text}`);
      assert.equal(answer.body.error, "invalid_body");
      assert.equal(answer.body.issues?.[0]?.path.split(".")[0], field);
    }
    for (const rate_limit_per_minute of [0, -1, 1.5, 1e21, 1_000_001, "60", true]) {
      const body = { name: "a", rate_limit_per_minute };
      const answer = await call(api.url, token, "createApplication", { params: { zone_id }, body });
      assert.equal(answer.status, 400, String(rate_limit_per_minute));
    }
    for (const body of [{}, { name: undefined }, { kind: "public", name: "x" }]) {
      const app = await expectOk(api.url, token, "createApplication", {
        params: { zone_id },
        body: { name: "a", kind: "public" },
      });
      assert.equal(
        (await call(api.url, token, "updateApplication", { params: { zone_id, id: app.id }, body })).status,
        400,
      );
    }
  });

  it("refuse fields that this version does not have, rather than ignoring them", async () => {
    const { zone_id, token } = await makeZone(api);
    for (const field of ["provider_id", "issuer_id", "constructor", "toString", "id", "secret_hash"]) {
      const answer = await call(api.url, token, "createApplication", {
        params: { zone_id },
        body: { name: "a", [field]: "x" },
      });
      assert.equal(answer.status, 400, field);
      assert.equal(answer.body.issues?.[0]?.path, field);
      assert.match(answer.body.issues?.[0]?.message ?? "", /remove it/);
    }
    const proto = await call(api.url, token, "createApplication", {
      params: { zone_id },
      body: JSON.parse('{"name":"a","__proto__":{}}'),
    });
    assert.equal(proto.status, 400);
  });
});
