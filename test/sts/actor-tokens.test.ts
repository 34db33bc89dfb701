import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { TOKEN_TYPE_ACCESS_TOKEN } from "../../src/contracts/sts.ts";
import { idsOf } from "../../src/domain/revocation.ts";
import { type Claims, signToken } from "../../src/domain/token.ts";
import { openZoneKey } from "../../src/domain/zone-key.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { documentsAmong, rebuiltInputs } from "../audit/rebuilt.ts";
import { eventually } from "../support/eventually.ts";
import {
  ALLOW_AGENTS,
  type Answer,
  claimsOf,
  type Fixture,
  startFixture,
  type TestApplication,
  type TestResource,
  tokenOf,
} from "./fixture.ts";
import { createGraph } from "./graph.ts";

const refused = (answer: Answer, status: number, error: string, reason: string): void =>
  assert.deepEqual(
    [answer.status, answer.body["error"], answer.body["reason"]],
    [status, error, reason],
    JSON.stringify(answer.body),
  );

describe("an actor token", () => {
  let f: Fixture;
  let zone: string;
  let app: TestApplication;
  let other: TestApplication;
  let target: TestResource;
  let second: TestResource;
  let actor: string;
  /** A user's token, issued to the application, and its session. */
  let user: { token: string; sid: string };

  before(async () => {
    f = await startFixture();
    zone = await f.newZone();
    app = await f.newApplication(zone);
    other = await f.newApplication(zone);
    target = await f.newResource(zone);
    second = await f.newResource(zone);
    await f.activate(zone, ALLOW_AGENTS);
    actor = await eventually(async () => {
      const answer = await f.ambient(zone, app, { resource: target.identifier });
      return answer.status === 200 ? String(answer.body["access_token"]) : null;
    });
    user = await userOf(app);
  });
  after(() => f.close());

  const signed = async (claims: Claims): Promise<string> => {
    const [row] = await f.control.sql<{ kid: string; sealed_private: string }[]>`
      select kid, sealed_private from zone_keys where zone_id = ${zone}`;
    assert.ok(row !== undefined);
    return signToken(openZoneKey(f.kek, zone, row.kid, row.sealed_private), row.kid, claims);
  };
  /** As an id_token of a registered issuer would begin it. */
  const userOf = async (application: TestApplication, some: Partial<Claims> = {}) => {
    const sid = uuidv7();
    const sub = `issuer|${sid}`;
    await f.control.sql`insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at)
      values (${zone}, ${sid}, ${application.id}, ${sub}, 'user', now() + interval '1 hour')`;
    const like = claimsOf(tokenOf(await f.ambient(zone, application)));
    const claims: Claims = { ...like, sub, sid, sub_type: "user", jti: uuidv7(), ...some };
    return { token: await signed(claims), sid };
  };
  const acting = (
    actor_token: string,
    fields: Readonly<Record<string, string>> = {},
    resource: TestResource = target,
    subject_token: string = user.token,
  ) =>
    f.exchange(zone, app, subject_token, resource.identifier, {
      actor_token,
      actor_token_type: TOKEN_TYPE_ACCESS_TOKEN,
      ...fields,
    });

  it("puts its principal into the mandate, into the ledger and before policy, with those who acted before within", async () => {
    const claims = claimsOf(tokenOf(await acting(actor)));
    const { sub, sid } = claimsOf(actor);
    assert.deepEqual(claims.act, { sub, sid });
    assert.deepEqual([claims.sub_type, claims.sid], ["user", user.sid]);
    const events = await f.events();
    const event = events.find((one) => one.id === claims.jti);
    assert.ok(event !== undefined);
    const [input] = rebuiltInputs(event, documentsAmong(events));
    assert.deepEqual(input?.context.actor_claims, claimsOf(actor));

    const before_it = { sub: "an earlier actor", sid: "its session" };
    const acted = await userOf(app, { act: before_it });
    const nested = claimsOf(tokenOf(await acting(actor, {}, target, acted.token)));
    assert.deepEqual(nested.act, { sub, sid, act: before_it });
    assert.deepEqual(idsOf(nested), [acted.sid, sid, "its session"]);
  });

  it("is no way to lose the actor that the subject token has", async () => {
    const acted = await userOf(app, { act: { sub: "an earlier actor" } });
    const claims = claimsOf(tokenOf(await f.exchange(zone, app, acted.token, target.identifier)));
    assert.deepEqual(claims.act, { sub: "an earlier actor" });
  });

  it("is verified as the subject's is", async () => {
    const [head, payload] = actor.split(".");
    const foreign = await f.newZone();
    const cases: readonly (readonly [string, string])[] = [
      ["no token", "x.y.z"],
      ["another signature", `${head}.${payload}.${"A".repeat(86)}`],
      ["another zone", await signed({ ...claimsOf(actor), zone_id: foreign })],
      [
        "another issuer",
        await signed({ ...claimsOf(actor), iss: "https://elsewhere.test", aud: "https://elsewhere.test" }),
      ],
      ["expired", await signed({ ...claimsOf(actor), iat: 1_000, exp: 2_000 })],
      ["a mandate", tokenOf(await f.exchange(zone, app, actor, target.identifier))],
    ];
    for (const [what, token] of cases) {
      const answer = await acting(token);
      assert.deepEqual([answer.status, answer.body["reason"]], [400, "actor_token_invalid"], what);
    }
  });

  it("is the caller's own, of another principal than the subject, and of nobody who acts for a third", async () => {
    const others = tokenOf(await f.ambient(zone, other));
    refused(await acting(others), 403, "access_denied", "actor_token_client");
    refused(await acting(user.token), 400, "invalid_request", "actor_is_subject");
    refused(await acting(actor, {}, target, actor), 400, "invalid_request", "actor_is_subject");
    for (const some of [{ act: { sub: "x" } }, { grant_id: "x" }]) {
      const bound = await signed({ ...claimsOf(actor), ...some });
      refused(await acting(bound), 400, "invalid_request", "actor_token_bound");
    }
  });

  it("is worth nothing once its session is over, nor is what was made with it", async () => {
    const answer = await f.ambient(zone, app);
    const short = tokenOf(answer);
    const mandate = claimsOf(tokenOf(await acting(short)));
    await f.revokeSession(zone, String(answer.body["session_id"]));
    await eventually(async () => (await acting(short)).body["reason"] === "actor_session_over");
    assert.ok(idsOf(mandate).includes(String(answer.body["session_id"])));
    const gone = await signed({ ...claimsOf(actor), sid: uuidv7() });
    refused(await acting(gone), 403, "access_denied", "actor_session_over");
    const of_another = await signed({ ...claimsOf(actor), sid: user.sid });
    refused(await acting(of_another), 403, "access_denied", "actor_session_over");
  });

  it("ends what it took part in with its own session", async () => {
    const brief = await f.ambient(zone, app, { ttl_seconds: "100" });
    const mandate = claimsOf(tokenOf(await acting(tokenOf(brief), { ttl_seconds: "900" })));
    assert.ok(mandate.exp - mandate.iat <= 100);
    assert.equal(mandate.auth_exp, mandate.exp);
  });

  it("limits by its own target and scope", async () => {
    refused(await acting(actor, {}, second), 400, "invalid_target", "resource_not_in_target");
    const narrow = tokenOf(await f.ambient(zone, app, { scope: "read" }));
    assert.equal(claimsOf(tokenOf(await acting(narrow))).scope, "read");
    refused(await acting(narrow, { scope: "write" }), 400, "invalid_scope", "scope_not_allowed");
  });

  it("brings the agent session that it carries, and no second one", async () => {
    const graph = createGraph(f, zone);
    const [agent, another] = [await graph.agent(app), await graph.agent(app)];
    const of_agent = tokenOf(await f.ambient(zone, app, { agent_session_id: agent.id }));
    assert.equal(claimsOf(tokenOf(await acting(of_agent))).agent_session_id, agent.id);
    refused(await acting(of_agent, { agent_session_id: another.id }), 403, "access_denied", "actor_authority_differs");
    const subject = await userOf(app, { agent_session_id: another.id });
    refused(await acting(of_agent, {}, target, subject.token), 403, "access_denied", "actor_authority_differs");
  });

  it("comes with its type, and with a subject token alone", async () => {
    const of = (fields: Readonly<Record<string, string>>) =>
      f.exchange(zone, app, user.token, target.identifier, fields);
    refused(await of({ actor_token: actor }), 400, "invalid_request", "actor_token_type_missing");
    refused(await of({ actor_token_type: TOKEN_TYPE_ACCESS_TOKEN }), 400, "invalid_request", "field_not_allowed");
    const id_token = "urn:ietf:params:oauth:token-type:id_token";
    refused(
      await of({ actor_token: actor, actor_token_type: id_token }),
      400,
      "invalid_request",
      "field_not_supported",
    );
    for (const fields of [{ actor_token: actor }, { actor_token_type: TOKEN_TYPE_ACCESS_TOKEN }])
      refused(await f.ambient(zone, app, fields), 400, "invalid_request", "field_not_allowed");
  });
});
