import assert from "node:assert/strict";
import { documentsAmong, rebuiltInputs } from "../audit/rebuilt.ts";
import { createHmac, generateKeyPairSync, type KeyObject, sign as signBytes } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { createLocalJWKSet, type JSONWebKeySet, jwtVerify } from "jose";
import { hashSecret } from "../../src/domain/secret-hash.ts";
import { type Claims, signToken } from "../../src/domain/token.ts";
import { makeZoneKey, openZoneKey } from "../../src/domain/zone-key.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
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

const refused = (answer: Answer, status: number, error: string, reason: string): void => {
  assert.deepEqual(
    [answer.status, answer.body["error"], answer.body["reason"]],
    [status, error, reason],
    JSON.stringify(answer.body),
  );
  assert.ok(!("access_token" in answer.body));
  assert.equal(answer.headers.get("cache-control"), "no-store");
  assert.equal(answer.headers.get("pragma"), "no-cache");
  assert.equal(typeof answer.body["error_description"], "string");
  assert.equal(answer.body["requestId"], answer.headers.get("x-request-id"));
};

describe("the token endpoint", () => {
  let f: Fixture;
  let zone: string;
  let app: TestApplication;
  let other: TestApplication;
  let target: TestResource;
  let second: TestResource;
  let sealed: string;

  before(async () => {
    f = await startFixture();
    zone = await f.newZone();
    app = await f.newApplication(zone);
    other = await f.newApplication(zone);
    target = await f.newResource(zone, { scopes: ["read", "write", "delete"] });
    second = await f.newResource(zone, { scopes: ["read"] });
    sealed = `resource://sealed/${uuidv7()}`;
    await f.change(
      zone,
      "resource",
      (tx) => tx`insert into resources (zone_id, id, identifier, name, upstream_url, scopes)
        values (${zone}, ${uuidv7()}, ${sealed}, 'sealed', 'http://upstream.test', array['read'])`,
    );
    await f.activate(zone, ALLOW_AGENTS);
    await eventually(async () => (await f.ambient(zone, app, { resource: target.identifier })).status === 200);
  });
  after(() => f.close());

  describe("gives an ambient token", () => {
    it("to a client with its secret, in the form or by HTTP Basic, and keeps its session", async () => {
      const basic = Buffer.from(`${app.id}:${app.secret}`).toString("base64");
      const answers = [
        await f.ambient(zone, app),
        await f.token({
          grant_type: "client_credentials",
          zone_id: zone,
          application_id: app.id,
          client_secret: app.secret,
        }),
        await f.token({ grant_type: "client_credentials", zone_id: zone }, { authorization: `Basic ${basic}` }),
        await f.token({
          grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
          zone_id: zone,
          client_id: app.id,
          client_secret: app.secret,
        }),
      ];
      for (const answer of answers) {
        const claims = claimsOf(tokenOf(answer));
        const { body } = answer;
        assert.deepEqual([body["token_type"], body["expires_in"], body["target_resources"]], ["Bearer", 3_600, []]);
        assert.equal(body["scope"], "read write");
        assert.ok(!("upstreams" in body) && !("decision_id" in body));
        assert.equal(claims.iss, `${f.issuer_url}/zones/${zone}`);
        assert.deepEqual(
          [claims.aud, claims.sub, claims.client_id, claims.use, claims.sub_type],
          [claims.iss, app.id, app.id, "ambient", "application"],
        );
        assert.equal(claims.sid, body["session_id"]);
        const [row] = await f.db.sql<{ client_id: string; expires: number }[]>`
          select client_id, extract(epoch from expires_at)::float8 as expires from sessions where zone_id = ${zone} and id = ${claims.sid}`;
        assert.deepEqual(row, { client_id: app.id, expires: claims.exp });
      }
    });

    it("that the zone's published keys verify", async () => {
      const token = tokenOf(await f.ambient(zone, app));
      const jwks = (await (await fetch(`${f.url}/.well-known/jwks.json?zone_id=${zone}`)).json()) as JSONWebKeySet;
      const { protectedHeader } = await jwtVerify(token, createLocalJWKSet(jwks), {
        algorithms: ["ES256"],
        typ: "at+jwt",
      });
      assert.deepEqual(Object.keys(protectedHeader).sort(), ["alg", "kid", "typ"]);
    });

    it("for the allowed part of the resources that are named, with the scopes of that part", async () => {
      const fields = new URLSearchParams({
        grant_type: "client_credentials",
        zone_id: zone,
        client_id: app.id,
        client_secret: app.secret,
      });
      for (const one of [target.identifier, sealed, second.identifier, second.identifier])
        fields.append("resource", one);
      const answer = await f.token(fields);
      const claims = claimsOf(tokenOf(answer));
      assert.deepEqual(claims.target, [target.identifier, second.identifier]);
      assert.deepEqual(answer.body["target_resources"], claims.target);
      assert.equal(claims.scope, "read write");
      const [event] = await f.eventsOf(String(answer.headers.get("x-request-id")));
      assert.deepEqual([event?.decision, event?.resource_id, event?.event_type], ["allow", null, "token.issue"]);
      const { evaluations } = JSON.parse(event?.metadata_json ?? "{}") as {
        evaluations: { decision: string }[];
      };
      assert.deepEqual(
        evaluations.map((one) => one.decision),
        ["allow", "deny", "allow"],
      );
      assert.ok(event !== undefined);
      const [input] = rebuiltInputs(event, documentsAmong(await f.events()));
      assert.deepEqual(input?.action, { id: "TokenExchange", use: "ambient" });
      assert.equal(input?.session, null);
    });

    it("for no resource that policy denies", async () => {
      const answer = await f.ambient(zone, app, { resource: sealed });
      refused(answer, 403, "access_denied", "policy_denied");
      assert.deepEqual(answer.body["diagnostics"], [{ sealed }]);
      const stranger = await f.newApplication(zone, { traits: [] });
      const denied = await eventually(async () => {
        const found = await f.ambient(zone, stranger, { resource: target.identifier });
        return found.status === 403 ? found : null;
      });
      assert.deepEqual(denied.body["diagnostics"], ["agents only"]);
    });

    it("as long and as wide as was asked for, within its limits", async () => {
      const answer = await f.ambient(zone, app, { ttl_seconds: "60", scope: "write" });
      assert.deepEqual([answer.body["expires_in"], answer.body["scope"]], [60, "write"]);
      refused(await f.ambient(zone, app, { ttl_seconds: "3601" }), 400, "invalid_request", "ttl_seconds_invalid");
      refused(await f.ambient(zone, app, { scope: "write admin" }), 400, "invalid_scope", "scope_not_allowed");
      refused(await f.ambient(zone, app, { scope: 'a"b' }), 400, "invalid_scope", "scope_malformed");
      refused(
        await f.ambient(zone, app, { resource: "resource://nowhere" }),
        400,
        "invalid_target",
        "resource_unknown",
      );
    });

    it("not where it would name resources and none of their scopes", async () => {
      const narrow = await f.newApplication(zone, { scopes: ["another"] });
      const answer = await f.ambient(zone, narrow, { resource: target.identifier });
      refused(answer, 400, "invalid_scope", "scope_nothing_left");
      const bare = await f.newResource(zone, { scopes: [] });
      assert.equal((await f.ambient(zone, narrow, { resource: bare.identifier })).body["scope"], "");
    });

    it("for sixteen resources at most", async () => {
      const fields = new URLSearchParams({
        grant_type: "client_credentials",
        zone_id: zone,
        client_id: app.id,
        client_secret: app.secret,
      });
      for (let i = 0; i < 17; i += 1) fields.append("resource", target.identifier);
      refused(await f.token(fields), 400, "invalid_target", "resource_count_issue");
    });

    it("never longer than verifiers read", async () => {
      const scopes = Array.from({ length: 60 }, (_, i) => `${"s".repeat(60)}${i}`);
      const wide = await f.newApplication(zone, { scopes });
      const answer = await eventually(async () => {
        const found = await f.ambient(zone, wide);
        return found.status === 401 ? null : found;
      });
      refused(answer, 400, "invalid_request", "token_too_long");
      assert.ok(tokenOf(await f.ambient(zone, wide, { scope: scopes.slice(0, 36).join(" ") })).length <= 4_096);
    });
  });

  describe("gives a mandate", () => {
    it("for one resource, on the ambient token's session, within its end, and writes it down first", async () => {
      const ambient = tokenOf(await f.ambient(zone, app, { ttl_seconds: "200" }));
      const answer = await f.exchange(zone, app, ambient, target.identifier, { scope: "write" });
      const mandate = claimsOf(tokenOf(answer));
      const subject = claimsOf(ambient);
      assert.deepEqual(
        [mandate.aud, mandate.target, mandate.use, mandate.scope],
        [target.identifier, [target.identifier], "per_call", "write"],
      );
      assert.deepEqual([mandate.sid, mandate.sub, mandate.auth_exp], [subject.sid, subject.sub, subject.exp]);
      assert.equal(mandate.exp, subject.exp, "200 s are left of the session, fewer than a mandate's 300");
      assert.ok(!("via" in mandate));
      assert.ok(!("upstreams" in answer.body) && !("decision_id" in answer.body) && !("auth_exp" in answer.body));
      const [event, ...more] = await f.eventsOf(String(answer.headers.get("x-request-id")));
      assert.deepEqual(more, []);
      assert.deepEqual(
        [
          event?.event_type,
          event?.decision,
          event?.client_id,
          event?.session_id,
          event?.resource_id,
          event?.evaluation_status,
        ],
        ["token.exchange", "allow", app.id, subject.sid, target.id, "complete"],
      );
      assert.equal(event?.determining_policies_json, '["agents"]');
      assert.ok(event !== undefined);
      assert.equal(event.id, mandate.jti);
      const [input] = rebuiltInputs(event, documentsAmong(await f.events()));
      assert.deepEqual(input?.context.subject_claims, subject);
    });

    it("for the call that it names, which policy is asked about and the ledger has", async () => {
      const ambient = tokenOf(await f.ambient(zone, app));
      const answer = await f.exchange(zone, app, ambient, target.identifier, {
        call_method: "DELETE",
        call_path: "/orders/%37%2F",
      });
      const { htm, htp } = claimsOf(tokenOf(answer));
      assert.deepEqual([htm, htp], ["DELETE", "/orders/7%2F"], "in the one spelling that the Gateway compares with");
      const [event] = await f.eventsOf(String(answer.headers.get("x-request-id")));
      assert.ok(event !== undefined);
      const [input] = rebuiltInputs(event, documentsAmong(await f.events()));
      const action = { id: "TokenExchange", use: "per_call", method: "DELETE", path: "/orders/7%2F" };
      assert.deepEqual(input?.action, action);
    });

    it("for any call to an application that was set up for that alone", async () => {
      const unbound = { call_method: "", call_path: "" };
      const ambient = tokenOf(await f.ambient(zone, app));
      const answer = await f.exchange(zone, app, ambient, target.identifier, unbound);
      refused(answer, 400, "invalid_request", "call_missing");
      assert.match(String(answer.body["error_description"]), /call_method and call_path/);
      const half = await f.exchange(zone, app, ambient, target.identifier, { call_path: "" });
      refused(half, 400, "invalid_request", "call_incomplete");
      const query = await f.exchange(zone, app, ambient, target.identifier, { call_path: "/a?b" });
      refused(query, 400, "invalid_request", "call_malformed");
      const free = await f.newApplication(zone, { unbound_mandates: true });
      const of_free = tokenOf(await f.ambient(zone, free));
      const claims = claimsOf(tokenOf(await f.exchange(zone, free, of_free, target.identifier, unbound)));
      assert.ok(!("htm" in claims) && !("htp" in claims));
    });

    it("with all the scopes that resource, application and token have in common where none is asked for", async () => {
      const ambient = tokenOf(await f.ambient(zone, app, { scope: "write" }));
      assert.equal((await f.exchange(zone, app, ambient, target.identifier)).body["scope"], "write");
      const nothing_left = await f.exchange(zone, app, ambient, second.identifier);
      refused(nothing_left, 400, "invalid_scope", "scope_nothing_left");
      refused(
        await f.exchange(zone, app, ambient, target.identifier, { scope: "read" }),
        400,
        "invalid_scope",
        "scope_not_allowed",
      );
      refused(
        await f.exchange(zone, app, ambient, target.identifier, { scope: "write delete" }),
        400,
        "invalid_scope",
        "scope_not_allowed",
      );
    });

    it("for exactly one resource, which the token reaches", async () => {
      const ambient = tokenOf(await f.ambient(zone, app, { resource: second.identifier }));
      refused(await f.exchange(zone, app, ambient, target.identifier), 400, "invalid_target", "resource_not_in_target");
      refused(await f.exchange(zone, app, ambient, "resource://nowhere"), 400, "invalid_target", "resource_unknown");
      refused(await f.exchange(zone, app, ambient, ""), 400, "invalid_target", "resource_count_exchange");
      assert.equal((await f.exchange(zone, app, ambient, second.identifier)).status, 200);
    });

    it("not where its upstream takes a provider's credential: a mandate in its place would be shown to a stranger", async () => {
      const behind = await f.newResource(zone);
      await f.change(zone, "resource", async (tx) => {
        const id = uuidv7();
        await tx`insert into providers (zone_id, id, name, kind, allowed_hosts, auth_header)
          values (${zone}, ${id}, ${id}, 'apikey', '{upstream.test}', 'X-Api-Key')`;
        await tx`update resources set provider_id = ${id} where zone_id = ${zone} and id = ${behind.id}`;
      });
      const ambient = tokenOf(await f.ambient(zone, app));
      const last = await eventually(async () => {
        const answer = await f.exchange(zone, app, ambient, behind.identifier);
        return answer.status === 200 ? null : answer;
      });
      refused(last, 400, "invalid_target", "provider_not_served");
    });

    it("not where policy denies it, in the words of its author", async () => {
      const ambient = tokenOf(await f.ambient(zone, app));
      const answer = await f.exchange(zone, app, ambient, sealed);
      refused(answer, 403, "access_denied", "policy_denied");
      assert.deepEqual(answer.body["diagnostics"], [{ sealed }]);
      const [event] = await f.eventsOf(String(answer.headers.get("x-request-id")));
      assert.deepEqual([event?.decision, event?.client_id, event?.session_id], ["deny", app.id, claimsOf(ambient).sid]);
      assert.equal(event?.diagnostics_json, JSON.stringify([{ sealed }]));
    });

    it("not to another application: a stolen token is worth nothing", async () => {
      const ambient = tokenOf(await f.ambient(zone, app));
      refused(await f.exchange(zone, other, ambient, target.identifier), 403, "access_denied", "subject_token_client");
    });

    it("not for a mandate", async () => {
      const mandate = tokenOf(await f.exchange(zone, app, tokenOf(await f.ambient(zone, app)), target.identifier));
      refused(
        await f.exchange(zone, app, mandate, target.identifier),
        400,
        "invalid_request",
        "subject_token_not_ambient",
      );
    });

    it("only for the session that the caller means", async () => {
      const ambient = tokenOf(await f.ambient(zone, app));
      const { sid } = claimsOf(ambient);
      assert.equal((await f.exchange(zone, app, ambient, target.identifier, { session_id: sid })).status, 200);
      refused(
        await f.exchange(zone, app, ambient, target.identifier, { session_id: uuidv7() }),
        403,
        "access_denied",
        "session_id_mismatch",
      );
    });

    it("not once the session is revoked, at once after the revocation was announced", async () => {
      const ambient = tokenOf(await f.ambient(zone, app));
      assert.equal((await f.exchange(zone, app, ambient, target.identifier)).status, 200);
      const { sid } = claimsOf(ambient);
      await f.revokeSession(zone, sid);
      await eventually(() => f.role.revocations.revoked(zone, "session", sid), { timeout_ms: 1_000 });
      refused(await f.exchange(zone, app, ambient, target.identifier), 403, "access_denied", "session_revoked");
    });

    it("not on the database's word either, where no announcement ever came", async () => {
      const ambient = tokenOf(await f.ambient(zone, app));
      const { sid } = claimsOf(ambient);
      await f.db.sql`update sessions set revoked_at = now() where zone_id = ${zone} and id = ${sid}`;
      await eventually(async () => {
        f.clock.forward(4_000); // the stream is silent now, until the next head
        return (await f.exchange(zone, app, ambient, target.identifier)).body["reason"] === "session_revoked";
      });
    });

    it("not for a session that is gone", async () => {
      const ambient = tokenOf(await f.ambient(zone, app));
      await f.db.sql`delete from sessions where zone_id = ${zone} and id = ${claimsOf(ambient).sid}`;
      await eventually(async () => {
        f.clock.forward(4_000);
        return (await f.exchange(zone, app, ambient, target.identifier)).body["reason"] === "session_unknown";
      });
    });

    it("not past the session's end", async () => {
      const ambient = tokenOf(await f.ambient(zone, app, { ttl_seconds: "30" }));
      f.clock.forward(31_000);
      const answer = await f.exchange(zone, app, ambient, target.identifier);
      refused(answer, 403, "access_denied", "session_expired");
      f.clock.forward(70_000);
      refused(await f.exchange(zone, app, ambient, target.identifier), 400, "invalid_request", "subject_token_expired");
    });
  });

  describe("believes no subject token but its own", () => {
    let key: KeyObject;
    let kid: string;
    let good: Claims;

    before(async () => {
      const [row] = await f.db.sql<
        { kid: string; sealed_private: string }[]
      >`select kid, sealed_private from zone_keys where zone_id = ${zone}`;
      kid = row?.kid ?? "";
      key = openZoneKey(f.kek, zone, kid, row?.sealed_private ?? "");
      good = claimsOf(tokenOf(await f.ambient(zone, app)));
    });

    const compact = (header: object, payload: object, signature: (signed: string) => Buffer): string => {
      const signed = [header, payload].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
      return `${signed}.${signature(signed).toString("base64url")}`;
    };
    const es256 = (signer: KeyObject) => (signed: string) =>
      signBytes("sha256", Buffer.from(signed), { key: signer, dsaEncoding: "ieee-p1363" });
    const reasonFor = async (subject_token: string): Promise<unknown> => {
      const answer = await f.exchange(zone, app, subject_token, target.identifier);
      assert.ok(answer.status === 400 || answer.status === 403, JSON.stringify(answer.body));
      return answer.body["reason"];
    };

    it("whatever the header says", async () => {
      const header = { alg: "ES256", typ: "at+jwt", kid };
      const stranger = generateKeyPairSync("ec", { namedCurve: "P-256" });
      const jwk = stranger.publicKey.export({ format: "jwk" });
      const pem = String(key.export({ format: "pem", type: "pkcs8" }));
      const malformed = "subject_token_malformed";
      const forged: readonly (readonly [string, string, string])[] = [
        ["alg none", compact({ ...header, alg: "none" }, good, () => Buffer.alloc(64)), malformed],
        [
          "HS256 with what is public",
          compact({ ...header, alg: "HS256" }, good, (signed) => createHmac("sha256", pem).update(signed).digest()),
          malformed,
        ],
        ["ES384", compact({ ...header, alg: "ES384" }, good, es256(key)), malformed],
        ["typ JWT", compact({ ...header, typ: "JWT" }, good, es256(key)), malformed],
        ["an own key in the header", compact({ ...header, jwk }, good, es256(stranger.privateKey)), malformed],
        [
          "a key's address in the header",
          compact({ ...header, jku: "https://evil.test/jwks" }, good, es256(stranger.privateKey)),
          malformed,
        ],
        ["crit", compact({ ...header, crit: ["exp"] }, good, es256(key)), malformed],
        [
          "a stranger's key under our kid",
          compact(header, good, es256(stranger.privateKey)),
          "subject_token_signature",
        ],
        ["a path as kid", compact({ ...header, kid: "../../etc/passwd" }, good, es256(key)), "subject_token_signature"],
        ["SQL as kid", compact({ ...header, kid: "' or 1=1 --" }, good, es256(key)), "subject_token_signature"],
        ["no kid", compact({ alg: "ES256", typ: "at+jwt" }, good, es256(key)), malformed],
        ["a signature of zeros", compact(header, good, () => Buffer.alloc(64)), "subject_token_signature"],
        [
          "DER instead of the raw signature",
          compact(header, good, (signed) => signBytes("sha256", Buffer.from(signed), key)),
          malformed,
        ],
        ["no token", "nonsense", malformed],
        ["too long", `${"a".repeat(5_000)}.b.c`, malformed],
      ];
      for (const [what, token, reason] of forged) assert.equal(await reasonFor(token), reason, what);
    });

    it("whatever the claims say, though our own key signed them", async () => {
      const now_s = Math.floor(f.clock.now_ms() / 1_000);
      const signed = (some: object): string => signToken(key, kid, { ...good, iat: now_s, exp: now_s + 600, ...some });
      const cases: readonly (readonly [object, string])[] = [
        [{ iss: `https://evil.test/zones/${zone}` }, "subject_token_issuer"],
        [{ aud: target.identifier }, "subject_token_claims"],
        [{ exp: now_s - 120, iat: now_s - 700 }, "subject_token_expired"],
        [{ iat: now_s + 120, exp: now_s + 700 }, "subject_token_not_yet_valid"],
        [{ exp: now_s + 4_000 }, "subject_token_claims"],
        [{ admin: true }, "subject_token_claims"],
        [{ sub_type: "root" }, "subject_token_claims"],
        [{ zone_id: uuidv7() }, "subject_token_zone"],
        [{ client_id: other.id }, "subject_token_client"],
        [{ sub: other.id }, "session_mismatch"],
        [{ sid: uuidv7() }, "session_unknown"],
        [{ sid: "../../" }, "session_unknown"],
        [{ agent_session_id: uuidv7() }, "agent_session_unknown"],
        [{ delegation_edge_id: uuidv7() }, "delegation_edge_unknown"],
        [{ act: { sub: other.id, also: "x" } }, "subject_token_claims"],
        [{ grant_id: uuidv7() }, "subject_token_bound"],
      ];
      for (const [some, reason] of cases) assert.equal(await reasonFor(signed(some)), reason, JSON.stringify(some));
    });

    it("and none of another zone, under either zone's name", async () => {
      const elsewhere = await f.newZone();
      const there = await f.newApplication(elsewhere);
      const resource = await f.newResource(elsewhere);
      await f.activate(elsewhere, ALLOW_AGENTS);
      const token = await eventually(async () => {
        const answer = await f.ambient(elsewhere, there);
        return answer.status === 200 ? tokenOf(answer) : null;
      });
      assert.equal(await reasonFor(token), "subject_token_zone");
      const ambient = tokenOf(await f.ambient(zone, app));
      assert.equal(
        (await f.exchange(zone, app, ambient, target.identifier)).status,
        200,
        "it is known and believed here",
      );
      refused(
        await f.exchange(elsewhere, there, ambient, resource.identifier),
        400,
        "invalid_request",
        "subject_token_zone",
      );
      refused(
        await f.exchange(elsewhere, app, ambient, resource.identifier),
        401,
        "invalid_client",
        "client_unauthenticated",
      );
    });

    it("and none of a key that was withdrawn, though it was believed before", async () => {
      const zone2 = await f.newZone();
      const app2 = await f.newApplication(zone2);
      const resource2 = await f.newResource(zone2);
      await f.activate(zone2, ALLOW_AGENTS);
      const token = await eventually(async () => {
        const answer = await f.ambient(zone2, app2);
        return answer.status === 200 ? tokenOf(answer) : null;
      });
      assert.equal((await f.exchange(zone2, app2, token, resource2.identifier)).status, 200);
      const fresh = makeZoneKey(f.kek, zone2);
      await f.change(zone2, "key", async (tx) => {
        await tx`delete from zone_keys where zone_id = ${zone2}`;
        await tx`insert into zone_keys (zone_id, kid, public_jwk, sealed_private) values (${zone2}, ${fresh.kid}, ${fresh.public_jwk}, ${fresh.sealed_private})`;
      });
      await eventually(
        async () =>
          (await f.exchange(zone2, app2, token, resource2.identifier)).body["reason"] === "subject_token_signature",
      );
      assert.equal((await f.ambient(zone2, app2)).status, 200);
    });
  });

  describe("knows its clients", () => {
    it("and gives one answer to every other: unknown zone, unknown client, public client, wrong secret, another zone's client", async () => {
      const hidden = await f.newApplication(zone, { public: true });
      const elsewhere = await f.newZone();
      const answers = [
        await f.ambient(uuidv7(), app),
        await f.ambient("no zone", app),
        await f.ambient(zone, { ...app, id: uuidv7() }),
        await f.ambient(zone, hidden),
        await f.ambient(zone, { ...app, secret: "wrong" }),
        await f.ambient(elsewhere, app),
      ];
      const shapes = answers.map(({ status, body, headers }) => {
        const { requestId, ...rest } = body;
        assert.equal(typeof requestId, "string");
        return { status, rest, challenge: headers.get("www-authenticate") };
      });
      assert.equal(shapes[0]?.status, 401);
      assert.match(shapes[0]?.challenge ?? "", /^Basic realm=/);
      for (const shape of shapes) assert.deepEqual(shape, shapes[0]);
    });

    it("and throttles who fails, before anything is hashed", async () => {
      const victim = await f.newApplication(zone);
      let last: Answer | undefined;
      for (let i = 0; i < 6; i += 1) last = await f.ambient(zone, { ...victim, secret: `wrong${i}` });
      refused(last as Answer, 429, "temporarily_unavailable", "client_throttled");
      assert.ok(Number(last?.headers.get("retry-after")) >= 1);
    });

    it("no longer once they are archived, nor by an old secret", async () => {
      const gone = await f.newApplication(zone);
      const ambient = tokenOf(
        await eventually(async () => {
          const answer = await f.ambient(zone, gone);
          return answer.status === 200 ? answer : null;
        }),
      );
      await f.change(
        zone,
        "application",
        (tx) => tx`update applications set archived_at = now() where zone_id = ${zone} and id = ${gone.id}`,
      );
      const last = await eventually(async () => {
        const answer = await f.exchange(zone, gone, ambient, target.identifier);
        return answer.status === 200 ? null : answer;
      });
      refused(last, 401, "invalid_client", "client_unauthenticated");
      refused(await f.ambient(zone, gone), 401, "invalid_client", "client_unauthenticated");
    });

    it("and has no session written for one that was archived a moment ago", async () => {
      const gone = await f.newApplication(zone);
      await eventually(async () => (await f.ambient(zone, gone)).status === 200);
      await f.db.sql`update applications set archived_at = now() where zone_id = ${zone} and id = ${gone.id}`; // nobody was told yet
      refused(await f.ambient(zone, gone), 401, "invalid_client", "application_archived");
    });
  });

  describe("takes the secrets of a client", () => {
    const hashes = (id: string, some: { present?: string; before?: string; ends?: string; types?: string }) =>
      f.change(
        zone,
        "application",
        (tx) => tx`update applications set secret_hash = coalesce(${some.present ?? null}, secret_hash),
          previous_secret_hash = ${some.before ?? null}, previous_secret_expires_at = now() + ${some.ends ?? "1 hour"}::text::interval,
          credential_types = array[${some.types ?? "client_secret"}::text]
        where zone_id = ${zone} and id = ${id}`,
      );

    it("the one before the present one too, until its time is over", async () => {
      const one = await f.newApplication(zone);
      const [old, present] = [one.secret, "the-new-secret-of-a-client"];
      const [present_hash, old_hash] = [await hashSecret(present, zone), one.secret_hash ?? ""];
      await hashes(one.id, { present: present_hash, before: old_hash });
      for (const secret of [present, old]) tokenOf(await f.ambient(zone, { ...one, secret }));
      await hashes(one.id, { before: old_hash, ends: "-1 second" });
      await eventually(async () => assert.equal((await f.ambient(zone, { ...one, secret: old })).status, 401));
      tokenOf(await f.ambient(zone, { ...one, secret: present }));
    });

    it("only where its credential types hold client_secret", async () => {
      const one = await f.newApplication(zone);
      tokenOf(await f.ambient(zone, one));
      await hashes(one.id, { types: "private_key_jwt" });
      await eventually(async () =>
        refused(await f.ambient(zone, one), 401, "invalid_client", "client_unauthenticated"),
      );
    });
  });

  describe("refuses by name", () => {
    it("what it does not serve, and never ignores it", async () => {
      const ambient = tokenOf(await f.ambient(zone, app));
      const fields = ["audience"];
      for (const name of fields) {
        for (const answer of [
          await f.ambient(zone, app, { [name]: "x" }),
          await f.exchange(zone, app, ambient, target.identifier, { [name]: "x" }),
        ]) {
          refused(answer, 400, "invalid_request", "field_not_supported");
          assert.match(String(answer.body["error_description"]), new RegExp(`^${name} is not supported`));
        }
      }
      const id_token = "urn:ietf:params:oauth:token-type:id_token";
      refused(
        await f.exchange(zone, app, ambient, target.identifier, { subject_token_type: id_token }),
        400,
        "invalid_request",
        "field_not_supported",
      );
      refused(
        await f.exchange(zone, app, ambient, target.identifier, { requested_token_type: id_token }),
        400,
        "invalid_request",
        "field_not_supported",
      );
      refused(await f.ambient(zone, app, { call_method: "GET" }), 400, "invalid_request", "field_not_allowed");
      assert.equal(
        (await f.ambient(zone, app, { state: "unknown to us" })).status,
        200,
        "RFC 6749, 3.2: what nobody knows is ignored",
      );
    });

    it("and writes the refusal of a known client into the ledger, of nobody only into a count", async () => {
      // Not one whose like was told a moment ago: repeated denials are counted, and have no event of their own.
      const fresh = await f.newApplication(zone);
      await eventually(async () => assert.equal((await f.ambient(zone, fresh)).status, 200));
      const known = await f.ambient(zone, fresh, { audience: "x" });
      const [event] = await f.eventsOf(String(known.headers.get("x-request-id")));
      assert.deepEqual([event?.decision, event?.client_id, event?.event_type], ["deny", fresh.id, "token.issue"]);
      assert.equal((JSON.parse(event?.metadata_json ?? "{}") as { reason: string }).reason, "field_not_supported");
      const nobody = await f.ambient(zone, { ...app, id: "nobody" });
      assert.deepEqual(await f.eventsOf(String(nobody.headers.get("x-request-id"))), []);
      assert.ok((await f.metric('sts_unauthenticated_total{reason="client_unauthenticated"}')) >= 1);
    });

    it("and repeats no secret or token in the ledger or the log", async () => {
      const ambient = tokenOf(await f.ambient(zone, app));
      tokenOf(await f.exchange(zone, app, ambient, target.identifier));
      const everything = JSON.stringify(await f.events()) + f.logged.join("\n");
      for (const secret of [app.secret, ambient, ambient.split(".")[2] ?? ""]) assert.ok(!everything.includes(secret));
    });
  });
});
