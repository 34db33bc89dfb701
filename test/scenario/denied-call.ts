import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { ambientToken, askAmbient, askMandate, callGateway, newRequestId } from "./agent.ts";
import { diagnosticsOf } from "./ledger.ts";
import { metricAt } from "./metrics.ts";
import {
  activatePolicies,
  newAgent,
  SAYS_AGENTS_ONLY,
  SAYS_NO_DELETION,
  SAYS_SEALED,
  type Topology,
} from "./topology.ts";

/** Policy has the last word, says it in the author's words, and the ledger keeps it. */
export const deniedCall = (topology: () => Topology): void => {
  describe("a call that policy denies", () => {
    it("is 403 with the policy's diagnostics, reaches no upstream, and is in the ledger", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone, { sealed: true });
      const ambient = await ambientToken(t, t.zone, application);
      const request_id = newRequestId();
      const before = await metricAt(t.gateway_urls[0] ?? "", "denials_policy");
      const answer = await callGateway(t, ambient.token, resource, { request_id });
      assert.equal(answer.status, 403, JSON.stringify(answer.body));
      assert.equal(answer.body["error"], "AccessDenied");
      assert.equal(answer.body["requestId"], request_id);
      assert.deepEqual(answer.body["diagnostics"], [SAYS_SEALED, { resource: resource.identifier }]);
      assert.deepEqual(t.hop.calls(resource.identifier), []);
      assert.equal((await metricAt(t.gateway_urls[0] ?? "", "denials_policy")) - before, 1);

      const row = await eventually(
        async () => (await t.zone.api.ledgerOf(request_id)).find((one) => one.event_type === "token.exchange") ?? null,
      );
      assert.equal(row.decision, "deny");
      assert.equal(row.client_id, application.id);
      assert.equal(row.resource_id, resource.id);
      assert.deepEqual(diagnosticsOf(row), [SAYS_SEALED, { resource: resource.identifier }]);
      assert.deepEqual(JSON.parse(row.determining_policies_json ?? "null"), ["scenario.sealed"]);
    });

    it("is 403 at the STS too, for an agent that asks for the mandate itself", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone, { sealed: true });
      const ambient = await ambientToken(t, t.zone, application);
      const answer = await askMandate(t, t.zone, application, ambient.token, resource.identifier);
      assert.equal(answer.status, 403, JSON.stringify(answer.body));
      assert.equal(answer.body["error"], "access_denied");
      assert.deepEqual(answer.body["diagnostics"], [SAYS_SEALED, { resource: resource.identifier }]);
      assert.equal(answer.headers.get("cache-control"), "no-store");
      assert.ok(!("access_token" in answer.body));
    });

    it("is denied by the one member of the set that speaks against it, though another allows", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const answer = await callGateway(t, ambient.token, resource, { method: "DELETE" });
      assert.equal(answer.status, 403, JSON.stringify(answer.body));
      assert.deepEqual(answer.body["diagnostics"], [SAYS_NO_DELETION]);
      assert.deepEqual(t.hop.calls(resource.identifier), []);
      assert.equal((await callGateway(t, ambient.token, resource)).status, 200, "another method is allowed");
    });

    it("is denied to who lacks the trait, for any resource that the ambient token is asked for", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone, { traits: [] });
      const answer = await askAmbient(t, t.zone, application, { resource: resource.identifier });
      assert.equal(answer.status, 403, JSON.stringify(answer.body));
      assert.deepEqual(answer.body["diagnostics"], [SAYS_AGENTS_ONLY]);
    });
  });

  describe("a zone without an active policy set", () => {
    it("issues nothing, says so in the ledger, and opens with the activation of a set", async () => {
      const t = topology();
      const zone = t.bare_zone;
      const { application, resource } = await newAgent(t, zone);
      for (const fields of [{}, { resource: resource.identifier }]) {
        const answer = await askAmbient(t, zone, application, fields);
        assert.equal(answer.status, 403, JSON.stringify(answer.body));
        assert.equal(answer.body["error"], "access_denied");
        assert.equal(answer.body["reason"], "no_active_policy_set");
        assert.ok(!("access_token" in answer.body));
      }
      const rows = await eventually(async () => {
        const found = await zone.api.ledger({ decision: "deny", client_id: application.id });
        return found.length >= 2 ? found : null;
      });
      for (const row of rows) {
        assert.deepEqual(diagnosticsOf(row), ["no_active_policy_set"]);
        assert.equal(row.evaluation_status, "no_active_policy_set");
      }
      assert.deepEqual(await zone.api.ledger({ decision: "allow" }), [], "nothing was ever allowed here");
      assert.deepEqual(await zone.api.listSessions(), [], "no session was made");

      await activatePolicies(zone.api);
      const ambient = await eventually(() => ambientToken(t, zone, application), { timeout_ms: 3_000 });
      const answer = await callGateway(t, ambient.token, resource);
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
    });
  });
};
