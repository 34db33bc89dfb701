import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createEgress, createUpstreams } from "../../src/adapters/egress/index.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { startDnsServer } from "../support/dns-server.ts";
import { eventually } from "../support/eventually.ts";
import { createRig, RESOURCE } from "./rig.ts";

type Refusal = { readonly error: string; readonly reason: string; readonly message: string };

describe("whoever is over its share", () => {
  it("of the calls at one upstream hears a 429 that names it, and the others' calls go on", async () => {
    const shares = { limit: 8, zone_share: 0.75, client_share: 0.5 };
    const rig = await createRig({ upstreams: createUpstreams({ connect_timeout_ms: 2_000, shares }) });
    try {
      rig.upstream((request, response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write("data: 1\n\n");
        if (request.url !== "/stream") response.end();
      });
      const of = (client_id: string) => ({ token: rig.ambient({ client_id, sub: client_id }) });
      const streams = [];
      for (let at = 0; at < 4; at += 1) streams.push(await rig.call("/stream", of("greedy")));
      assert.ok(streams.every(({ status }) => status === 200));
      const refused = await rig.call("/", of("greedy"));
      assert.deepEqual([refused.status, refused.headers.get("retry-after")], [429, "1"]);
      const body = (await refused.json()) as Refusal;
      assert.deepEqual([body.error, body.reason], ["RateLimited", "upstream_client_busy"]);
      assert.match(body.message, /calls of this upstream/);
      assert.equal((await rig.call("/", of("other"))).status, 200);
      for (let at = 0; at < 2; at += 1) streams.push(await rig.call("/stream", of("other")));
      const third = (await (await rig.call("/", of("third"))).json()) as Refusal;
      assert.deepEqual([third.error, third.reason], ["RateLimited", "upstream_zone_busy"]);
      await streams[0]?.body?.cancel();
      await eventually(async () => (await rig.call("/", of("greedy"))).status === 200);
    } finally {
      await rig.close();
    }
  });

  it("of the look-ups of names hears a 429 that names it, and what is known is called as before", async () => {
    const server = await startDnsServer(() => "hang");
    const options = { allow_private: false, allow_loopback: true, allowlist: [], production: false };
    const egress = createEgress({ ...options, clock: systemClock, dns_servers: [server.address] });
    const rig = await createRig({ egress });
    try {
      let names = 0;
      const allow = rig.sts.answer;
      rig.sts.answer = async (request, signal) => {
        const answer = await allow(request, signal);
        if (request.path !== "/hang" || !answer.ok) return answer;
        const upstreams = {
          [RESOURCE]: { url: `http://hang-${(names += 1)}.test/`, auth_mode: "caracal_jwt" as const },
        };
        return { ...answer, body: { ...answer.body, upstreams } };
      };
      const gone = new AbortController();
      const hanging = Array.from({ length: 8 }, () =>
        rig.call("/hang", { signal: gone.signal }).catch(() => undefined),
      );
      await eventually(() => new Set(server.asked.map(({ name }) => name)).size === 8);
      const refused = await rig.call("/hang");
      assert.deepEqual([refused.status, refused.headers.get("retry-after")], [429, "1"]);
      const body = (await refused.json()) as Refusal;
      assert.deepEqual([body.error, body.reason], ["RateLimited", "zone_lookups_full"]);
      assert.match(body.message, /8 look-ups/);
      assert.equal((await rig.call("/")).status, 200);
      gone.abort();
      await Promise.all(hanging);
    } finally {
      await rig.close();
      await server.close();
    }
  });
});
