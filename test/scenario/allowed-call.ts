import assert from "node:assert/strict";
import { documentsAmong, rebuiltInputs } from "../audit/rebuilt.ts";
import { describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { connectAgent } from "../support/mcp.ts";
import { ambientToken, askAmbient, askMandate, callGateway, newRequestId } from "./agent.ts";
import { assertChain, metadataOf } from "./ledger.ts";
import { metricAt, metricsPage } from "./metrics.ts";
import { newAgent, SCOPES, type Topology } from "./topology.ts";

/** The one path that the product is for: an ambient token, a call, a mandate, the upstream, the ledger. */
export const allowedCall = (topology: () => Topology): void => {
  describe("an allowed call", () => {
    it("takes an MCP client of the official SDK through the Gateway to an MCP server that verifies each mandate", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const request_id = newRequestId();
      const allowed_before = await metricAt(t.gateway_urls[0] ?? "", "requests_allowed");

      const agent = await connectAgent({
        gateway_url: t.gateway_urls[0] ?? "",
        access_token: ambient.token,
        resource: resource.identifier,
        request_id,
      });
      try {
        const { tools } = await agent.client.listTools();
        assert.ok(
          tools.some((tool) => tool.name === "echo"),
          "the server's tools are listed",
        );
        const result = await agent.client.callTool({ name: "echo", arguments: { message: "Grüße, 世界" } });
        assert.deepEqual(result.content, [{ type: "text", text: "Echo: Grüße, 世界" }]);
      } finally {
        await agent.close();
      }
      assert.deepEqual(agent.errors, []);

      const calls = t.hop.calls(resource.identifier);
      assert.ok(calls.length >= 4, `initialize, initialized, tools/list and tools/call are calls: ${calls.length}`);
      for (const call of calls) {
        assert.equal(call.claims["client_id"], application.id);
        assert.equal(call.claims["zone_id"], t.zone.id);
        assert.equal(call.claims["sid"], ambient.session_id, "a mandate's sid is its session's id");
        assert.equal(call.claims["via"], "gateway");
        assert.equal(call.claims["scope"], SCOPES.join(" "));
        assert.equal(call.headers["x-request-id"], request_id);
        assert.match(String(call.headers["traceparent"]), /^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/);
      }

      const rows = await eventually(async () => {
        const found = await t.zone.api.ledgerOf(request_id);
        const count = (type: string): number => found.filter((row) => row.event_type === type).length;
        assert.equal(count("gateway.outcome"), count("token.exchange"), "every decision has its outcome");
        assert.ok(count("gateway.outcome") >= t.hop.calls(resource.identifier).length);
        return found;
      });
      const decisions = rows.filter((row) => row.event_type === "token.exchange");
      // The client leaves with its listening stream half open: that one may have been decided and never have reached the hop.
      assert.ok(decisions.length - calls.length <= 1, "one decision for each call that reached the upstream");
      for (const decision of decisions) {
        assert.equal(decision.decision, "allow");
        assert.equal(decision.client_id, application.id);
        assert.equal(decision.session_id, ambient.session_id);
        assert.equal(decision.resource_id, resource.id);
        assert.equal(decision.evaluation_status, "complete");
        assert.deepEqual(JSON.parse(decision.determining_policies_json ?? "null"), ["scenario.agents"]);
        assert.ok(decision.policy_set_version_id !== null);
      }
      const ids = new Set(decisions.map((row) => row.id));
      for (const outcome of rows.filter((row) => row.event_type === "gateway.outcome")) {
        assert.ok(ids.has(String(metadataOf(outcome)["decision_id"])), "an outcome is joined by its decision's id");
      }
      assertChain(await t.zone.api.ledger(), t.audit_hmac_key);

      const allowed_after = await metricAt(t.gateway_urls[0] ?? "", "requests_allowed");
      assert.equal(allowed_after - allowed_before, decisions.length);
    });

    it("names what came of it in the ledger: status, bytes and time", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const request_id = newRequestId();
      const answer = await callGateway(t, ambient.token, resource, { request_id });
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
      const outcome = await eventually(
        async () => (await t.zone.api.ledgerOf(request_id)).find((row) => row.event_type === "gateway.outcome") ?? null,
      );
      const { status, bytes, duration_ms, cut } = metadataOf(outcome);
      assert.equal(status, 200);
      assert.equal(bytes, Buffer.byteLength(JSON.stringify(answer.body)));
      assert.ok(typeof duration_ms === "number" && duration_ms >= 0);
      assert.ok(cut === false || cut === null, `cut is ${String(cut)}`);
    });

    it("keeps in the ledger what policy was asked, without token or secret", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const request_id = newRequestId();
      await callGateway(t, ambient.token, resource, { request_id, path: "/hop?colour=blue" });
      const rows = await eventually(async () => {
        const found = await t.zone.api.ledgerOf(request_id);
        return found.length >= 2 ? found : null;
      });
      const ledger = await t.zone.api.ledger();
      const decision = rows.find((row) => row.event_type === "token.exchange");
      assert.ok(decision !== undefined);
      const [input] = rebuiltInputs(decision, documentsAmong(ledger));
      assert.ok(
        input?.action.use === "per_call" && input.action.path?.startsWith("/hop"),
        "the policy's input is there",
      );
      assert.deepEqual([input.principal.id, input.resource.id], [application.id, resource.id]);
      const text = JSON.stringify(ledger);
      assert.ok(!text.includes(application.secret), "no secret");
      assert.ok(!text.includes(ambient.token.split(".")[2] ?? ""), "no token");
      assert.ok(!t.log().includes(application.secret) && !t.log().includes(ambient.token), "neither in the log");
    });

    it("gives an agent no upstream directives, only a token", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await askAmbient(t, t.zone, application);
      assert.equal(ambient.status, 200, JSON.stringify(ambient.body));
      assert.equal(ambient.headers.get("cache-control"), "no-store");
      assert.equal(ambient.body["token_type"], "Bearer");
      assert.ok(Number(ambient.body["expires_in"]) > 0 && Number(ambient.body["expires_in"]) <= 3600);
      const answer = await askMandate(
        t,
        t.zone,
        application,
        String(ambient.body["access_token"]),
        resource.identifier,
      );
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
      assert.deepEqual(answer.body["target_resources"], [resource.identifier]);
      assert.ok(Number(answer.body["expires_in"]) <= 900);
      for (const name of ["upstreams", "decision_id"]) assert.ok(!(name in answer.body), `${name} is the Gateway's`);
    });

    it("streams a server's events as they arrive, not when they are all there", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const agent = await connectAgent({
        gateway_url: t.gateway_urls[0] ?? "",
        access_token: ambient.token,
        resource: resource.identifier,
      });
      try {
        const arrivals: number[] = [];
        await agent.client.callTool(
          { name: "trigger-long-running-operation", arguments: { duration: 0.6, steps: 3 } },
          undefined,
          { onprogress: () => arrivals.push(performance.now()) },
        );
        const ended = performance.now();
        assert.ok(arrivals.length >= 2, "progress was told");
        assert.ok(ended - (arrivals[0] ?? ended) > 250, "the first came well before the end");
      } finally {
        await agent.close();
      }
    });

    it("shows every counter of the contract on the Gateway's page", async () => {
      const page = await metricsPage(topology().gateway_urls[0] ?? "");
      const names = `denials_missing_auth denials_bad_bearer denials_expiring denials_bad_routing denials_path_traversal
        denials_signature denials_binding denials_target denials_revoked denials_revocation_stale denials_too_large denials_policy
        denials_step_up denials_rate_limited sts_exchange_errors denials_ssrf denials_jti_replay upstream_errors requests_total
        requests_allowed requests_denied bindings_loaded revocations_active stream_lag_seconds dlq_depth`.split(/\s+/);
      const missing = names.filter((name) => !new RegExp(`^# TYPE ${name} `, "m").test(page));
      assert.deepEqual(missing, []);
    });
  });
};
