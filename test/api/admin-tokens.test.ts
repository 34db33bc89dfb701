import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { after, before, describe, it } from "node:test";
import * as fc from "fast-check";
import { weaknessOf } from "../../src/api/token-strength.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { eventually } from "../support/eventually.ts";
import { call, expectOk, makeZone, send, serveApi, type ServedApi } from "./serve.ts";

describe("admin tokens", () => {
  let api: ServedApi;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  it("are asked for in one way only, and named as such when they are missing or wrong", async () => {
    const { zone_id, token } = await makeZone(api);
    const path = `/v1/zones/${zone_id}`;
    for (const authorization of [
      "",
      "Bearer",
      "Bearer ",
      `Basic ${token}`,
      token,
      `Bearer ${token}x`,
      `Bearer ${token} ${token}`,
      `Bearer ${"a".repeat(2000)}`,
    ]) {
      const answer = await send(api.url, { path, headers: { authorization } });
      assert.equal(answer.status, 401, authorization);
      assert.equal(answer.body.error, "invalid_token");
      assert.match(answer.headers.get("www-authenticate") ?? "", /^Bearer/);
      assert.equal(answer.headers.get("cache-control"), "no-store");
    }
    assert.equal((await send(api.url, { path: `${path}?access_token=${token}` })).status, 401);
    assert.equal((await send(api.url, { path, headers: { authorization: `bearer ${token}` } })).status, 200);
  });

  it("of a zone reach that zone and no other, whether the other exists or not", async () => {
    const one = await makeZone(api);
    const other = await makeZone(api);
    for (const zone_id of [other.zone_id, uuidv7(), "system", "x"]) {
      for (const name of ["getZone", "listApplications", "listAudit", "listZoneAdminAudit", "archiveZone"] as const) {
        const answer = await call(api.url, one.token, name, { params: { zone_id } });
        assert.equal(answer.status, 403, `${name} ${zone_id}`);
        assert.equal(answer.body.error, "admin_token_zone_mismatch");
      }
    }
    const made = await expectOk(api.url, other.token, "createApplication", {
      params: { zone_id: other.zone_id },
      body: { name: "a" },
    });
    const stolen = await call(api.url, one.token, "getApplication", { params: { zone_id: one.zone_id, id: made.id } });
    assert.equal(stolen.status, 404);
    assert.equal((await call(api.url, one.token, "createZone", { body: { slug: "mine", name: "Mine" } })).status, 403);
    assert.equal((await call(api.url, one.token, "listAdminAudit")).status, 403);
  });

  it("of a zone make tokens of that zone, by default too, and never a global one", async () => {
    const one = await makeZone(api);
    const other = await makeZone(api);
    for (const zone_id of [null, other.zone_id]) {
      const answer = await call(api.url, one.token, "createAdminToken", { body: { label: "x", zone_id } });
      assert.equal(answer.status, 403);
      assert.equal(answer.body.error, "admin_token_zone_mismatch");
    }
    for (const body of [{ label: "x" }, { label: "x", zone_id: one.zone_id }]) {
      assert.equal((await expectOk(api.url, one.token, "createAdminToken", { body })).zone_id, one.zone_id);
    }
  });

  it("that are global come about only where it is said", async () => {
    const answer = await call(api.url, api.global_token, "createAdminToken", { body: { label: "x" } });
    assert.equal(answer.status, 400);
    assert.equal(answer.body.issues?.[0]?.path, "zone_id");
    const made = await expectOk(api.url, api.global_token, "createAdminToken", { body: { label: "x", zone_id: null } });
    await expectOk(api.url, made.token, "listAdminAudit");
  });

  it("that may read only are refused every write before its body is looked at", async () => {
    const { zone_id, token } = await makeZone(api);
    const reader = await expectOk(api.url, token, "createAdminToken", { body: { label: "r", access: "read" } });
    await expectOk(api.url, reader.token, "listApplications", { params: { zone_id } });
    for (const name of [
      "createApplication",
      "archiveZone",
      "updateZone",
      "createAdminToken",
      "revokeSubject",
    ] as const) {
      const answer = await call(api.url, reader.token, name, { params: { zone_id, id: reader.id } });
      assert.equal(answer.status, 403, name);
      assert.equal(answer.body.error, "admin_token_read_only");
    }
    const revoke = await call(api.url, reader.token, "revokeAdminToken", { params: { id: reader.id } });
    assert.equal(revoke.status, 403);
  });

  it("stop working when they expire or are revoked, and leave the list", async () => {
    const { token } = await makeZone(api);
    const short = await expectOk(api.url, token, "createAdminToken", { body: { label: "short", expires_in_s: 60 } });
    await expectOk(api.url, short.token, "listZones");
    await api.db.sql`update admin_tokens set expires_at = now() where id = ${short.id}`;
    assert.equal((await call(api.url, short.token, "listZones")).status, 401);

    const gone = await expectOk(api.url, token, "createAdminToken", { body: { label: "gone" } });
    await expectOk(api.url, token, "revokeAdminToken", { params: { id: gone.id } });
    assert.equal((await call(api.url, gone.token, "listZones")).status, 401);
    assert.equal((await call(api.url, token, "revokeAdminToken", { params: { id: gone.id } })).status, 404);
    const { items } = await expectOk(api.url, token, "listAdminTokens");
    assert.ok(!items.some((one) => one.id === gone.id));
  });

  it("make no token that outlives them", async () => {
    const { token } = await makeZone(api);
    const short = await expectOk(api.url, token, "createAdminToken", { body: { label: "short", expires_in_s: 60 } });
    for (const body of [{ label: "endless" }, { label: "long", expires_in_s: 86_400 }]) {
      const made = await expectOk(api.url, short.token, "createAdminToken", { body });
      assert.equal(made.expires_at, short.expires_at);
    }
    const shorter = await expectOk(api.url, token, "createAdminToken", { body: { label: "endless" } });
    assert.equal(shorter.expires_at, null);
  });

  it("take with them what they made, and what that made, when they are revoked", async () => {
    const { token } = await makeZone(api);
    const make = async (maker: string) => expectOk(api.url, maker, "createAdminToken", { body: { label: "x" } });
    const parent = await make(token);
    const child = await make(parent.token ?? "");
    const grandchild = await make(child.token ?? "");
    const sibling = await make(token);
    // As if the child had been revoked before descendants were: the way to the grandchild leads through it.
    await api.db.sql`update admin_tokens set revoked_at = now() where id = ${child.id}`;
    await expectOk(api.url, token, "revokeAdminToken", { params: { id: parent.id } });
    for (const gone of [parent, child, grandchild]) {
      assert.equal((await call(api.url, gone.token, "listZones")).status, 401);
    }
    await expectOk(api.url, sibling.token, "listZones");
  });

  it("that are revoked while they make something make nothing", async () => {
    const { zone_id, token } = await makeZone(api);
    const maker = await expectOk(api.url, token, "createAdminToken", { body: { label: "maker" } });
    await expectOk(api.url, maker.token, "listZones"); // its use is written down, so admission will write nothing
    let child: Promise<{ status: number }> | undefined;
    await api.owner.sql.begin(async (tx) => {
      await tx`update admin_tokens set revoked_at = now() where id = ${maker.id}`;
      child = call(api.url, maker.token, "createAdminToken", { body: { label: "lasting" } });
      let answered = false;
      void child.then(() => (answered = true));
      await eventually(async () => {
        const waiting = await api.db.sql`
          select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
        assert.ok(answered || waiting.length > 0);
      });
    });
    assert.equal((await child)?.status, 401);
    const made = await api.db.sql`select 1 from admin_tokens where zone_id = ${zone_id} and label = 'lasting'`;
    assert.equal(made.length, 0);
  });

  it("of another zone can be neither seen nor revoked", async () => {
    const one = await makeZone(api);
    const other = await makeZone(api);
    const { items } = await expectOk(api.url, other.token, "listAdminTokens");
    assert.equal(items.length, 1);
    const id = items[0]?.id ?? "";
    assert.equal((await call(api.url, one.token, "getAdminToken", { params: { id } })).status, 404);
    assert.equal((await call(api.url, one.token, "revokeAdminToken", { params: { id } })).status, 404);
    const asked = await expectOk(api.url, one.token, "listAdminTokens", { query: { zone_id: other.zone_id } });
    assert.deepEqual(asked.items, []);
  });

  it("end with their zone", async () => {
    const { zone_id, token } = await makeZone(api);
    await expectOk(api.url, token, "archiveZone", { params: { zone_id } });
    assert.equal((await call(api.url, token, "listZones")).status, 401);
    assert.equal((await call(api.url, api.global_token, "listApplications", { params: { zone_id } })).status, 404);
    await expectOk(api.url, api.global_token, "listZoneAdminAudit", { params: { zone_id } }); // what happened stays known
    await expectOk(api.url, api.global_token, "archiveZone", { params: { zone_id } }); // again: nothing is left to do
  });

  it("can be brought, are kept as SHA-256 only, and are unique", async () => {
    const token = randomBytes(32).toString("base64");
    const made = await expectOk(api.url, api.global_token, "createAdminToken", {
      body: { label: "mine", zone_id: null, token },
    });
    assert.equal(made.token, undefined);
    await expectOk(api.url, token, "listZones");
    const [row] = await api.db.sql<
      { token_sha256: string }[]
    >`select token_sha256 from admin_tokens where id = ${made.id}`;
    assert.equal(row?.token_sha256, createHash("sha256").update(token).digest("hex"));
    const again = await call(api.url, api.global_token, "createAdminToken", {
      body: { label: "mine", zone_id: null, token },
    });
    assert.equal(again.status, 409);
    assert.equal(again.body.error, "token_taken");
  });

  it("that are weak are refused with what to do, and never repeated", async () => {
    const weak = [
      "short",
      "a".repeat(64),
      "abcd".repeat(16),
      "correcthorsebatterystaplecorrecthorse",
      "password".repeat(8),
      `${"x".repeat(50)} y`,
      "é".repeat(50),
    ];
    for (const token of weak) {
      const answer = await call(api.url, api.global_token, "createAdminToken", {
        body: { label: "weak", zone_id: null, token },
      });
      assert.equal(answer.status, 400, token);
      assert.equal(answer.body.issues?.[0]?.path, "token");
      assert.match(answer.text, /openssl/);
      assert.ok(!answer.text.includes(token));
    }
    const wrong_place = await call(api.url, api.global_token, "createAdminToken", {
      body: { label: { secret: "s3cr3t-value" }, zone_id: null },
    });
    assert.doesNotMatch(wrong_place.text, /s3cr3t-value/);
  });

  it("that are 32 random bytes pass as strong in every usual encoding", () => {
    fc.assert(
      fc.property(fc.constantFrom("base64", "base64url", "hex"), (encoding) => {
        assert.equal(weaknessOf(randomBytes(32).toString(encoding as "hex")), undefined);
      }),
      { numRuns: 5_000 },
    );
  });

  it("have their last use written down once a minute, not once a request", async () => {
    const { token, zone_id } = await makeZone(api);
    const used = async (): Promise<string | null> =>
      (await expectOk(api.url, token, "listAdminTokens")).items[0]?.last_used_at ?? null;
    const first = await used();
    assert.notEqual(first, null);
    await Promise.all(Array.from({ length: 10 }, () => expectOk(api.url, token, "getZone", { params: { zone_id } })));
    assert.equal(await used(), first);
    await api.db
      .sql`update admin_tokens set last_used_at = last_used_at - interval '2 minutes' where zone_id = ${zone_id}`;
    assert.notEqual(await used(), first);
  });
});
