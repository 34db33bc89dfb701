import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { BOOTSTRAP_TOKEN, call, expectOk, serveApiAsGroup, serveEmbeddedApi, type ServedApi } from "./serve.ts";

const SOURCE = `package caracal.authz
import rego.v1
default result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": [], "diagnostics": []}
`;

const PLACES = { "the embedded database": serveEmbeddedApi, "PostgreSQL with its own rights only": serveApiAsGroup };

for (const [place, serve] of Object.entries(PLACES)) {
  describe(`the control plane on ${place}`, () => {
    let api: ServedApi;
    before(async () => {
      api = await serve({ bootstrap_token: BOOTSTRAP_TOKEN });
    });
    after(() => api.close());

    it("goes from the bootstrap to an active policy and a revoked session", async () => {
      const racers = await Promise.all(
        ["one", "two", "three"].map((slug) =>
          call(api.url, BOOTSTRAP_TOKEN, "bootstrap", { body: { slug, name: slug } }),
        ),
      );
      assert.deepEqual(racers.map((one) => one.status).toSorted(), [201, 410, 410]);
      const won = racers.find((one) => one.status === 201)?.body as unknown as {
        zone: { id: string };
        admin_token: { token: string };
      };
      const { token } = won.admin_token;
      const zone_id = won.zone.id;
      const params = { zone_id };

      const app = await expectOk(api.url, token, "createApplication", {
        params,
        body: { name: "é\u{1f600}", scopes: ["a", "b"], traits: [] },
      });
      const at = { zone_id, id: app.id };
      const changed = await expectOk(api.url, token, "updateApplication", {
        params: at,
        body: { traits: ["t"], rate_limit_per_minute: 5 },
      });
      assert.deepEqual(
        [changed.name, changed.scopes, changed.traits, changed.rate_limit_per_minute],
        ["é\u{1f600}", ["a", "b"], ["t"], 5],
      );
      await expectOk(api.url, token, "replaceSecret", { params: at });
      const resource = {
        identifier: "resource://x",
        name: "X",
        upstream_url: "https://x.example.com",
        application_id: app.id,
      };
      const made = await expectOk(api.url, token, "createResource", { params, body: resource });
      assert.equal(
        (await call(api.url, token, "createResource", { params, body: resource })).body.error,
        "identifier_taken",
      );
      await expectOk(api.url, token, "updateResource", {
        params: { zone_id, id: made.id },
        body: { application_id: null, scopes: ["s"] },
      });

      const policy = await expectOk(api.url, token, "createPolicy", { params, body: { name: "p" } });
      const version = await expectOk(api.url, token, "createPolicyVersion", {
        params: { zone_id, id: policy.id },
        body: { source: SOURCE },
      });
      const set = await expectOk(api.url, token, "createPolicySet", { params, body: { name: "s" } });
      const entries = [{ policy_version_id: version.id }];
      const in_set = { zone_id, id: set.id };
      const set_version = await expectOk(api.url, token, "createPolicySetVersion", {
        params: in_set,
        body: { entries },
      });
      assert.deepEqual((await expectOk(api.url, token, "listPolicySetVersions", { params: in_set })).items, [
        set_version,
      ]);
      await expectOk(api.url, token, "activatePolicySet", { params: in_set, body: { version_id: set_version.id } });
      assert.equal(
        (await expectOk(api.url, token, "getActivation", { params: in_set })).active?.version_id,
        set_version.id,
      );
      assert.equal((await call(api.url, token, "archivePolicy", { params: { zone_id, id: policy.id } })).status, 409);

      const session = uuidv7();
      await api.owner.sql`
      insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at)
      values (${zone_id}, ${session}, ${app.id}, 'alice', 'user', now() + interval '1 hour')`;
      assert.equal(
        (await expectOk(api.url, token, "revokeSubject", { params, body: { subject: "alice" } })).revoked,
        1,
      );
      assert.equal(
        (await expectOk(api.url, token, "getSession", { params: { zone_id, id: session } })).status,
        "revoked",
      );
      assert.deepEqual(
        (await expectOk(api.url, token, "listAudit", { params, query: { decision: "deny" } })).items,
        [],
      );

      const audit = await expectOk(api.url, token, "listZoneAdminAudit", { params });
      assert.equal(audit.items.length, 12);
      await expectOk(api.url, token, "archiveZone", { params });
      assert.equal((await call(api.url, token, "getZone", { params })).status, 401);
    });
  });
}
