import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { openRaw, type RawConnection, requestText } from "../support/raw-http.ts";
import { createSseReader } from "../support/sse.ts";
import { type Ambient, ambientToken, askMandate, callGateway, mandate, newRequestId } from "./agent.ts";
import { metadataOf } from "./ledger.ts";
import { metricAt } from "./metrics.ts";
import { newAgent, type TestResource, type Topology } from "./topology.ts";

const WITHIN_MS = 1_000;
const STEPS = 600;
const MCP_HEADERS = { Accept: "application/json, text/event-stream", "Content-Type": "application/json" } as const;

const rpc = (message: object): string => JSON.stringify({ jsonrpc: "2.0", ...message });

/** Opens an MCP session by hand; its id. */
const openMcp = async (
  t: Topology,
  ambient: Ambient,
  resource: TestResource,
  gateway_url = t.gateway_urls[0] ?? "",
): Promise<string> => {
  const params = { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "raw", version: "1" } };
  const opened = await callGateway(t, ambient.token, resource, {
    method: "POST",
    path: "/mcp",
    gateway_url,
    headers: MCP_HEADERS,
    body: rpc({ id: 1, method: "initialize", params }),
  });
  assert.equal(opened.status, 200, JSON.stringify(opened.body));
  const session = opened.headers.get("mcp-session-id") ?? "";
  await callGateway(t, ambient.token, resource, {
    method: "POST",
    path: "/mcp",
    gateway_url,
    headers: { ...MCP_HEADERS, "Mcp-Session-Id": session },
    body: rpc({ method: "notifications/initialized" }),
  });
  return session;
};

export type RunningStream = { readonly connection: RawConnection; events(): number };

/** A tool that tells its progress ten times a second for a minute, over a socket that hides nothing. */
export const startStream = async (
  t: Topology,
  ambient: Ambient,
  resource: TestResource,
  headers: Readonly<Record<string, string>> = {},
  gateway = t.gateway_urls[0] ?? "",
): Promise<RunningStream> => {
  const session = await openMcp(t, ambient, resource, gateway);
  const connection = await openRaw(gateway);
  let events = 0;
  const reader = createSseReader();
  connection.onBody((text) => {
    events += reader.push(text).length;
  });
  const params = {
    name: "trigger-long-running-operation",
    arguments: { duration: STEPS / 10, steps: STEPS },
    _meta: { progressToken: "p" },
  };
  connection.write(
    requestText(
      "POST",
      "/mcp",
      {
        Host: new URL(gateway).host,
        Authorization: `Bearer ${ambient.token}`,
        "X-Caracal-Resource": resource.identifier,
        "Mcp-Session-Id": session,
        ...MCP_HEADERS,
        ...headers,
      },
      rpc({ id: 2, method: "tools/call", params }),
    ),
  );
  await eventually(() => events >= 2, { timeout_ms: 10_000 });
  assert.equal(connection.seen()?.status, 200);
  return { connection, events: () => events };
};

