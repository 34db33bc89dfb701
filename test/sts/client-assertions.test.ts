import assert from "node:assert/strict";
import { createPrivateKey, webcrypto } from "node:crypto";
import { after, before, describe, it } from "node:test";
import * as oauth from "oauth4webapi";
import * as openid from "openid-client";
import { JWT_BEARER } from "../../src/domain/client-assertion.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { eventually } from "../support/eventually.ts";
import { makeJwt, makeKey, type TestKey } from "../support/jwt.ts";
import { ALLOW_AGENTS, type Answer, type Fixture, startFixture, type TestApplication } from "./fixture.ts";
import { json, type KeysHost, startKeysHost } from "./keys-host.ts";

/** RFC 7523, by the client's own keys. */
describe("a client that signs its own assertion", () => {
  const key = makeKey("ES256", "first");
  let f: Fixture;
  let zone: string;
  let app: TestApplication;
  let issuer: string;

  before(async () => {
    f = await startFixture({ issuer_is_server: true });
    zone = await newZone();
    issuer = `${f.url}/zones/${zone}`;
    app = await signing(zone, { jwks: { keys: [key.jwk] } });
    await eventually(async () => (await ask(app, make())).status === 200);
  });
  after(() => f.close());

  const newZone = async (): Promise<string> => {
    const id = await f.newZone();
    await f.activate(id, ALLOW_AGENTS);
    return id;
  };
  /** An application whose only proof is a key. */
  const signing = async (
    in_zone: string,
    keys: { readonly jwks?: object; readonly jwks_uri?: string },
  ): Promise<TestApplication> => {
    const made = await f.newApplication(in_zone);
    await register(in_zone, made, keys);
    return made;
  };
  const register = (
    in_zone: string,
    { id }: TestApplication,
    keys: { readonly jwks?: object; readonly jwks_uri?: string },
  ): Promise<void> =>
    f.change(
      in_zone,
      "application",
      (tx) => tx`update applications set credential_types = '{private_key_jwt}', secret_hash = null,
        jwks = ${keys.jwks === undefined ? null : JSON.stringify(keys.jwks)}::text::jsonb,
        jwks_uri = ${keys.jwks_uri ?? null}, revision = revision + 1 where zone_id = ${in_zone} and id = ${id}`,
    );
  const claimsFor = (client: string, some: Readonly<Record<string, unknown>> = {}) => {
    const now_s = Math.floor(f.clock.now_ms() / 1_000);
    return { iss: client, sub: client, aud: issuer, iat: now_s, exp: now_s + 60, jti: uuidv7(), ...some };
  };
  const make = (some: Readonly<Record<string, unknown>> = {}, by: TestKey = key, client = app.id): string =>
    makeJwt(by, claimsFor(client, some));
  const ask = async (
    client: Pick<TestApplication, "id">,
    client_assertion: string,
    fields: Readonly<Record<string, string>> = {},
  ): Promise<Answer> =>
    f.token({
      grant_type: "client_credentials",
      zone_id: zone,
      client_id: client.id,
      client_assertion_type: JWT_BEARER,
      client_assertion,
      ...fields,
    });
  const reasonOf = async (answer: Promise<Answer>): Promise<unknown> => (await answer).body["reason"];

  it("is known by ES256, RS256 and EdDSA keys, and stands so in the ledger", async () => {
    const keys = [makeKey("ES256", "a"), makeKey("RS256", "b"), makeKey("EdDSA", "c")];
    const many = await signing(zone, { jwks: { keys: keys.map(({ jwk }) => jwk) } });
    for (const one of keys) {
      const answer = await ask(many, make({}, one, many.id));
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
      const [event] = await f.eventsOf(answer.headers.get("x-request-id") ?? "");
      const { credential_type } = JSON.parse(event?.metadata_json ?? "{}") as { credential_type: string };
      assert.deepEqual([event?.client_id, credential_type], [many.id, "private_key_jwt"]);
    }
  });

  it("is known to openid-client and oauth4webapi, at each endpoint that they discover", async () => {
    const imported = async (
      one: TestKey,
      algorithm: webcrypto.EcKeyImportParams | webcrypto.RsaHashedImportParams | "Ed25519",
    ) =>
      webcrypto.subtle.importKey(
        "pkcs8",
        createPrivateKey(one.private_key.export({ type: "pkcs8", format: "pem" }) as string).export({
          type: "pkcs8",
          format: "der",
        }),
        algorithm,
        false,
        ["sign"],
      );
    const own = [
      [makeKey("ES256", "e"), { name: "ECDSA", namedCurve: "P-256" }],
      [makeKey("RS256", "r"), { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" }],
      [makeKey("EdDSA", "d"), "Ed25519"],
    ] as const;
    const insecure = { [oauth.allowInsecureRequests]: true };
    for (const [one, algorithm] of own) {
      const { alg: _alg, ...jwk } = one.jwk;
      const client = await signing(zone, { jwks: { keys: [jwk] } });
      const private_key = await imported(one, algorithm);
      const config = await openid.discovery(new URL(issuer), client.id, undefined, openid.PrivateKeyJwt(private_key), {
        execute: [openid.allowInsecureRequests],
      });
      const { access_token } = await openid.clientCredentialsGrant(config);
      assert.equal((await openid.tokenIntrospection(config, access_token)).active, true, one.alg);
      await openid.tokenRevocation(config, access_token);
      assert.equal((await openid.tokenIntrospection(config, access_token)).active, false);

      const as = await oauth.processDiscoveryResponse(
        new URL(issuer),
        await oauth.discoveryRequest(new URL(issuer), insecure),
      );
      const auth = oauth.PrivateKeyJwt({ key: private_key, kid: one.kid });
      const answer = await oauth.clientCredentialsGrantRequest(as, { client_id: client.id }, auth, {}, insecure);
      await oauth.processClientCredentialsResponse(as, { client_id: client.id }, answer);
    }
  });

  it("may be meant for the issuer or a token endpoint of it, and for nobody beside", async () => {
    for (const aud of [
      issuer,
      [issuer],
      `${issuer}/oauth/2/token`,
      `${f.url}/oauth/2/token`,
      [issuer, `${issuer}/oauth/2/token`],
    ])
      assert.equal((await ask(app, make({ aud }))).status, 200, String(aud));
    const fields = { grant_type: "client_credentials", zone_id: zone, client_assertion_type: JWT_BEARER };
    const unnamed = await f.token({ ...fields, client_assertion: make() });
    assert.equal(unnamed.status, 200, "it names its client itself");
  });

  it("is told one thing, whatever is wrong", async () => {
    const now_s = Math.floor(f.clock.now_ms() / 1_000);
    const stranger = makeKey("ES256", "first");
    const wrong: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
      "another aud": { aud: "https://other.test" },
      "another zone": { aud: `${f.url}/zones/${uuidv7()}` },
      "an aud that others read, too": { aud: [issuer, "https://other.test"] },
      "no aud": { aud: undefined },
      "an empty aud": { aud: [] },
      "an aud that is no text": { aud: [issuer, 1] },
      "aud with a slash": { aud: `${issuer}/` },
      expired: { exp: now_s - 61 },
      "too far ahead": { exp: now_s + 361 + 60 },
      "no exp": { exp: undefined },
      "exp as text": { exp: String(now_s + 60) },
      "exp without end": { exp: 1e300 },
      "exp below zero": { exp: -1 },
      "not yet": { nbf: now_s + 120 },
      "made in the future": { iat: now_s + 120 },
      "nbf that is no date": { nbf: null },
      "no jti": { jti: undefined },
      "an empty jti": { jti: "" },
      "a jti that is no text": { jti: 7 },
      "a jti without end": { jti: "j".repeat(513) },
    };
    for (const [why, some] of Object.entries(wrong)) {
      const client = await signing(zone, { jwks: { keys: [key.jwk] } }); // of its own: five failures are a client's
      const answer = await ask(client, make(some, key, client.id));
      assert.deepEqual(
        [answer.status, answer.body["error"], answer.body["reason"]],
        [401, "invalid_client", "client_unauthenticated"],
        why,
      );
    }
    const huge = make().split(".");
    const digits = Buffer.from(JSON.stringify(claimsFor(app.id)).replace(/"exp":\d+/, '"exp":1e999')).toString(
      "base64url",
    );
    for (const [why, assertion] of Object.entries({
      "another key": make({}, stranger),
      "an exp of 1e999": `${huge[0]}.${digits}.${huge[2]}`,
      "another client's": make({}, key, uuidv7()),
    })) {
      const fresh = await signing(zone, { jwks: { keys: [key.jwk] } });
      const answer = await ask(why === "another key" ? app : fresh, assertion);
      assert.ok([400, 401].includes(answer.status), why);
      assert.ok(!("access_token" in answer.body));
    }
    const by_type = await signing(zone, { jwks: { keys: [key.jwk] } });
    const access_token = makeJwt(key, claimsFor(by_type.id), { typ: "at+jwt" });
    assert.equal(await reasonOf(ask(by_type, access_token)), "client_unauthenticated", "an access token");
    for (const [why, client] of Object.entries({
      "a client with a secret": await f.newApplication(zone),
      "no client": { id: uuidv7() },
    })) {
      const answer = await ask(client, make({}, key, client.id));
      assert.deepEqual([answer.status, answer.body["reason"]], [401, "client_unauthenticated"], why);
    }
    const with_secret = await f.ambient(zone, app);
    assert.equal(with_secret.status, 401, "and its former secret opens nothing");
  });

  it("is good once: at any endpoint, and for 50 at the same time", async () => {
    const assertion = make();
    const answers = await Promise.all(Array.from({ length: 50 }, () => ask(app, assertion)));
    assert.equal(answers.filter(({ status }) => status === 200).length, 1);
    const refused = answers.filter(({ status }) => status !== 200);
    assert.ok(refused.every(({ status, body }) => status === 401 && body["reason"] === "client_assertion_replayed"));
    const introspect = await fetch(`${f.url}/zones/${zone}/oauth/2/introspect`, {
      method: "POST",
      body: new URLSearchParams({ token: "x", client_assertion_type: JWT_BEARER, client_assertion: assertion }),
    });
    assert.equal(introspect.status, 401);
    assert.equal(
      (await ask(app, make({ iat: undefined }))).status,
      401,
      "without iat it may be older than what we remember",
    );
  });

  it("does not spend an assertion that was wrong, nor another client's of the same jti", async () => {
    const jti = uuidv7();
    const other = await signing(zone, { jwks: { keys: [key.jwk] } });
    assert.equal((await ask(app, make({ jti, aud: "https://other.test" }))).status, 401);
    assert.equal((await ask(app, make({ jti }))).status, 200);
    assert.equal((await ask(other, make({ jti }, key, other.id))).status, 200);
  });

  it("is refused where it can't be known whether it was used: 503, and never taken", async () => {
    const assertion = make();
    f.redis.pause();
    try {
      assert.equal(await reasonOf(ask(app, assertion)), "rate_limit_unavailable");
    } finally {
      f.redis.resume();
    }
    await eventually(async () => (await ask(app, make())).status === 200);
  });

  it("costs no statement and as many round trips as a secret, while it is known", async () => {
    const { body } = await ask(app, make());
    const target = await f.newResource(zone);
    const exchange = () =>
      ask(app, make(), {
        grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
        subject_token: String(body["access_token"]),
        subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
        resource: target.identifier,
        call_method: "GET",
        call_path: "/",
      });
    assert.equal((await exchange()).status, 200);
    // A zone that is held is read again now and then: that is no exchange's cost.
    await eventually(async () => {
      await f.events();
      const [statements, trips] = [f.statements(), f.roundTrips()];
      assert.equal((await exchange()).status, 200);
      return f.statements() === statements && f.roundTrips() - trips === 2;
    });
  });

  it("is known by its new keys from the moment on at which they were registered, announced or not", async () => {
    const client = await signing(zone, { jwks: { keys: [key.jwk] } });
    assert.equal((await ask(client, make({}, key, client.id))).status, 200);
    const next = makeKey("ES256", "second");
    await f.control.sql`update applications set jwks = ${JSON.stringify({ keys: [next.jwk] })}::text::jsonb,
      revision = revision + 1 where zone_id = ${zone} and id = ${client.id}`;
    assert.equal((await ask(client, make({}, next, client.id))).status, 200);
    assert.equal(await reasonOf(ask(client, make({}, key, client.id))), "client_unauthenticated");
  });

  it("is let in whatever fails at its address, and a thousand wrong ones leave nothing behind but their count", async () => {
    const stranger = makeKey("ES256", "first");
    let right = 0;
    let looked_into = 0;
    for (let round = 0; round < 20; round += 1) {
      const wrong = Array.from({ length: 50 }, (_, i) => {
        const id = i % 2 === 0 ? app.id : uuidv7();
        return ask({ id }, makeJwt(stranger, claimsFor(id)));
      });
      if ((await ask(app, make())).status === 200) right += 1;
      for (const { status } of await Promise.all(wrong)) {
        assert.ok(status === 401 || status === 429);
        if (status === 401) looked_into += 1;
      }
    }
    assert.equal(right, 20);
    assert.ok(looked_into < 500, "a hundred failures of an address are looked into, and as many a minute");
    const fresh = await signing(zone, { jwks: { keys: [key.jwk] } });
    await eventually(async () => (await ask(fresh, make({}, key, fresh.id))).status === 200);
  });
});

describe("a client whose keys are at a jwks_uri", () => {
  let f: Fixture;
  const hosts: KeysHost[] = [];
  const newHost = async (): Promise<KeysHost> => {
    const host = await startKeysHost();
    hosts.push(host);
    return host;
  };

  before(async () => {
    f = await startFixture();
    f.clock.forward(2_000); // what was signed in the second in which Redis began may have been seen before that
  });
  after(async () => {
    await Promise.all(hosts.map((host) => host.close()));
    await f.close();
  });

  type Client = { readonly zone: string; readonly id: string; readonly key: TestKey };
  const newClient = async (jwks_uri: string, in_zone?: string): Promise<Client> => {
    const zone = in_zone ?? (await f.newZone());
    if (in_zone === undefined) await f.activate(zone, ALLOW_AGENTS);
    const { id } = await f.newApplication(zone);
    await f.change(
      zone,
      "application",
      (tx) => tx`update applications set credential_types = '{private_key_jwt}', jwks_uri = ${jwks_uri},
        revision = revision + 1 where zone_id = ${zone} and id = ${id}`,
    );
    return { zone, id, key: makeKey("ES256", "k1") };
  };
  const login = ({ zone, id, key }: Client): Promise<Answer> => {
    const now_s = Math.floor(f.clock.now_ms() / 1_000);
    const claims = {
      iss: id,
      sub: id,
      aud: `${f.issuer_url}/zones/${zone}`,
      iat: now_s,
      exp: now_s + 60,
      jti: uuidv7(),
    };
    const client_assertion = makeJwt(key, claims);
    return f.token({
      grant_type: "client_credentials",
      zone_id: zone,
      client_assertion_type: JWT_BEARER,
      client_assertion,
    });
  };
  const told = async (client: Client): Promise<readonly unknown[]> => {
    const { status, body } = await login(client);
    return [status, body["reason"]];
  };
  const UNAVAILABLE = [503, "client_keys_unavailable"];

  it("is known by them, which are fetched once for many log-ins, and again when a new key signs", async () => {
    const host = await newHost();
    const client = await newClient(`${host.url}/jwks`);
    host.answer = json({ keys: [client.key.jwk] });
    const answers = await Promise.all(Array.from({ length: 20 }, () => login(client)));
    assert.deepEqual([...new Set(answers.map(({ status }) => status))], [200], JSON.stringify(answers[0]?.body));
    assert.equal(host.asked.length, 1);
    const next = makeKey("ES256", "k2");
    host.answer = json({ keys: [client.key.jwk, next.jwk] });
    f.clock.forward(5_000);
    assert.equal((await login({ ...client, key: next })).status, 200);
    assert.equal((await login(client)).status, 200);
    assert.equal(host.asked.length, 2);
    assert.equal((await login({ ...client, key: makeKey("ES256", "invented") })).status, 401);
  });

  it("is known for a quarter of an hour by the keys that its host had last, and then no more", async () => {
    const host = await newHost();
    const client = await newClient(`${host.url}/jwks`);
    host.answer = json({ keys: [client.key.jwk] });
    assert.equal((await login(client)).status, 200);
    host.answer = (request) => void request.socket.destroy();
    f.clock.forward(5 * 60_000 + 1_000);
    assert.equal((await login(client)).status, 200, "stale, and asked for beside");
    await eventually(async () => host.asked.length === 2);
    f.clock.forward(10 * 60_000);
    assert.deepEqual(await told(client), UNAVAILABLE);
    host.answer = json({ keys: [client.key.jwk] });
    f.clock.forward(60_000);
    assert.equal((await login(client)).status, 200, "until the host is back");
  });

  it("is told that its keys can't be had where the host lies, and no lie is kept", async () => {
    const host = await newHost();
    const elsewhere = await newHost();
    const lies: Readonly<Record<string, KeysHost["answer"]>> = {
      "no keys": json({ keys: [] }),
      "no set": json([]),
      null: json(null),
      "secret keys": json({ keys: [{ kty: "oct", k: "AAAA" }] }),
      "an error": json({ keys: [makeKey("ES256", "k1").jwk] }, 500),
      "no JSON": (_request, response) => void response.end("<html>"),
      "a redirect": (_request, response) => void response.writeHead(302, { location: `${elsewhere.url}/jwks` }).end(),
      "a flood": (_request, response) => {
        response.on("error", () => {});
        const more = () => {
          while (!response.destroyed && response.write("x".repeat(16_384)));
          if (!response.destroyed) response.once("drain", more);
        };
        more();
      },
      "an encoding": (_request, response) => void response.writeHead(200, { "content-encoding": "gzip" }).end("x"),
      "half an answer": (_request, response) => {
        response.writeHead(200, { "content-length": "1000" });
        response.write("{");
        response.destroy();
      },
    };
    for (const [why, lie] of Object.entries(lies)) {
      const client = await newClient(`${host.url}/${encodeURIComponent(why)}`);
      host.answer = lie;
      assert.deepEqual(await told(client), UNAVAILABLE, why);
      host.answer = json({ keys: [client.key.jwk] });
      f.clock.forward(1_000);
      assert.equal((await login(client)).status, 200, `after ${why}`);
    }
    assert.deepEqual(elsewhere.asked, []);
  });

  it("is never looked for at an address that may not be called", async () => {
    for (const url of [
      "http://169.254.169.254/latest/meta-data",
      "http://10.0.0.1/jwks",
      "http://[::ffff:10.0.0.1]/jwks",
      "http://0x0a000001/jwks",
      "file:///etc/passwd",
      "no url",
    ])
      assert.deepEqual(await told(await newClient(url)), UNAVAILABLE, url);
  });

  it("waits for a slow host no longer than its time, and no other zone notices, not even one whose keys are at the same host", async () => {
    const slow = await newHost();
    const good = await newHost();
    slow.answer = () => {};
    const hostile = await f.newZone();
    await f.activate(hostile, ALLOW_AGENTS);
    const victims = await Promise.all(Array.from({ length: 8 }, (_, i) => newClient(`${slow.url}/${i}`, hostile)));
    const innocent = await newClient(`${good.url}/jwks`);
    good.answer = json({ keys: [innocent.key.jwk] });
    const waiting = victims.flatMap((client) => Array.from({ length: 15 }, () => told(client)));
    await eventually(async () => slow.asked.length > 0);
    const same_host = await newClient(`${slow.url}/innocent`);
    for (let i = 0; i < 20; i += 1) assert.equal((await login(innocent)).status, 200);
    assert.equal(good.asked.length, 1);
    slow.answer = json({ keys: [same_host.key.jwk] });
    assert.equal((await login(same_host)).status, 200, "not even one whose keys are at the same host");
    for (const answer of await Promise.all(waiting)) assert.deepEqual(answer, UNAVAILABLE);
  });
});
