import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { JWT_BEARER } from "../../src/domain/client-assertion.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { eventually } from "../support/eventually.ts";
import { makeJwt, makeKey } from "../support/jwt.ts";
import { startWorkloadIssuer, type WorkloadIssuer } from "../support/workload-issuer.ts";
import { ALLOW_AGENTS, type Answer, type Fixture, startFixture } from "./fixture.ts";
import { json } from "./keys-host.ts";

const SUB = "repo:acme/agent:ref:refs/heads/main";
const AUDIENCE = "https://caracal.acme.test";

/** An agent that holds no secret of ours: its platform's issuer says who it is. */
describe("a workload", () => {
  let f: Fixture;
  let issuer: WorkloadIssuer;
  let zone: string;

  before(async () => {
    issuer = await startWorkloadIssuer([SUB, "repo:acme/other", "repo:evil/agent"], {
      repository: "acme/agent",
      environment: "production",
      protected: true,
      groups: ["agents"],
      "kubernetes.io": { namespace: "agents" },
    });
    f = await startFixture();
    zone = await newZone();
  });
  after(async () => {
    await f.close();
    await issuer.close();
  });

  const newZone = async (): Promise<string> => {
    const id = await f.newZone();
    await f.activate(id, ALLOW_AGENTS);
    return id;
  };
  type Registered = { readonly zone: string; readonly id: string; readonly issuer_id: string };
  const register = async (
    in_zone: string,
    claims: Readonly<Record<string, string>>,
    some: {
      readonly issuer_url?: string;
      readonly audience?: string;
      readonly jwks?: object;
      readonly jwks_uri?: string;
    } = {},
  ): Promise<Registered> => {
    const { id } = await f.newApplication(in_zone);
    const issuer_id = uuidv7();
    await f.change(in_zone, "application", async (tx) => {
      await tx`insert into issuers (zone_id, id, name, issuer_url, audience, jwks, jwks_uri) values (${in_zone}, ${issuer_id},
        ${issuer_id}, ${some.issuer_url ?? issuer.url}, ${some.audience ?? `${AUDIENCE}/${issuer_id}`},
        ${some.jwks === undefined ? null : JSON.stringify(some.jwks)}::text::jsonb, ${some.jwks_uri ?? null})`;
      await tx`update applications set credential_types = '{workload}', secret_hash = null, revision = revision + 1,
        workload_issuer_id = ${issuer_id}, workload_claims = ${JSON.stringify(claims)}::text::jsonb
        where zone_id = ${in_zone} and id = ${id}`;
    });
    return { zone: in_zone, id, issuer_id };
  };
  const login = (client: Registered, client_assertion: string, named = true): Promise<Answer> =>
    f.token({
      grant_type: "client_credentials",
      zone_id: client.zone,
      ...(named ? { application_id: client.id } : {}),
      client_assertion_type: JWT_BEARER,
      client_assertion,
    });
  const tokenFor = ({ issuer_id }: Registered, sub = SUB): Promise<string> =>
    issuer.token(sub, `${AUDIENCE}/${issuer_id}`);
  const told = async (client: Registered, token: string): Promise<readonly unknown[]> => {
    const { status, body } = await login(client, token);
    return [status, body["reason"]];
  };
  const REFUSED = [401, "client_unauthenticated"];
  const UNAVAILABLE = [503, "client_keys_unavailable"];

  it("is the application whose claims its token has, exact or from their beginning, as often as it shows it", async () => {
    for (const claims of [
      { sub: SUB },
      { sub: "repo:acme/agent:*" },
      { sub: SUB, repository: "acme/*", environment: "production", protected: "true" },
    ] as Readonly<Record<string, string>>[]) {
      const client = await register(zone, claims);
      const token = await tokenFor(client);
      for (let i = 0; i < 3; i += 1) {
        const answer = await login(client, token);
        assert.equal(answer.status, 200, JSON.stringify([claims, answer.body]));
        const [event] = await f.eventsOf(answer.headers.get("x-request-id") ?? "");
        const { credential_type } = JSON.parse(event?.metadata_json ?? "{}") as { credential_type: string };
        assert.deepEqual([event?.client_id, credential_type], [client.id, "workload"]);
      }
    }
  });

  it("is nobody where a claim, the audience, the issuer or the application is another", async () => {
    const client = await register(zone, { sub: SUB });
    const good = await tokenFor(client);
    assert.equal((await login(client, good)).status, 200);
    const other = async (claims: Readonly<Record<string, string>>) => {
      const registered = await register(zone, claims);
      return told(registered, await tokenFor(registered));
    };
    for (const claims of [
      { sub: SUB.toUpperCase() },
      { sub: `${SUB} ` },
      { sub: "repo:acme/agent:ref:refs/heads/main/*" },
      { sub: "*" },
      { sub: SUB, repository: "acme" },
      { sub: SUB, environment: "prod" },
      { sub: SUB, protected: "tru*x" },
      { sub: SUB, groups: "agents" },
      { sub: SUB, "kubernetes.io": "*agents" },
      { sub: SUB, missing: "x" },
      { sub: SUB, toString: "function*" },
    ] as Readonly<Record<string, string>>[])
      assert.deepEqual(await other(claims), REFUSED, JSON.stringify(claims));
    const strangers: Readonly<Record<string, string>> = {
      "another workload": await tokenFor(client, "repo:evil/agent"),
      "another audience": await issuer.token(SUB, "https://other.test"),
      "no token of an issuer": "x.y.z",
    };
    for (const [why, token] of Object.entries(strangers)) {
      assert.deepEqual(await told(client, token), REFUSED, why);
    }
    assert.deepEqual((await login(client, good, false)).status, 401, "it does not say which application it is");
    const elsewhere = await newZone();
    assert.deepEqual(await told({ ...client, zone: elsewhere }, good), REFUSED, "another zone");
    const same_issuer = await register(elsewhere, { sub: SUB });
    assert.deepEqual(await told(same_issuer, good), REFUSED, "for the other zone's audience");
    assert.deepEqual(await told({ ...same_issuer, id: client.id }, good), REFUSED);
  });

  it("is nobody by a token that is over, forged or signed by a key of its own choice", async () => {
    const key = makeKey("RS256", "registered");
    const client = await register(zone, { sub: SUB }, { jwks: { keys: [key.jwk] } });
    const now_s = Math.floor(f.clock.now_ms() / 1_000);
    const claims = {
      iss: issuer.url,
      sub: SUB,
      aud: [`${AUDIENCE}/${client.issuer_id}`, "another"],
      exp: now_s + 3_600,
    };
    assert.equal((await login(client, makeJwt(key, claims))).status, 200, "by the keys that were registered");
    const stranger = makeKey("RS256", "registered");
    for (const [why, token] of Object.entries({
      over: makeJwt(key, { ...claims, exp: now_s - 61 }),
      "without an end": makeJwt(key, { ...claims, exp: undefined }),
      "not yet": makeJwt(key, { ...claims, nbf: now_s + 600 }),
      forged: makeJwt(stranger, claims),
      "by the key that it brings": makeJwt(stranger, claims, { jwk: stranger.jwk }),
      "by the key that it says where to find": makeJwt(stranger, claims, { jku: `${issuer.url}/jwks` }),
    })) {
      assert.deepEqual(await told(client, token), REFUSED, why);
      f.clock.forward(12_000); // a failure is given back
    }
    assert.equal((await login(client, makeJwt(key, claims))).status, 200, "as before");
    const self_made = { iss: client.id, sub: client.id, aud: f.issuer_url, exp: now_s + 60, jti: uuidv7() };
    assert.equal((await login(client, makeJwt(key, self_made))).status, 401, "the issuer is not the client");
  });

  it("is known by its issuer's new keys as soon as they sign, and by the former ones no more", async () => {
    const client = await register(zone, { sub: SUB });
    const former = await tokenFor(client);
    assert.equal((await login(client, former)).status, 200);
    issuer.rotate();
    f.clock.forward(5_000);
    assert.equal((await login(client, await tokenFor(client))).status, 200);
    f.clock.forward(5_000);
    assert.deepEqual(await told(client, former), REFUSED);
  });

  it("costs no statement while its registration and its issuer's keys are known", async () => {
    const client = await register(zone, { sub: SUB });
    const token = await tokenFor(client);
    const introspect = async () =>
      fetch(`${f.url}/oauth/2/introspect`, {
        method: "POST",
        body: new URLSearchParams({
          zone_id: zone,
          application_id: client.id,
          client_assertion_type: JWT_BEARER,
          client_assertion: token,
          token: "none",
        }),
      });
    assert.equal((await introspect()).status, 200);
    const asked = issuer.asked.length;
    await eventually(async () => {
      await f.events();
      const [statements, trips] = [f.statements(), f.roundTrips()];
      assert.equal((await introspect()).status, 200);
      return f.statements() === statements && f.roundTrips() - trips === 1;
    });
    assert.equal(issuer.asked.length, asked);
  });

  it("follows its registration: another claim, another issuer, or one that is archived, announced or not", async () => {
    const client = await register(zone, { sub: SUB });
    const token = await tokenFor(client);
    assert.equal((await login(client, token)).status, 200);
    await f.change(
      zone,
      "application",
      (tx) => tx`update applications set workload_claims = '{"sub": "another"}', revision = revision + 1
        where zone_id = ${zone} and id = ${client.id}`,
    );
    await eventually(async () => (await login(client, token)).status === 401);
    await f.control.sql`update applications set workload_claims = ${JSON.stringify({ sub: SUB })}::text::jsonb,
      revision = revision + 1 where zone_id = ${zone} and id = ${client.id}`;
    f.clock.forward(60_000); // failures are given back
    assert.equal((await login(client, token)).status, 200, "unannounced");
    await f.change(
      zone,
      "application",
      (tx) => tx`update issuers set archived_at = now(), revision = revision + 1
        where zone_id = ${zone} and id = ${client.issuer_id}`,
    );
    await eventually(async () => (await login(client, token)).status === 401);
  });

  it("of an issuer that is slow, lies or is dead can't be known, and a zone that knew its keys does not notice", async () => {
    const known = await register(await newZone(), { sub: SUB });
    const known_token = await tokenFor(known);
    assert.equal((await login(known, known_token)).status, 200);
    const metadata = { issuer: issuer.url, jwks_uri: `${issuer.url}/jwks` };
    const faults: Readonly<Record<string, NonNullable<WorkloadIssuer["fault"]>>> = {
      dead: (request) => void request.socket.destroy(),
      slow: () => {},
      "another issuer's metadata": json({ ...metadata, issuer: "https://other.test" }),
      "the metadata of one with a slash": json({ ...metadata, issuer: `${issuer.url}/` }),
      "keys at an address inside": json({ ...metadata, jwks_uri: "http://169.254.169.254/keys" }),
      "keys of a file": json({ ...metadata, jwks_uri: "file:///etc/passwd" }),
      "no address for keys": json({ issuer: issuer.url }),
      "keys that are a list of addresses": json({ ...metadata, jwks_uri: [metadata.jwks_uri] }),
      null: json(null),
    };
    for (const [why, fault] of Object.entries(faults)) {
      const client = await register(await newZone(), { sub: SUB });
      const token = await tokenFor(client);
      issuer.fault = fault;
      const waiting = told(client, token);
      assert.equal((await login(known, known_token)).status, 200, `${why}: who knew its keys`);
      assert.deepEqual(await waiting, UNAVAILABLE, why);
      issuer.fault = undefined;
      f.clock.forward(1_000);
      assert.equal((await login(client, token)).status, 200, `after ${why}`);
    }
  });
});
