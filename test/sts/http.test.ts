import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import * as fc from "fast-check";
import { MAX_FORM_BYTES, TOKEN_PATH } from "../../src/contracts/sts.ts";
import { makeZoneKey } from "../../src/domain/zone-key.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { Unavailable } from "../../src/ports/streams.ts";
import { eventually } from "../support/eventually.ts";
import { openRaw, rawRequest, requestText } from "../support/raw-http.ts";
import { ALLOW_AGENTS, type Fixture, startFixture, type TestApplication } from "./fixture.ts";

const FORM = "application/x-www-form-urlencoded";

describe("the STS on the wire", () => {
  let f: Fixture;
  let zone: string;
  let app: TestApplication;

  before(async () => {
    f = await startFixture({ gateway: false });
    zone = await f.newZone();
    app = await f.newApplication(zone);
    await eventually(async () => (await fetch(`${f.url}/.well-known/jwks.json?zone_id=${zone}`)).status === 200);
  });
  after(() => f.close());

  const post = async (
    body: string | Buffer,
    headers: Readonly<Record<string, string>> = { "content-type": FORM },
    path = TOKEN_PATH,
  ) => {
    const response = await fetch(`${f.url}${path}`, { method: "POST", body, headers });
    return {
      status: response.status,
      body: (await response.json()) as Record<string, unknown>,
      headers: response.headers,
    };
  };

  it("takes a form and nothing else at the token endpoint, and says so", async () => {
    for (const type of [
      "application/json",
      "text/plain",
      "multipart/form-data; boundary=x",
      "application/x-www-form-urlencoded; charset=latin1",
      "x",
    ]) {
      const { status, body } = await post("{}", { "content-type": type });
      assert.deepEqual([status, body["error"], body["reason"]], [400, "invalid_request", "content_type"], type);
    }
    assert.equal((await post("a=b", { "content-type": `${FORM}; charset=UTF-8` })).body["reason"], "zone_id_missing");
    assert.equal(
      (await post("a=b", { "content-type": FORM, "content-encoding": "gzip" })).body["reason"],
      "content_encoding",
    );
    assert.equal(
      (await post("a=b", { "content-type": FORM }, `${TOKEN_PATH}?client_secret=x`)).body["reason"],
      "query_not_allowed",
    );
  });

  it("names the field that is wrong", async () => {
    const { status, body } = await post("zone_id=a&zone_id=b");
    assert.deepEqual(
      [status, body["error"], body["error_description"]],
      [400, "invalid_request", "zone_id may be sent once only."],
    );
    assert.match(String((await post("scope=%ff")).body["error_description"]), /^scope has a broken percent-escape/);
    assert.match(String((await post(Buffer.from([0xff, 0xfe]))).body["error_description"]), /UTF-8/);
  });

  it("takes no more than 64 KiB, whether the length is told or not", async () => {
    const told = await post(`zone_id=${"z".repeat(MAX_FORM_BYTES)}`);
    assert.deepEqual([told.status, told.body["reason"]], [413, "form_too_large"]);
    const connection = await openRaw(f.url);
    connection.write(
      requestText("POST", TOKEN_PATH, { Host: "sts", "Content-Type": FORM, "Transfer-Encoding": "chunked" }),
    );
    const chunk = `${(16_384).toString(16)}\r\n${"z".repeat(16_384)}\r\n`;
    for (let i = 0; i < 5; i += 1) connection.write(chunk);
    const answer = await connection.answer();
    assert.equal(answer?.status, 413);
    await connection.closed();
    connection.destroy();
  });

  it("refuses two Authorization headers rather than choose one", async () => {
    const basic = `Basic ${Buffer.from(`${app.id}:${app.secret}`).toString("base64")}`;
    const body = `grant_type=client_credentials&zone_id=${zone}`;
    const headers = { Host: "sts", "Content-Type": FORM, Authorization: [basic, "Basic eDp5"] };
    const answer = await rawRequest(f.url, requestText("POST", TOKEN_PATH, headers, body));
    assert.equal(answer?.status, 400);
    assert.equal((JSON.parse(answer?.body ?? "{}") as { reason: string }).reason, "authorization_repeated");
  });

  it("answers other methods with 405 and other paths with 404, in the general shape", async () => {
    for (const [method, path, allow] of [
      ["GET", TOKEN_PATH, "POST"],
      ["POST", "/.well-known/jwks.json", "GET, HEAD"],
      ["DELETE", "/internal/v1/bindings", "GET, HEAD"],
    ]) {
      const response = await fetch(`${f.url}${path}`, { method: method ?? "" });
      const body = (await response.json()) as Record<string, unknown>;
      assert.deepEqual(
        [response.status, response.headers.get("allow"), body["error"]],
        [405, allow, "method_not_allowed"],
      );
    }
    for (const path of ["/", "/oauth/2/token/", "/internal/v1/directive", "/%2e%2e/x"]) {
      const response = await fetch(`${f.url}${path}`);
      assert.equal(response.status, 404, path);
      assert.equal(((await response.json()) as Record<string, unknown>)["error"], "not_found");
    }
  });

  it("keeps a well-formed request id and makes one where there is none", async () => {
    assert.equal(
      (await post("a=b", { "content-type": FORM, "x-request-id": "a.B:c-9" })).headers.get("x-request-id"),
      "a.B:c-9",
    );
    const made = (await post("a=b", { "content-type": FORM, "x-request-id": "a b" })).headers.get("x-request-id");
    assert.match(made ?? "", /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
  });

  it("publishes a zone's keys for five minutes, and no one else's", async () => {
    const response = await fetch(`${f.url}/.well-known/jwks.json?zone_id=${zone}`);
    assert.equal(response.headers.get("cache-control"), "public, max-age=300, must-revalidate");
    const { keys } = (await response.json()) as { keys: Record<string, unknown>[] };
    assert.equal(keys.length, 1);
    assert.deepEqual(Object.keys(keys[0] ?? {}).sort(), ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    const statusOf = async (query: string) => (await fetch(`${f.url}/.well-known/jwks.json${query}`)).status;
    assert.equal(await statusOf(""), 400);
    assert.equal(await statusOf("?zone_id="), 400);
    assert.equal(await statusOf(`?zone_id=${zone}&zone_id=${uuidv7()}`), 400);
    for (const unknown of [uuidv7(), "x", "%00", "../../", "'--", "system", "%F0%9F%92%A9"])
      assert.equal(await statusOf(`?zone_id=${unknown}`), 404, unknown);
    await f.db.sql`insert into zones (id, slug, name) values (${uuidv7()}, 'empty', 'a zone without keys')`;
    const [row] = await f.db.sql<{ id: string }[]>`select id from zones where slug = 'empty'`;
    assert.equal(await statusOf(`?zone_id=${row?.id}`), 404);
  });

  it("publishes the two most recent keys, and signs with the newest whose time has come", async () => {
    const own = await f.newZone();
    const [second, third] = [makeZoneKey(f.kek, own), makeZoneKey(f.kek, own)];
    await f.change(own, "key", async (tx) => {
      await tx`update zone_keys set created_at = now() - interval '2 days' where zone_id = ${own}`;
      await tx`insert into zone_keys (zone_id, kid, public_jwk, sealed_private, created_at)
        values (${own}, ${second.kid}, ${second.public_jwk}, ${second.sealed_private}, now() - interval '1 day')`;
      await tx`insert into zone_keys (zone_id, kid, public_jwk, sealed_private, signs_from)
        values (${own}, ${third.kid}, ${third.public_jwk}, ${third.sealed_private}, now() + interval '5 minutes')`;
    });
    const kids = await eventually(async () => {
      const keys = await f.role.direct.jwks(own);
      return keys?.keys.length === 2 ? keys.keys.map((key) => key.kid) : null;
    });
    assert.deepEqual(kids, [third.kid, second.kid]);
    const owner = await f.newApplication(own);
    await f.activate(own, ALLOW_AGENTS);
    const answer = await eventually(async () => {
      const found = await f.ambient(own, owner);
      return found.status === 200 ? found : null;
    });
    const header = JSON.parse(
      Buffer.from(String(answer.body["access_token"]).split(".")[0] ?? "", "base64url").toString(),
    ) as { kid: string };
    assert.equal(header.kid, second.kid);
  });

  it("asks the database for no zone that can't be, and at a bounded rate for those that could", async () => {
    const before_flood = f.statements();
    await Promise.all(
      Array.from({ length: 50 }, (_, i) => fetch(`${f.url}/.well-known/jwks.json?zone_id=nonsense${i}`)),
    );
    assert.equal(f.statements() - before_flood, 0);
    const flood = await Promise.allSettled(Array.from({ length: 1_000 }, () => f.role.direct.jwks(uuidv7())));
    assert.ok(
      flood.some((one) => one.status === "rejected" && one.reason instanceof Unavailable),
      "inventions are turned away",
    );
    assert.ok(f.statements() - before_flood < 900);
    const turned_away = await fetch(`${f.url}/.well-known/jwks.json?zone_id=${uuidv7()}`);
    assert.ok([404, 503].includes(turned_away.status));
    assert.equal(
      (await fetch(`${f.url}/.well-known/jwks.json?zone_id=${zone}`)).status,
      200,
      "known zones don't notice",
    );
  });

  it("has no Gateway where it has no key for one", async () => {
    for (const path of ["/internal/v1/bindings", "/internal/v1/revocations"]) {
      const headers = {
        "x-caracal-gateway-timestamp": "1",
        "x-caracal-gateway-nonce": "n",
        "x-caracal-gateway-signature": "s",
      };
      assert.equal((await fetch(`${f.url}${path}`, { headers })).status, 401);
    }
  });

  it("sums up calls by nobody in one event a minute", async () => {
    await post(new URLSearchParams({ grant_type: "client_credentials", zone_id: zone }).toString());
    const summary = f.role.services.find((one) => one.name === "sts-unauthenticated-summary");
    assert.ok(summary !== undefined && "tick" in summary && typeof summary.tick === "function");
    await (summary as unknown as { tick(): Promise<void> }).tick();
    const found = (await f.events()).filter((one) => one.event_type === "unauthenticated.summary");
    assert.ok(found.length >= 1);
    assert.equal(found[0]?.zone_id, "system");
    const total = found.map(
      (one) =>
        (JSON.parse(one.metadata_json ?? "{}") as { counts: Record<string, number> }).counts[
          "client_unauthenticated"
        ] ?? 0,
    );
    assert.ok(total.reduce((sum, one) => sum + one, 0) >= 1);
  });

  it("never answers garbage with a 5xx, and says what is wrong in RFC 6749's shape", async () => {
    const names = [
      "grant_type",
      "zone_id",
      "client_id",
      "client_secret",
      "application_id",
      "resource",
      "scope",
      "subject_token",
      "subject_token_type",
      "ttl_seconds",
      "session_id",
      "requested_token_type",
      "actor_token",
    ];
    const value = fc.oneof(
      fc.constantFrom(
        "",
        "client_credentials",
        "urn:ietf:params:oauth:grant-type:token-exchange",
        "urn:ietf:params:oauth:token-type:access_token",
        zone,
        app.id,
        "0",
        "\u0000",
        "💩",
      ),
      fc.string({ unit: "grapheme", maxLength: 40 }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.constantFrom(...names), value), { maxLength: 12 }), async (fields) => {
        const { status, body } = await post(new URLSearchParams(fields).toString());
        assert.ok(status >= 400 && status < 500, `${status} ${JSON.stringify(body)}`);
        for (const name of ["error", "error_description", "reason", "requestId"])
          assert.equal(typeof body[name], "string");
      }),
      { numRuns: 150 },
    );
  });
});
