import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { type Answer, ambientToken, askAmbient, askMandate, callGateway, mandate, newRequestId } from "./agent.ts";
import { assertChain } from "./ledger.ts";
import { newAgent, type Topology } from "./topology.ts";

const ATTEMPTS = 5;
const RECOVERS_WITHIN_MS = 20_000;
const PROBES_AFTER = 60;

const refusedForNow = (answer: Answer, what: string): void => {
  assert.ok(
    answer.status === 502 || answer.status === 503 || answer.status === 504,
    `${what}: ${answer.status} ${JSON.stringify(answer.body)}`,
  );
  assert.ok(!("access_token" in answer.body), what);
};

/** Without Redis nothing is let through; with it again everything goes on, and what was revoked meanwhile stays out. */
export const redisOutage = (topology: () => Topology): void => {
  describe("while Redis is away", () => {
    it("nothing is issued and nothing passes; when it is back the program recovers by itself", async () => {
      const t = topology();
      assert.ok(t.redis !== undefined);
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const doomed = await ambientToken(t, t.zone, application);
      const unused = await mandate(t, t.zone, application, ambient, resource);
      assert.equal((await callGateway(t, ambient.token, resource)).status, 200);
      assert.equal((await callGateway(t, doomed.token, resource)).status, 200);
      const calls_before = t.hop.calls(resource.identifier).length;

      await t.redis.stop();
      for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
        const exchange = await askMandate(t, t.zone, application, ambient.token, resource.identifier);
        assert.equal(exchange.status, 503, JSON.stringify(exchange.body));
        assert.equal(exchange.body["error"], "temporarily_unavailable");
        assert.ok(Number(exchange.headers.get("retry-after")) >= 1);
        const issue = await askAmbient(t, t.zone, application);
        assert.equal(issue.status, 503, JSON.stringify(issue.body));
        refusedForNow(await callGateway(t, ambient.token, resource), "an ambient token at the Gateway");
        refusedForNow(await callGateway(t, unused, resource), "a per-call token at the Gateway");
      }
      assert.equal(t.hop.calls(resource.identifier).length, calls_before, "nothing reached the upstream");
      const health = await fetch(`${t.gateway_urls[0]}/health`);
      assert.equal(health.status, 200, "the process answers");
      const revoked = await t.zone.api.revokeSession(doomed.session_id);
      assert.equal(revoked.revoked, 1, "revoking needs the database alone");

      await t.redis.start();
      const doomed_statuses: number[] = [];
      await eventually(
        async () => {
          doomed_statuses.push((await callGateway(t, doomed.token, resource)).status);
          return (await callGateway(t, ambient.token, resource)).status === 200;
        },
        { timeout_ms: RECOVERS_WITHIN_MS, every_ms: 25 },
      );
      for (let probe = 0; probe < PROBES_AFTER; probe += 1) {
        doomed_statuses.push((await callGateway(t, doomed.token, resource)).status);
      }
      assert.ok(
        !doomed_statuses.includes(200),
        `the session that was revoked meanwhile is never served: ${doomed_statuses.join(" ")}`,
      );
      assert.equal(doomed_statuses.at(-1), 401, "and it is refused for what it is");

      // The marks of used mandates may be lost with Redis: what was issued before is refused.
      const stale = await callGateway(t, unused, resource);
      assert.equal(stale.status, 401, JSON.stringify(stale.body));
      const fresh = await eventually(() => mandate(t, t.zone, application, ambient, resource), { timeout_ms: 5_000 });
      assert.equal((await callGateway(t, fresh, resource)).status, 200, "a new mandate passes");
      assert.equal((await callGateway(t, fresh, resource)).status, 401, "once");

      const request_id = newRequestId();
      assert.equal((await callGateway(t, ambient.token, resource, { request_id })).status, 200);
      await eventually(
        async () => {
          const rows = await t.zone.api.ledgerOf(request_id);
          assert.ok(rows.some((row) => row.event_type === "token.exchange" && row.decision === "allow"));
        },
        { timeout_ms: RECOVERS_WITHIN_MS },
      );
      assertChain(await t.zone.api.ledger(), t.audit_hmac_key);
    });
  });
};
