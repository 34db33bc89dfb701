import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { ApiOperation } from "../../src/contracts/api.ts";
import { call, egressTo, makeZone, serveApi, type ServedApi } from "./serve.ts";

/** Every field that holds an address which the STS will call, in a body that would pass. */
const FIELDS: readonly (readonly [ApiOperation, string, Record<string, unknown>])[] = [
  ["createProvider", "token_url", { name: "o2", kind: "oauth2", client_id: "c", client_secret: "s" }],
  ["createProvider", "issuer_url", { name: "oi", kind: "oidc", client_id: "c", client_secret: "s" }],
  ["createIssuer", "issuer_url", { name: "i", audience: "a" }],
  ["createIssuer", "jwks_uri", { name: "j", audience: "b", issuer_url: "https://login.example.com" }],
  ["createApplication", "jwks_uri", { name: "a", credential_types: ["private_key_jwt"] }],
];

const HOSTS = { allowed_hosts: ["x.example.com"] };

describe("with a list of hosts that may be called", () => {
  let api: ServedApi;
  let zone_id: string;
  let token: string;
  before(async () => {
    api = await serveApi({ egress: egressTo(["login.example.com"]) });
    ({ zone_id, token } = await makeZone(api));
  });
  after(() => api.close());

  it("no address of another host is taken, wherever one is written", async () => {
    for (const [name, field, rest] of FIELDS) {
      const write = (url: string) =>
        call(api.url, token, name, {
          params: { zone_id },
          body: { ...(name === "createProvider" ? HOSTS : {}), ...rest, [field]: url },
        });
      const refused = await write("https://elsewhere.example.com/x");
      assert.deepEqual([refused.status, refused.body.issues?.[0]?.path], [400, field], `${name}: ${refused.text}`);
      const unknown = await write("https://no-such-name.example.org/x");
      assert.equal(unknown.status, 400, "one that does not resolve is not on the list either");
      const taken = await write("https://login.example.com/x");
      assert.equal(taken.status, 201, `${name}.${field}: ${taken.text}`);
    }
  });
});