/** What stops authority reaches every Gateway in under a second, in the middle of an answer too. */
export const revocation = (topology: () => Topology): void => {
  describe("a revoked session", () => {
    it("is refused at the Gateway and the STS within a second, with every mandate that was made from it", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const bystander = await ambientToken(t, t.zone, application);
      const unused = await mandate(t, t.zone, application, ambient, resource);
      assert.equal((await callGateway(t, ambient.token, resource)).status, 200);
      const before = await metricAt(t.gateway_urls[0] ?? "", "denials_revoked");
      const reached = t.hop.calls(resource.identifier).length;

      const revoked = await t.zone.api.revokeSession(ambient.session_id);
      const revoked_at = performance.now();
      assert.equal(revoked.revoked, 1);
      for (const gateway_url of t.gateway_urls) {
        const request_id = newRequestId();
        const refused = await eventually(
          async () => {
            const answer = await callGateway(t, ambient.token, resource, { gateway_url, request_id });
            return answer.status === 401 ? answer : null;
          },
          { timeout_ms: WITHIN_MS },
        );
        assert.equal(refused.body["error"], "InvalidToken");
      }
      const took_ms = performance.now() - revoked_at;
      assert.ok(took_ms < WITHIN_MS, `it took ${took_ms} ms`);

      const exchange = await askMandate(t, t.zone, application, ambient.token, resource.identifier);
      assert.ok(exchange.status === 400 || exchange.status === 401 || exchange.status === 403, `${exchange.status}`);
      assert.ok(!("access_token" in exchange.body));
      const used_late = await callGateway(t, unused, resource);
      assert.equal(used_late.status, 401, "a mandate that was issued before is refused");
      // A call that was on its way when the revocation came may have reached the upstream, and be refused all the same.
      assert.equal((await callGateway(t, bystander.token, resource)).status, 200, "another session goes on");
      const at_refusal = t.hop.calls(resource.identifier).length;
      for (let again = 0; again < 20; again += 1) {
        assert.equal((await callGateway(t, ambient.token, resource)).status, 401, "and it stays refused");
      }
      assert.equal(t.hop.calls(resource.identifier).length, at_refusal, "nothing reached the upstream any more");
      assert.ok(at_refusal >= reached);
      assert.ok((await metricAt(t.gateway_urls[0] ?? "", "denials_revoked")) - before >= 22);
      assert.ok((await metricAt(t.gateway_urls[0] ?? "", "revocations_active")) >= 1);
      assert.equal((await callGateway(t, bystander.token, resource)).status, 200, "another session goes on");
      assert.equal((await t.zone.api.revokeSession(ambient.session_id)).revoked, 0, "revoking twice is no fault");
    });

    it("has its running stream cut so that it does not look complete, and no other one", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const bystander = await ambientToken(t, t.zone, application);
      const plain = await startStream(t, ambient, resource);
      const with_trailers = await startStream(t, ambient, resource, { TE: "trailers", Connection: "TE" });
      const untouched = await startStream(t, bystander, resource);
      try {
        await t.zone.api.revokeSession(ambient.session_id);
        const revoked_at = performance.now();
        await plain.connection.closed(WITHIN_MS);
        const trailed = await with_trailers.connection.answer(WITHIN_MS);
        const took_ms = performance.now() - revoked_at;
        assert.ok(took_ms < WITHIN_MS, `it took ${took_ms} ms`);

        const cut = plain.connection.seen();
        assert.equal(cut?.status, 200);
        assert.equal(cut?.headers["transfer-encoding"], "chunked");
        assert.equal(cut?.complete, false, "the last chunk never came");
        assert.deepEqual(cut?.trailers, {});
        assert.equal(trailed?.trailers["x-caracal-revoked"], "true", JSON.stringify(trailed?.trailers));

        const so_far = untouched.events();
        await eventually(() => untouched.events() > so_far + 1);
        assert.equal(untouched.connection.seen()?.closed, false);
      } finally {
        for (const stream of [plain, with_trailers, untouched]) stream.connection.destroy();
      }
      await eventually(async () => {
        const outcomes = await t.zone.api.ledger({ session_id: ambient.session_id, event_type: "gateway.outcome" });
        const cut = outcomes.filter((row) => metadataOf(row)["cut"] === "revoked");
        assert.equal(cut.length, 2, "the ledger says of both that they were cut");
      });
    });

    it("has its running streams cut at every Gateway", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const streams: RunningStream[] = [];
      try {
        for (const url of t.gateway_urls) streams.push(await startStream(t, ambient, resource, {}, url));
        await t.zone.api.revokeSession(ambient.session_id);
        await Promise.all(streams.map((stream) => stream.connection.closed(WITHIN_MS)));
        for (const stream of streams) assert.equal(stream.connection.seen()?.complete, false, "it does not look whole");
      } finally {
        for (const stream of streams) stream.connection.destroy();
      }
    });

    it("has its silent stream cut too", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const session = await openMcp(t, ambient, resource);
      const gateway = t.gateway_urls[0] ?? "";
      const connection = await openRaw(gateway);
      try {
        connection.write(
          requestText("GET", "/mcp", {
            Host: new URL(gateway).host,
            Authorization: `Bearer ${ambient.token}`,
            "X-Caracal-Resource": resource.identifier,
            "Mcp-Session-Id": session,
            Accept: "text/event-stream",
          }),
        );
        await eventually(() => connection.seen()?.status === 200);
        await t.zone.api.revokeSession(ambient.session_id);
        await connection.closed(WITHIN_MS);
        assert.equal(connection.seen()?.complete, false);
      } finally {
        connection.destroy();
      }
    });
  });
};
