import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ambientToken, askMandate, callGateway, mandate, newRequestId } from "./agent.ts";
import { eventually } from "../support/eventually.ts";
import { metricAt } from "./metrics.ts";
import { newAgent, newApplication, newResource, type Topology } from "./topology.ts";

const ROUNDS = 25;
const AT_ONCE = 8;

/** A mandate is for one resource and for one use, whoever holds it. */
export const mandates = (topology: () => Topology): void => {
  describe("a mandate", () => {
    it("that an agent got itself is good for one call; the second is 401", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const token = await mandate(t, t.zone, application, ambient, resource);
      const before = await metricAt(t.gateway_urls[0] ?? "", "denials_jti_replay");
      const request_id = newRequestId();
      const first = await callGateway(t, token, resource, { request_id });
      assert.equal(first.status, 200, JSON.stringify(first.body));
      const second = await callGateway(t, token, resource);
      assert.equal(second.status, 401, JSON.stringify(second.body));
      assert.equal(second.body["error"], "InvalidToken");
      assert.match(second.headers.get("www-authenticate") ?? "", /^Bearer/);
      assert.equal(t.hop.calls(resource.identifier).length, 1);
      assert.equal(t.hop.calls(resource.identifier)[0]?.mandate, token, "it is forwarded as it is");
      assert.equal((await metricAt(t.gateway_urls[0] ?? "", "denials_jti_replay")) - before, 1);
      const row = await eventually(
        async () => (await t.zone.api.ledgerOf(request_id)).find((one) => one.event_type === "gateway.call") ?? null,
      );
      assert.equal(row.decision, "allow");
    });

    it("used by several at the same instant passes for exactly one of them", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      for (let round = 1; round <= ROUNDS; round += 1) {
        const token = await mandate(t, t.zone, application, ambient, resource);
        const width = round % 5 === 0 ? AT_ONCE : 2;
        const gateways = t.gateway_urls;
        const answers = await Promise.all(
          Array.from({ length: width }, (_, at) => {
            const gateway_url = gateways[at % gateways.length];
            return callGateway(t, token, resource, gateway_url === undefined ? {} : { gateway_url });
          }),
        );
        const statuses = answers.map((answer) => answer.status).sort();
        assert.deepEqual(statuses, [200, ...Array.from({ length: width - 1 }, () => 401)]);
        assert.equal(t.hop.calls(resource.identifier).length, round, "one call more reached the upstream");
      }
    });

    it("that the Gateway obtained for its own hop is accepted by no Gateway", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      await callGateway(t, ambient.token, resource);
      const seen = t.hop.calls(resource.identifier)[0];
      assert.equal(seen?.claims["via"], "gateway");
      const answer = await callGateway(t, seen?.mandate ?? "", resource);
      assert.equal(answer.status, 401, JSON.stringify(answer.body));
      assert.equal(t.hop.calls(resource.identifier).length, 1);
    });

    it("opens no other resource, and is not spent by the attempt", async () => {
      const t = topology();
      const other = await newResource(t, t.zone);
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const token = await mandate(t, t.zone, application, ambient, resource);
      const answer = await callGateway(t, token, other);
      assert.equal(answer.status, 403, JSON.stringify(answer.body));
      assert.deepEqual(t.hop.calls(other.identifier), []);
      assert.equal((await callGateway(t, token, resource)).status, 200);
    });

    it("is for the call that it names, and is not spent by another", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const token = await mandate(t, t.zone, application, ambient, resource);
      for (const other of [{ path: "/another" }, { method: "POST" }]) {
        const answer = await callGateway(t, token, resource, other);
        assert.equal(answer.status, 403, JSON.stringify(answer.body));
        assert.equal(answer.body["reason"], "mandate_for_another_call");
      }
      assert.equal(t.hop.calls(resource.identifier).length, 0);
      assert.equal((await callGateway(t, token, resource)).status, 200);
    });

    it("is not made for any call at all, unless the application was set up for that", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const unnamed = { call_method: "", call_path: "" };
      const answer = await askMandate(t, t.zone, application, ambient.token, resource.identifier, unnamed);
      assert.equal(answer.status, 400, JSON.stringify(answer.body));
      assert.equal(answer.body["reason"], "call_missing");
    });

    it("is never exchanged again", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const token = await mandate(t, t.zone, application, ambient, resource);
      const answer = await askMandate(t, t.zone, application, token, resource.identifier);
      assert.equal(answer.status, 400, JSON.stringify(answer.body));
      assert.equal(answer.body["error"], "invalid_request");
    });

    it("is not made from another application's ambient token", async () => {
      const t = topology();
      const { application: owner, resource } = await newAgent(t, t.zone);
      const thief = await newApplication(t.zone);
      const ambient = await ambientToken(t, t.zone, owner);
      const answer = await askMandate(t, t.zone, thief, ambient.token, resource.identifier);
      assert.ok(answer.status === 400 || answer.status === 403, `${answer.status}: ${JSON.stringify(answer.body)}`);
      assert.ok(!("access_token" in answer.body));
    });

    it("is made in no zone but its own: a token of another zone is refused at both doors", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const elsewhere = await newResource(t, t.bare_zone);
      const ambient = await ambientToken(t, t.zone, application);
      const at_gateway = await callGateway(t, ambient.token, elsewhere);
      assert.equal(at_gateway.status, 403, JSON.stringify(at_gateway.body));
      assert.deepEqual(t.hop.calls(elsewhere.identifier), []);
      const at_sts = await askMandate(t, t.bare_zone, application, ambient.token, resource.identifier);
      assert.equal(at_sts.status, 401, JSON.stringify(at_sts.body));
      assert.equal(at_sts.body["error"], "invalid_client");
    });
  });
};
