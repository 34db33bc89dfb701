import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { describe, it } from "node:test";
import { askAmbient, askMandate, callGateway } from "./agent.ts";
import { newResource, SCOPES, type Topology } from "./topology.ts";

const TIMES = 50;

/** Whoever has the answer 201 need not wait: every STS and Gateway knows what was made, also before it was told. */
export const made = (topology: () => Topology): void => {
  describe("what was made", () => {
    it(`works when the answer says so: a client and a resource, used at once, ${TIMES} times`, async () => {
      const t = topology();
      const refused: string[] = [];
      for (let i = 0; i < TIMES; i += 1) {
        const at = t.sts_urls[i % t.sts_urls.length] ?? "";
        const name = `Made ${randomUUID()}`;
        const { id, client_secret } = await t.zone.api.createApplication({ name, scopes: SCOPES, traits: ["agent"] });
        const application = { id, secret: client_secret ?? "" };
        const ambient = await askAmbient({ ...t, sts_urls: [at] }, t.zone, application);
        if (ambient.status !== 200) refused.push(`client ${i}: ${ambient.status} ${JSON.stringify(ambient.body)}`);
        const resource = await newResource(t, t.zone);
        const token = String(ambient.body["access_token"]);
        const gateway_url = t.gateway_urls[i % t.gateway_urls.length] ?? "";
        const called = await callGateway(t, token, resource, { gateway_url });
        if (called.status !== 200) refused.push(`call ${i}: ${called.status} ${JSON.stringify(called.body)}`);
        const mandate = await askMandate({ ...t, sts_urls: [at] }, t.zone, application, token, resource.identifier);
        if (mandate.status !== 200) refused.push(`resource ${i}: ${mandate.status} ${JSON.stringify(mandate.body)}`);
      }
      assert.deepEqual(refused, []);
    });
  });
};
