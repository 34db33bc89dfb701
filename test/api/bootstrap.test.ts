import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { verify, createPublicKey, sign } from "node:crypto";
import { openZoneKey } from "../../src/domain/zone-key.ts";
import { BOOTSTRAP_TOKEN, call, expectOk, KEK, send, serveApi, type ServedApi } from "./serve.ts";

const FIRST = { slug: "first", name: "First" };

describe("the bootstrap", () => {
  let api: ServedApi;
  before(async () => {
    api = await serveApi({ bootstrap_token: BOOTSTRAP_TOKEN });
  });
  after(() => api.close());

  it("is refused to every token but its own, an admin token included", async () => {
    for (const token of [undefined, "x", `${BOOTSTRAP_TOKEN}x`, BOOTSTRAP_TOKEN.slice(1), api.global_token]) {
      const answer = await call(api.url, token, "bootstrap", { body: FIRST });
      assert.equal(answer.status, 401);
      assert.match(answer.headers.get("www-authenticate") ?? "", /^Bearer/);
    }
  });

  it("opens nothing else", async () => {
    for (const name of ["listZones", "listAdminTokens", "listAdminAudit"] as const) {
      const answer = await call(api.url, BOOTSTRAP_TOKEN, name);
      assert.equal(answer.status, 401);
      assert.match(answer.text, /bootstrap/i);
    }
    const answer = await call(api.url, BOOTSTRAP_TOKEN, "createZone", { body: { slug: "other", name: "Other" } });
    assert.equal(answer.status, 401);
  });

  it("can't be brought in as an admin token", async () => {
    const answer = await call(api.url, api.global_token, "createAdminToken", {
      body: { label: "sneaky", zone_id: null, token: BOOTSTRAP_TOKEN },
    });
    assert.equal(answer.status, 400);
    assert.match(answer.text, /bootstrap/);
  });

  it("is not used up by a body that is refused, nor by a slug that is taken", async () => {
    assert.equal(
      (await call(api.url, BOOTSTRAP_TOKEN, "bootstrap", { body: { slug: "UPPER", name: "x" } })).status,
      400,
    );
    await expectOk(api.url, api.global_token, "createZone", { body: { slug: "taken", name: "Taken" } });
    const answer = await call(api.url, BOOTSTRAP_TOKEN, "bootstrap", { body: { slug: "taken", name: "x" } });
    assert.equal(answer.status, 409);
    assert.equal(answer.body.error, "slug_taken");
  });

  it("of many that race one wins and the others are told that it was used, and so is everyone after", async () => {
    const racers = await Promise.all(
      Array.from({ length: 12 }, (_, i) =>
        call(api.url, BOOTSTRAP_TOKEN, "bootstrap", { body: i % 2 === 0 ? FIRST : { slug: `b-${i}`, name: "B" } }),
      ),
    );
    assert.deepEqual(racers.map((one) => one.status).toSorted(), [201, ...Array<number>(11).fill(410)]);
    const late = await call(api.url, BOOTSTRAP_TOKEN, "bootstrap", { body: { slug: "late", name: "Late" } });
    assert.equal(late.status, 410);
    assert.equal(late.body.error, "bootstrap_used");

    const won = racers.find((one) => one.status === 201);
    assert.ok(won !== undefined);
    const { zone, admin_token } = won.body as unknown as {
      zone: { id: string };
      admin_token: { zone_id: string; token: string };
    };
    assert.equal(admin_token.zone_id, zone.id);
    await expectOk(api.url, admin_token.token, "getZone", { params: { zone_id: zone.id } });
    const zones = await expectOk(api.url, admin_token.token, "listZones");
    assert.equal(zones.items.length, 1);
    const elsewhere = await call(api.url, admin_token.token, "createZone", { body: { slug: "more", name: "More" } });
    assert.equal(elsewhere.status, 403);
    assert.equal(elsewhere.body.error, "admin_token_zone_mismatch");
  });

  it("gives the zone a sealed key that signs what its public part verifies", async () => {
    const keys = await api.db.sql<{ zone_id: string; kid: string; public_jwk: string; sealed_private: string }[]>`
      select zone_id, kid, public_jwk, sealed_private from zone_keys`;
    assert.ok(keys.length >= 2);
    for (const { zone_id, kid, public_jwk, sealed_private } of keys) {
      const jwk = JSON.parse(public_jwk) as { kid: string; d?: string; kty: string };
      assert.equal(jwk.kid, kid);
      assert.equal(jwk.d, undefined);
      const signature = sign("sha256", Buffer.from("x"), openZoneKey(KEK, zone_id, kid, sealed_private));
      assert.ok(verify("sha256", Buffer.from("x"), createPublicKey({ key: jwk, format: "jwk" }), signature));
      assert.throws(() => openZoneKey(KEK, "another-zone", kid, sealed_private));
    }
  });

  it("keeps no token readable in the database", async () => {
    const rows = await api.db.sql`select * from admin_tokens`;
    const audit = await api.db.sql`select * from admin_audit`;
    const outbox = await api.db.sql`select * from outbox`;
    const text = JSON.stringify([rows, audit, outbox]);
    assert.doesNotMatch(text, /caracal_admin_/);
    assert.ok(!text.includes(BOOTSTRAP_TOKEN));
  });
});

describe("an API without a bootstrap token", () => {
  it("has no bootstrap", async () => {
    const api = await serveApi();
    try {
      for (const token of ["", "undefined", BOOTSTRAP_TOKEN]) {
        const answer = await send(api.url, { method: "POST", path: "/v1/bootstrap", token, body: FIRST });
        assert.equal(answer.status, 401);
      }
    } finally {
      await api.close();
    }
  });
});
