import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { discoverAuthorizationServerMetadata, fetchToken } from "@modelcontextprotocol/sdk/client/auth.js";
import { ClientCredentialsProvider, PrivateKeyJwtProvider } from "@modelcontextprotocol/sdk/client/auth-extensions.js";
import * as oauth from "oauth4webapi";
import * as openid from "openid-client";
import { GRANT_TOKEN_EXCHANGE, TOKEN_TYPE_ACCESS_TOKEN } from "../../src/contracts/sts.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { eventually } from "../support/eventually.ts";
import { makeKey } from "../support/jwt.ts";
import {
  ALLOW_AGENTS,
  type Fixture,
  GATEWAY_URL,
  startFixture,
  type TestApplication,
  type TestResource,
} from "./fixture.ts";

const bodyOf = async (response: Response) => (await response.json()) as Record<string, unknown>;
const claimsOf = (token: unknown) =>
  JSON.parse(Buffer.from(String(token).split(".")[1] ?? "", "base64url").toString()) as Record<string, unknown>;

describe("what stock clients find", () => {
  let f: Fixture;
  let zone: string;
  let app: TestApplication;
  let target: TestResource;
  let issuer: string;
  const places = () => [
    `${f.url}/.well-known/oauth-authorization-server/zones/${zone}`,
    `${f.url}/.well-known/openid-configuration/zones/${zone}`,
    `${f.url}/zones/${zone}/.well-known/openid-configuration`,
  ];

  before(async () => {
    f = await startFixture({ issuer_is_server: true });
    zone = await f.newZone();
    app = await f.newApplication(zone);
    target = await f.newResource(zone);
    await f.activate(zone, ALLOW_AGENTS);
    issuer = `${f.url}/zones/${zone}`;
    await eventually(async () => (await f.ambient(zone, app)).status === 200);
  });
  after(() => f.close());

  it("is one document at every place where they look, byte for byte, whose issuer is the tokens'", async () => {
    const texts = await Promise.all(
      places().map(async (place) => {
        const response = await fetch(place);
        assert.equal(response.status, 200, place);
        assert.equal(response.headers.get("cache-control"), "public, max-age=300, must-revalidate");
        return response.text();
      }),
    );
    assert.equal(new Set(texts).size, 1);
    const found = JSON.parse(texts[0] ?? "") as Record<string, string>;
    const { body } = await f.ambient(zone, app);
    assert.equal(found["issuer"], claimsOf(body["access_token"])["iss"]);
    assert.equal(found["issuer"], issuer);
    assert.ok(Array.isArray((await bodyOf(await fetch(found["jwks_uri"] ?? "")))["keys"]));
  });

  it("is nothing for a zone that does not exist, and asks the database for none that can't", async () => {
    const statements = f.statements();
    for (const unknown of ["nonsense", "..%2f..", "%00", "system"]) {
      for (const place of places())
        assert.equal((await fetch(place.replace(zone, unknown))).status, 404, `${place} ${unknown}`);
    }
    assert.equal(f.statements(), statements);
    for (const place of places()) assert.equal((await fetch(place.replace(zone, uuidv7()))).status, 404);
  });

  it("lets openid-client get tokens by client_secret_basic and client_secret_post, by either discovery", async () => {
    for (const algorithm of ["oidc", "oauth2"] as const) {
      for (const auth of [openid.ClientSecretBasic(app.secret), openid.ClientSecretPost(app.secret)]) {
        const config = await openid.discovery(new URL(issuer), app.id, undefined, auth, {
          algorithm,
          execute: [openid.allowInsecureRequests],
        });
        const ambient = await openid.clientCredentialsGrant(config, { scope: "read" });
        assert.deepEqual([ambient.scope, ambient.token_type], ["read", "bearer"]);
        const mandate = await openid.genericGrantRequest(config, GRANT_TOKEN_EXCHANGE, {
          subject_token: ambient.access_token,
          subject_token_type: TOKEN_TYPE_ACCESS_TOKEN,
          resource: target.identifier,
          call_method: "GET",
          call_path: "/",
        });
        assert.equal(claimsOf(mandate.access_token)["aud"], target.identifier);
      }
    }
  });

  it("lets oauth4webapi get tokens by client_secret_basic and client_secret_post", async () => {
    const insecure = { [oauth.allowInsecureRequests]: true };
    const client: oauth.Client = { client_id: app.id };
    for (const algorithm of ["oidc", "oauth2"] as const) {
      const response = await oauth.discoveryRequest(new URL(issuer), { algorithm, ...insecure });
      const as = await oauth.processDiscoveryResponse(new URL(issuer), response);
      for (const auth of [oauth.ClientSecretBasic(app.secret), oauth.ClientSecretPost(app.secret)]) {
        const parameters = { resource: target.identifier };
        const answer = await oauth.clientCredentialsGrantRequest(as, client, auth, parameters, insecure);
        const token = await oauth.processClientCredentialsResponse(as, client, answer);
        assert.deepEqual(claimsOf(token.access_token)["target"], [target.identifier]);
        // As an RFC 9068 resource server sees a mandate and an ambient token.
        const request = new Request("https://resource.test", {
          headers: { authorization: `Bearer ${token.access_token}` },
        });
        await oauth.validateJwtAccessToken(as, request, as.issuer, insecure);
      }
    }
  });

  it("lets MCP's own clients get tokens, by a secret and by a key", async () => {
    const key = makeKey("ES256", "mcp");
    const signing = await f.newApplication(zone);
    await f.change(
      zone,
      "application",
      (tx) => tx`update applications set credential_types = '{private_key_jwt}', revision = revision + 1,
        jwks = ${JSON.stringify({ keys: [key.jwk] })}::text::jsonb where zone_id = ${zone} and id = ${signing.id}`,
    );
    const providers = [
      new ClientCredentialsProvider({ clientId: app.id, clientSecret: app.secret }),
      new PrivateKeyJwtProvider({
        clientId: signing.id,
        privateKey: key.private_key.export({ type: "pkcs8", format: "pem" }) as string,
        algorithm: "ES256",
      }),
    ];
    const metadata = await discoverAuthorizationServerMetadata(issuer);
    assert.ok(metadata !== undefined);
    for (const provider of providers) {
      await eventually(async () => {
        const resource = new URL(`${GATEWAY_URL}/r/${zone}/${target.id}`);
        const token = await fetchToken(provider, issuer, { metadata, resource }).catch(() => null);
        return token !== null && claimsOf(token.access_token)["aud"] === issuer;
      });
    }
    const browser = await fetch(`${metadata.authorization_endpoint}?response_type=code&redirect_uri=https://x.test`, {
      redirect: "manual",
    });
    assert.deepEqual([browser.status, (await bodyOf(browser))["error"]], [400, "unsupported_response_type"]);
  });

  it("is told that a wrong secret is wrong, in the words that it knows", async () => {
    const wrong = openid.ClientSecretBasic("wrong");
    const config = await openid.discovery(new URL(issuer), app.id, undefined, wrong, {
      execute: [openid.allowInsecureRequests],
    });
    await assert.rejects(
      openid.clientCredentialsGrant(config),
      (error) => error instanceof openid.WWWAuthenticateChallengeError && error.status === 401,
    );
  });

  it("names the zone in the token endpoint's path, which no form contradicts", async () => {
    const form = { grant_type: "client_credentials", client_id: app.id, client_secret: app.secret };
    const post = (path: string, fields: Readonly<Record<string, string>>) =>
      fetch(`${f.url}${path}`, { method: "POST", body: new URLSearchParams(fields) });
    const own = `/zones/${zone}/oauth/2/token`;
    const token = await post(own, form);
    assert.equal(token.status, 200);
    assert.equal(token.headers.get("cache-control"), "no-store");
    assert.equal((await post(own, { ...form, zone_id: zone })).status, 200);
    assert.equal((await bodyOf(await post(own, { ...form, zone_id: uuidv7() })))["reason"], "zone_id_ambiguous");
    assert.equal((await bodyOf(await post(`${own}?zone_id=${zone}`, form)))["reason"], "query_not_allowed");
    const another = await post(`/zones/${await f.newZone()}/oauth/2/token`, form);
    assert.deepEqual([another.status, (await bodyOf(another))["reason"]], [401, "client_unauthenticated"]);
    assert.equal((await fetch(`${f.url}${own}`)).status, 405);
  });

  it("may name a resource by its URL at the Gateway, with or without the last slash, and gets its identifier", async () => {
    const { body } = await f.ambient(zone, app);
    const url = `${GATEWAY_URL}/r/${zone}/${target.id}`;
    for (const name of [url, `${url}/`]) {
      const mandate = await f.exchange(zone, app, String(body["access_token"]), name);
      assert.deepEqual([mandate.status, claimsOf(mandate.body["access_token"])["aud"]], [200, target.identifier]);
    }
    const fields = new URLSearchParams({ grant_type: "client_credentials", zone_id: zone, client_id: app.id });
    fields.set("client_secret", app.secret);
    for (const name of [url, `${url}/`, target.identifier]) fields.append("resource", name);
    const limited = await f.token(fields);
    assert.deepEqual(limited.body["target_resources"], [target.identifier], "three names of one resource");
    const elsewhere = await f.newResource(await f.newZone());
    for (const name of [
      `${url}//`,
      `${url}/x`,
      `${url}?`,
      url.toUpperCase(),
      url.replace("https", "http"),
      `${GATEWAY_URL}/r/${zone}/`,
      `${GATEWAY_URL}/r/${zone}/${elsewhere.id}`,
      `${GATEWAY_URL}/r/${uuidv7()}/${target.id}`,
    ]) {
      const refused = await f.ambient(zone, app, { resource: name });
      assert.deepEqual([refused.status, refused.body["reason"]], [400, "resource_unknown"], name);
    }
  });
});
