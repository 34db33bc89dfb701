import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import * as oauth from "oauth4webapi";
import * as openid from "openid-client";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { createGraph } from "./graph.ts";
import { eventually } from "../support/eventually.ts";
import {
  ALLOW_AGENTS,
  type Answer,
  type Fixture,
  startFixture,
  type TestApplication,
  type TestResource,
} from "./fixture.ts";

const claimsOf = (token: string) =>
  JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as Record<string, unknown>;

/** RFC 7662 and RFC 7009. */
describe("what is said of a token, and how its owner ends it", () => {
  let f: Fixture;
  let zone: string;
  let app: TestApplication;
  let other: TestApplication;
  let server: TestApplication;
  let target: TestResource;

  before(async () => {
    f = await startFixture({ issuer_is_server: true });
    zone = await f.newZone();
    [app, other, server] = [await f.newApplication(zone), await f.newApplication(zone), await f.newApplication(zone)];
    target = await f.newResource(zone);
    await f.change(
      zone,
      "resource",
      (tx) => tx`update resources set application_id = ${server.id} where zone_id = ${zone} and id = ${target.id}`,
    );
    await f.activate(zone, ALLOW_AGENTS);
    await eventually(async () => (await f.ambient(zone, app)).status === 200);
  });
  after(() => f.close());

  const post = async (
    path: "introspect" | "revoke",
    client: TestApplication,
    token: string | undefined,
    in_zone = zone,
  ): Promise<Answer> => {
    const fields = { zone_id: in_zone, client_id: client.id, client_secret: client.secret };
    const response = await fetch(`${f.url}/oauth/2/${path}`, {
      method: "POST",
      body: new URLSearchParams(token === undefined ? fields : { ...fields, token }),
      headers: { "x-request-id": uuidv7() },
    });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      body: text === "" ? {} : (JSON.parse(text) as Record<string, unknown>),
    };
  };
  const ambientOf = async (client: TestApplication, in_zone = zone): Promise<string> => {
    const { status, body } = await f.ambient(in_zone, client);
    assert.equal(status, 200, JSON.stringify(body));
    return String(body["access_token"]);
  };
  const mandateOf = async (client: TestApplication): Promise<string> => {
    const { status, body } = await f.exchange(zone, client, await ambientOf(client), target.identifier);
    assert.equal(status, 200, JSON.stringify(body));
    return String(body["access_token"]);
  };
  const inactive = async (client: TestApplication, token: string, why: string): Promise<void> => {
    const { status, body } = await post("introspect", client, token);
    assert.deepEqual([status, body], [200, { active: false }], why);
  };

  it("is all of its claims, to the application that it was issued to", async () => {
    for (const token of [await ambientOf(app), await mandateOf(app)]) {
      const { status, body, headers } = await post("introspect", app, token);
      assert.deepEqual([status, body], [200, { active: true, token_type: "Bearer", ...claimsOf(token) }]);
      assert.equal(headers.get("cache-control"), "no-store");
    }
  });

  it("is the same to the server of the resource that a mandate is for, and to nobody else", async () => {
    const mandate = await mandateOf(app);
    assert.equal((await post("introspect", server, mandate)).body["active"], true);
    await inactive(server, await ambientOf(app), "an ambient token is for no server");
    await inactive(other, mandate, "another application of the zone");
    const late = await f.newApplication(zone);
    await f.control.sql`update resources set application_id = ${late.id} where zone_id = ${zone} and id = ${target.id}`;
    assert.equal((await post("introspect", late, mandate)).body["active"], true, "named a moment ago, unannounced");
    await f.change(
      zone,
      "resource",
      (tx) => tx`update resources set application_id = ${server.id} where zone_id = ${zone} and id = ${target.id}`,
    );
  });

  it("is nothing in another zone, to its clients or to ours", async () => {
    const elsewhere = await f.newZone();
    const theirs = await f.newApplication(elsewhere);
    await f.activate(elsewhere, ALLOW_AGENTS);
    await eventually(async () => (await f.ambient(elsewhere, theirs)).status === 200);
    const [own, foreign] = [await ambientOf(app), await ambientOf(theirs, elsewhere)];
    await inactive(app, foreign, "theirs, here");
    const there = await post("introspect", theirs, own, elsewhere);
    assert.deepEqual([there.status, there.body], [200, { active: false }], "ours, there");
    assert.equal((await post("introspect", app, own, elsewhere)).status, 401, "our client, there");
    const revoked = await post("revoke", theirs, own, elsewhere);
    assert.equal(revoked.status, 200);
    assert.equal((await post("introspect", app, own)).body["active"], true, "and nobody there ends it");
  });

  it("is only that it is inactive where it is broken, over, or its application is gone", async () => {
    const token = await ambientOf(app);
    const [header = "", payload = "", signature = ""] = token.split(".");
    for (const [why, broken] of Object.entries({
      garbage: "garbage",
      unsigned: `${header}.${payload}.`,
      another_payload: `${header}.${Buffer.from(JSON.stringify({ ...claimsOf(token), scope: "admin" })).toString("base64url")}.${signature}`,
      alg_none: `${Buffer.from('{"alg":"none","typ":"at+jwt"}').toString("base64url")}.${payload}.`,
      trailing: `${token}A`,
    }))
      await inactive(app, broken, why);
    const leaving = await f.newApplication(zone);
    const mandate = await mandateOf(leaving);
    assert.equal((await post("introspect", server, mandate)).body["active"], true);
    await f.change(
      zone,
      "application",
      (tx) => tx`update applications set archived_at = now() where zone_id = ${zone} and id = ${leaving.id}`,
    );
    await eventually(async () => (await post("introspect", server, mandate)).body["active"] === false);
  });

  it("is that it is inactive from the moment at which its session was revoked, by the API or by its owner", async () => {
    const by_api = await ambientOf(app);
    await f.revokeSession(zone, String(claimsOf(by_api)["sid"]));
    await eventually(async () => (await post("introspect", app, by_api)).body["active"] === false);
    const ambient = await ambientOf(app);
    const { body } = await f.exchange(zone, app, ambient, target.identifier);
    const mandate = String(body["access_token"]);
    const revoked = await post("revoke", app, ambient);
    assert.deepEqual([revoked.status, revoked.body, revoked.headers.get("cache-control")], [200, {}, "no-store"]);
    await inactive(app, ambient, "at once");
    await inactive(server, mandate, "and what was made from it");
    assert.equal((await f.exchange(zone, app, ambient, target.identifier)).body["reason"], "session_revoked");
  });

  it("is that it is inactive once anything that its authority came through was revoked", async () => {
    const graph = createGraph(f, zone);
    const [giver, agent] = [await graph.agent(other), await graph.agent(app)];
    const edge = await graph.edge(giver, agent);
    const through = { agent_session_id: agent.id, delegation_edge_id: edge };
    const { status, body } = await f.ambient(zone, app, through);
    assert.equal(status, 200, JSON.stringify(body));
    const token = String(body["access_token"]);
    const isActive = async () => (await post("introspect", app, token)).body["active"];
    assert.equal(await isActive(), true);
    await graph.suspend(giver);
    await eventually(async () => (await isActive()) === false);
    await graph.resume(giver);
    await eventually(async () => (await isActive()) === true);
    await graph.revoke(edge);
    await eventually(async () => (await isActive()) === false);
  });

  it("costs no statement and one round trip to Redis while zone and session are known", async () => {
    const mandate = await mandateOf(app);
    await post("introspect", server, mandate);
    // A zone that is held is read again now and then, and what is recorded may wait: that is no introspection's cost.
    await eventually(async () => {
      await f.events();
      const [statements, trips] = [f.statements(), f.roundTrips()];
      await post("introspect", server, mandate);
      return f.statements() === statements && f.roundTrips() - trips === 1;
    });
  });

  it("ends a session for everybody, in one transaction with its row in the admin audit and its message", async () => {
    const token = await ambientOf(app);
    const sid = String(claimsOf(token)["sid"]);
    const heard: string[] = [];
    const stop = f.role.revocations.onEvent((event) => void heard.push(event.id));
    assert.equal((await post("revoke", app, token)).status, 200);
    await eventually(async () => heard.includes(sid));
    stop();
    assert.equal((await post("revoke", app, token)).status, 200, "and a second time, which changes nothing");
    const rows = await f.control.sql<{ actor: string; action: string }[]>`
      select actor, action from admin_audit where zone_id = ${zone} and object_id = ${sid}`;
    assert.deepEqual([...rows], [{ actor: `application:${app.id}`, action: "session.revoke" }]);
  });

  it("is not another application's to end, and a token that is none is no error", async () => {
    const token = await ambientOf(app);
    const refused = await post("revoke", other, token);
    assert.deepEqual([refused.status, refused.body["reason"]], [403, "token_of_another"]);
    const by_server = await post("revoke", server, await mandateOf(app));
    assert.deepEqual([by_server.status, by_server.body["reason"]], [403, "token_of_another"]);
    assert.equal((await post("introspect", app, token)).body["active"], true);
    for (const none of ["garbage", `${token}A`]) assert.equal((await post("revoke", app, none)).status, 200);
    const missing = await post("revoke", app, undefined);
    assert.deepEqual([missing.status, missing.body["reason"]], [400, "token_missing"]);
    assert.equal((await post("introspect", app, undefined)).body["reason"], "token_missing");
  });

  it("is told to clients that authenticate, with the answer, the throttle and the limit of the token endpoint", async () => {
    const token = await ambientOf(app);
    const limited = await f.newApplication(zone, { rate_limit_per_minute: 10 });
    for (const path of ["introspect", "revoke"] as const) {
      const wrong = await post(path, { ...app, secret: "wrong" }, token);
      assert.deepEqual(
        [wrong.status, wrong.body["error"], wrong.headers.get("www-authenticate")],
        [401, "invalid_client", 'Basic realm="caracal", charset="UTF-8"'],
      );
      const over = await eventually(async () => {
        const answer = await post(path, limited, "garbage");
        return answer.status === 429 ? answer : null;
      });
      assert.equal(over.body["reason"], "rate_limited");
      assert.ok(Number(over.headers.get("retry-after")) >= 1);
    }
    const fresh = await f.newApplication(zone);
    for (let i = 0; i < 5; i += 1) await post("introspect", { ...fresh, secret: `wrong${i}` }, token);
    assert.equal(
      (await post("revoke", fresh, token)).body["reason"],
      "client_throttled",
      "one count for all endpoints",
    );
    assert.equal((await f.ambient(zone, fresh)).body["reason"], "client_throttled");
    const form = { client_id: app.id, client_secret: app.secret, token, zone_id: zone };
    const in_query = await fetch(`${f.url}/oauth/2/introspect?token=${token}`, {
      method: "POST",
      body: new URLSearchParams(form),
    });
    assert.equal(in_query.status, 400);
    assert.equal((await fetch(`${f.url}/oauth/2/introspect`)).status, 405);
  });

  it("stands in the ledger: who was shown what, who ended what, and what was refused and why", async () => {
    const mandate = await mandateOf(app);
    const sid = String(claimsOf(mandate)["sid"]);
    const stranger = await f.newApplication(zone); // whose first denial this is: it is in no sum
    const ids = [
      await post("introspect", server, mandate),
      await post("introspect", stranger, mandate),
      await post("revoke", app, mandate),
    ].map(({ headers }) => headers.get("x-request-id") ?? "");
    const [shown, hidden, ended] = await Promise.all(ids.map(async (id) => (await f.eventsOf(id))[0]));
    const about = (event: typeof shown) => [event?.event_type, event?.decision, event?.client_id, event?.session_id];
    assert.deepEqual(about(shown), ["token.introspect", "allow", server.id, sid]);
    assert.deepEqual(about(hidden), ["token.introspect", "deny", stranger.id, sid]);
    assert.equal((JSON.parse(hidden?.metadata_json ?? "{}") as { reason: string }).reason, "token_not_visible");
    assert.deepEqual(about(ended), ["token.revoke", "allow", app.id, sid]);
    assert.ok([shown, hidden, ended].every((event) => event?.subject === app.id));
    assert.ok(!JSON.stringify([shown, hidden, ended]).includes(mandate.slice(-20)), "no token is in the ledger");
  });

  it("is not ended without the database, and its owner is told so", async () => {
    const token = await ambientOf(app);
    f.database.refuse();
    f.database.cutAll();
    try {
      const refused = await post("revoke", app, token);
      assert.deepEqual([refused.status, refused.body["reason"]], [503, "session_not_revoked"]);
      assert.ok(Number(refused.headers.get("retry-after")) >= 1);
    } finally {
      f.database.heal();
    }
    assert.equal((await post("introspect", app, token)).body["active"], true);
  });

  it("ends authority though the ledger is away", async () => {
    const token = await ambientOf(app);
    f.ledger.refuse = true;
    try {
      assert.equal((await post("revoke", app, token)).status, 200);
    } finally {
      f.ledger.refuse = false;
    }
    await inactive(app, token, "it is over");
  });

  it("is understood by openid-client and oauth4webapi, who find both endpoints by discovery", async () => {
    const issuer = new URL(`${f.url}/zones/${zone}`);
    const config = await openid.discovery(issuer, app.id, undefined, openid.ClientSecretBasic(app.secret), {
      execute: [openid.allowInsecureRequests],
    });
    const first = await openid.clientCredentialsGrant(config);
    assert.equal((await openid.tokenIntrospection(config, first.access_token)).active, true);
    await openid.tokenRevocation(config, first.access_token);
    assert.deepEqual({ ...(await openid.tokenIntrospection(config, first.access_token)) }, { active: false });

    const insecure = { [oauth.allowInsecureRequests]: true };
    const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, insecure));
    const client = { client_id: app.id };
    const auth = oauth.ClientSecretPost(app.secret);
    const token = await ambientOf(app);
    const ask = async () =>
      oauth.processIntrospectionResponse(
        as,
        client,
        await oauth.introspectionRequest(as, client, auth, token, insecure),
      );
    const found = await ask();
    assert.deepEqual([found.active, found.client_id, found.iss], [true, app.id, issuer.href]);
    await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, token, insecure));
    assert.equal((await ask()).active, false);
  });
});
