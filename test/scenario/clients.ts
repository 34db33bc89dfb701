import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { describe, it } from "node:test";
import { callApi } from "../support/control-plane.ts";
import { eventually } from "../support/eventually.ts";
import { makeJwt, makeKey } from "../support/jwt.ts";
import { type Answer, answerOf, callGateway } from "./agent.ts";
import { newResource, SCOPES, type Topology } from "./topology.ts";

const ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/** Agents that hold no secret of ours, as an operator registers them, and what they find out and end by themselves. */
export const clients = (topology: () => Topology): void => {
  describe("an agent without a secret", () => {
    const made = async <T>(kind: string, body: object): Promise<T> => {
      const { api_url, zone } = topology();
      const answer = await callApi(api_url, zone.admin_token, "POST", `/v1/zones/${zone.id}/${kind}`, body);
      assert.equal(answer.status, 201, JSON.stringify(answer.body));
      return answer.body as T;
    };
    const post = async (sts_url: string, path: string, fields: Readonly<Record<string, string>>): Promise<Answer> =>
      answerOf(
        await fetch(`${sts_url}/zones/${topology().zone.id}/oauth/2/${path}`, {
          method: "POST",
          body: new URLSearchParams({ ...fields, client_assertion_type: ASSERTION_TYPE }),
        }),
      );

    it("gets tokens by its own key and by its workload's, calls with them, asks about them, and ends its session", async () => {
      const t = topology();
      const { issuer } = t.zone;
      const [key, platform] = [makeKey("EdDSA", "own"), makeKey("RS256", "platform")];
      const name = (): string => `Client ${randomUUID()}`;
      const application = { scopes: SCOPES, traits: ["agent"] };
      const issuer_url = `https://platform.test/${randomUUID()}`;
      const { id: workload_issuer_id } = await made<{ id: string }>("issuers", {
        name: name(),
        issuer_url,
        audience: "caracal",
        jwks: { keys: [platform.jwk] },
      });
      const own = await made<{ id: string }>("applications", {
        ...application,
        name: name(),
        credential_types: ["private_key_jwt"],
        jwks: { keys: [key.jwk] },
      });
      const workload = await made<{ id: string }>("applications", {
        ...application,
        name: name(),
        credential_types: ["workload"],
        workload_issuer_id,
        workload_claims: { sub: "system:serviceaccount:agents:*" },
      });
      const now_s = () => Math.floor(Date.now() / 1_000);
      const proofs = [
        () => ({
          client_assertion: makeJwt(key, {
            iss: own.id,
            sub: own.id,
            aud: issuer,
            iat: now_s(),
            exp: now_s() + 60,
            jti: randomUUID(),
          }),
        }),
        () => ({
          client_id: workload.id,
          client_assertion: makeJwt(platform, {
            iss: issuer_url,
            sub: "system:serviceaccount:agents:planner",
            aud: ["caracal"],
            exp: now_s() + 600,
          }),
        }),
      ];
      const resource = await newResource(t, t.zone);
      for (const proof of proofs) {
        for (const sts_url of t.sts_urls) {
          const ambient = await post(sts_url, "token", { ...proof(), grant_type: "client_credentials" });
          assert.equal(ambient.status, 200, JSON.stringify(ambient.body));
          const token = String(ambient.body["access_token"]);
          assert.equal((await callGateway(t, token, resource)).status, 200);
          const known = await post(sts_url, "introspect", { ...proof(), token });
          assert.deepEqual([known.status, known.body["active"]], [200, true], JSON.stringify(known.body));
          assert.equal((await post(sts_url, "revoke", { ...proof(), token })).status, 200);
          assert.deepEqual((await post(sts_url, "introspect", { ...proof(), token })).body, { active: false });
          await eventually(async () => (await callGateway(t, token, resource)).status === 401);
        }
      }
    });
  });
};
