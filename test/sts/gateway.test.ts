import assert from "node:assert/strict";
import { documentsAmong, rebuiltInputs } from "../audit/rebuilt.ts";
import { after, before, describe, it } from "node:test";
import {
  BINDINGS_PATH,
  type BindingsPage,
  CALL_FIELDS,
  GRANT_TOKEN_EXCHANGE,
  REVOCATIONS_PATH,
  type RevocationPage,
  TOKEN_PATH,
  TOKEN_TYPE_ACCESS_TOKEN,
} from "../../src/contracts/sts.ts";
import { contentSha256, GATEWAY_HEADERS, signGatewayCall } from "../../src/domain/gateway-signature.ts";
import { type Keyring, keyring } from "../../src/domain/keyring.ts";
import { randomSecret, uuidv7 } from "../../src/kernel/ids.ts";
import type { GatewayExchange } from "../../src/contracts/exchange.ts";
import { StsTimeout } from "../../src/ports/sts.ts";
import { Unavailable } from "../../src/ports/streams.ts";
import { eventually } from "../support/eventually.ts";
import { ALLOW_AGENTS, type Fixture, startFixture, type TestApplication, type TestResource } from "./fixture.ts";
import { createGraph, type TestAgent } from "./graph.ts";

type Signed = {
  readonly ring?: Keyring;
  readonly method?: string;
  readonly path?: string;
  readonly body?: string;
  readonly timestamp_ms?: number;
  readonly nonce?: string;
};

describe("the Gateway's own calls", () => {
  let f: Fixture;
  let zone: string;
  let app: TestApplication;
  let target: TestResource;
  let ambient: string;
  let session_id: string;

  before(async () => {
    f = await startFixture();
    zone = await f.newZone();
    app = await f.newApplication(zone, { rate_limit_per_minute: 100_000 });
    target = await f.newResource(zone, { upstream_url: "http://upstream.test/base?x=1" });
    await f.activate(zone, ALLOW_AGENTS);
    const answer = await eventually(async () => {
      const found = await f.ambient(zone, app, { resource: target.identifier });
      return found.status === 200 ? found : null;
    });
    ambient = String(answer.body["access_token"]);
    session_id = String(answer.body["session_id"]);
  });
  after(() => f.close());

  const headersFor = (signed: Signed = {}): Record<string, string> => {
    const call = {
      method: signed.method ?? "POST",
      path: signed.path ?? TOKEN_PATH,
      timestamp_ms: signed.timestamp_ms ?? f.clock.now_ms(),
      nonce: signed.nonce ?? randomSecret(16),
      content_sha256: contentSha256(Buffer.from(signed.body ?? "")),
    };
    return {
      [GATEWAY_HEADERS.timestamp]: String(call.timestamp_ms),
      [GATEWAY_HEADERS.nonce]: call.nonce,
      [GATEWAY_HEADERS.signature]: signGatewayCall(signed.ring ?? f.gateway_ring, call),
    };
  };
  const formOf = (some: Readonly<Record<string, string>> = {}): string =>
    new URLSearchParams({
      grant_type: GRANT_TOKEN_EXCHANGE,
      zone_id: zone,
      subject_token: ambient,
      subject_token_type: TOKEN_TYPE_ACCESS_TOKEN,
      resource: target.identifier,
      [CALL_FIELDS.method]: "POST",
      [CALL_FIELDS.path]: "/orders/%37",
      ...some,
    }).toString();
  const send = async (body: string, headers: Readonly<Record<string, string>>) => {
    const response = await fetch(`${f.url}${TOKEN_PATH}`, {
      method: "POST",
      body,
      headers: { "content-type": "application/x-www-form-urlencoded", ...headers },
    });
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  };
  const call = (some: Readonly<Record<string, string>> = {}) => {
    const body = formOf(some);
    return send(body, headersFor({ body }));
  };
  const get = (path: string, headers: Readonly<Record<string, string>> = headersFor({ method: "GET", path })) =>
    fetch(`${f.url}${path}`, { headers });

  it("exchange a token for the application that it was issued to, and learn where the upstream is", async () => {
    const { status, body } = await call();
    assert.equal(status, 200, JSON.stringify(body));
    assert.deepEqual(body["upstreams"], {
      [target.identifier]: { url: "http://upstream.test/base?x=1", auth_mode: "caracal_jwt" },
    });
    assert.equal(body["session_id"], session_id);
    const claims = JSON.parse(
      Buffer.from(String(body["access_token"]).split(".")[1] ?? "", "base64url").toString(),
    ) as Record<string, unknown>;
    assert.deepEqual(
      [claims["via"], claims["client_id"], claims["use"], claims["sid"]],
      ["gateway", app.id, "per_call", session_id],
    );
    assert.equal(body["auth_exp"], claims["auth_exp"]);
    assert.equal(body["expires_in"], 60);
    const events = await f.events();
    const event = events.find((one) => one.id === body["decision_id"]);
    assert.ok(event !== undefined);
    assert.deepEqual([event.decision, event.id], ["allow", claims["jti"]]);
    const [input] = rebuiltInputs(event, documentsAmong(events));
    assert.deepEqual(input?.action, {
      id: "TokenExchange",
      use: "per_call",
      method: "POST",
      path: "/orders/7",
    });
    assert.equal(input?.principal.credential_type, "ambient_token");
  });

  it("are refused where anything of them was changed, or another key signed", async () => {
    const body = formOf();
    const other_ring = keyring(Buffer.alloc(32, 9));
    const good = headersFor({ body });
    const cases: readonly (readonly [string, string, Record<string, string>])[] = [
      ["another body", `${body}&scope=read`, good],
      ["another key", body, headersFor({ body, ring: other_ring })],
      ["another path", body, headersFor({ body, path: "/oauth/2/introspect" })],
      ["another method", body, headersFor({ body, method: "PUT" })],
      ["another time", body, { ...good, [GATEWAY_HEADERS.timestamp]: String(f.clock.now_ms() + 5) }],
      ["another nonce", body, { ...good, [GATEWAY_HEADERS.nonce]: randomSecret(16) }],
      [
        "no signature",
        body,
        {
          [GATEWAY_HEADERS.timestamp]: good[GATEWAY_HEADERS.timestamp] ?? "",
          [GATEWAY_HEADERS.nonce]: good[GATEWAY_HEADERS.nonce] ?? "",
        },
      ],
      ["an empty signature", body, { ...good, [GATEWAY_HEADERS.signature]: "" }],
      ["a nonce of one letter", body, headersFor({ body, nonce: "x" })],
      ["an absurd time", body, { ...good, [GATEWAY_HEADERS.timestamp]: "1e309" }],
    ];
    for (const [what, text, headers] of cases) {
      const answer = await send(text, headers);
      assert.deepEqual(
        [answer.status, answer.body["error"], answer.body["reason"]],
        [401, "invalid_client", "gateway_signature"],
        what,
      );
    }
  });

  it("are refused a minute away from our clock, either way", async () => {
    const body = formOf();
    for (const away_ms of [-61_000, 61_000]) {
      const answer = await send(body, headersFor({ body, timestamp_ms: f.clock.now_ms() + away_ms }));
      assert.deepEqual([answer.status, answer.body["reason"]], [401, "gateway_clock"]);
    }
    assert.equal((await send(body, headersFor({ body, timestamp_ms: f.clock.now_ms() + 50_000 }))).status, 200);
  });

  it("are good once, of many at the same instant too", async () => {
    const body = formOf();
    const headers = headersFor({ body });
    const answers = await Promise.all(Array.from({ length: 8 }, () => send(body, headers)));
    const statuses = answers.map((one) => one.status).sort();
    assert.deepEqual(statuses, [200, 401, 401, 401, 401, 401, 401, 401]);
    assert.equal((await send(body, headers)).body["reason"], "gateway_call_replayed");
  });

  it("tell the request's id and trace to the ledger", async () => {
    const body = formOf();
    const trace = "0af7651916cd43dd8448eb211c80319c";
    const answer = await send(body, {
      ...headersFor({ body }),
      "x-request-id": "req:1",
      traceparent: `00-${trace}-b7ad6b7169203331-01`,
    });
    assert.equal(answer.status, 200);
    const [event] = await f.eventsOf("req:1");
    const { evaluations } = JSON.parse(event?.metadata_json ?? "{}") as {
      evaluations: { input: { trace_id: string } }[];
    };
    assert.equal(evaluations[0]?.input.trace_id, trace);
    const refused = formOf({ resource: "resource://nothing" });
    await send(refused, {
      ...headersFor({ body: refused }),
      "x-request-id": "req:2",
      traceparent: `00-${trace}-b7ad6b7169203331-01`,
    });
    const [unasked] = await f.eventsOf("req:2"); // no input of a policy has it then
    assert.equal((JSON.parse(unasked?.metadata_json ?? "{}") as { trace_id: string }).trace_id, trace);
  });

  it("need the agent's token, and the Gateway's signature alone", async () => {
    assert.equal((await call({ subject_token: "" })).body["reason"], "subject_token_missing");
    assert.equal((await call({ subject_token: "x.y.z" })).body["reason"], "subject_token_malformed");
    assert.equal((await call({ zone_id: uuidv7() })).body["reason"], "subject_token_zone");
    assert.equal(
      (await call({ client_id: app.id, client_secret: app.secret })).body["reason"],
      "client_authenticates_twice",
    );
    assert.equal((await call({ grant_type: "client_credentials" })).body["reason"], "field_not_allowed");
    assert.equal((await call({ scope: "admin" })).body["error"], "invalid_scope");
  });

  it("are limited with the calls of the application that they are made for", async () => {
    const slow = await f.newApplication(zone, { rate_limit_per_minute: 20 });
    const own = await eventually(async () => {
      const answer = await f.ambient(zone, slow);
      return answer.status === 200 ? String(answer.body["access_token"]) : null;
    });
    const answers = [];
    for (let i = 0; i < 4; i += 1) answers.push(await call({ subject_token: own }));
    const limited = answers.filter((one) => one.status === 429);
    assert.ok(limited.length >= 1, "two at once are a tenth of twenty");
    assert.deepEqual(
      [limited[0]?.body["error"], limited[0]?.body["reason"]],
      ["temporarily_unavailable", "rate_limited"],
    );
    assert.equal((await call()).status, 200, "another application is not concerned");
  });

  describe("of one process", () => {
    const exchange = (some: Partial<GatewayExchange> = {}, signal = AbortSignal.timeout(5_000)) =>
      f.role.direct.exchange(
        {
          zone_id: zone,
          subject_token: ambient,
          resource: target.identifier,
          method: "GET",
          path: "/",
          request_id: uuidv7(),
          traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          ...some,
        },
        signal,
      );

    it("get the same answers without a signature", async () => {
      const answer = await exchange();
      assert.ok(answer.ok);
      assert.deepEqual(Object.keys(answer.body.upstreams ?? {}), [target.identifier]);
      const denied = await exchange({ resource: "resource://nowhere" });
      assert.deepEqual([denied.ok, denied.ok ? 0 : denied.status], [false, 400]);
    });

    it("get no answer once they gave up", async () => {
      await assert.rejects(exchange({}, AbortSignal.abort()), Unavailable);
      await assert.rejects(exchange({}, AbortSignal.abort(new DOMException("late", "TimeoutError"))), StsTimeout);
      const abort = new AbortController();
      const waiting = exchange({}, abort.signal);
      abort.abort(new DOMException("late", "TimeoutError"));
      await assert.rejects(waiting, StsTimeout);
    });

    it("cost no SQL, one signature, one evaluation and two round trips on a steady load, those of one tick together", async () => {
      await exchange();
      const signatures = await f.metric("sts_signatures_total");
      const evaluations = await f.metric("sts_policy_units_count");
      const [statements, round_trips] = [f.statements(), f.roundTrips()];
      for (let i = 0; i < 100; i += 1) assert.ok((await exchange()).ok);
      assert.equal(f.statements() - statements, 0);
      assert.ok(f.roundTrips() - round_trips <= 205, `${f.roundTrips() - round_trips} round trips for 100 calls`);
      assert.equal((await f.metric("sts_signatures_total")) - signatures, 100);
      assert.equal((await f.metric("sts_policy_units_count")) - evaluations, 100);
      const before_batch = f.roundTrips();
      const answers = await Promise.all(Array.from({ length: 100 }, () => exchange()));
      assert.ok(answers.every((one) => one.ok));
      assert.ok(
        f.roundTrips() - before_batch <= 20,
        `${f.roundTrips() - before_batch} round trips for 100 calls at once`,
      );
      assert.equal(f.statements() - statements, 0);
    });
  });

  describe("for bindings", () => {
    const read = async (since?: string) => {
      const path = `${BINDINGS_PATH}${since === undefined ? "" : `?since=${since}`}`;
      return get(path);
    };

    it("bring every living resource of every living zone, and nothing where nothing changed", async () => {
      const first = (await (await read()).json()) as BindingsPage;
      const mine = first.zones.find((one) => one.zone_id === zone);
      assert.deepEqual(mine?.resources, [
        { id: target.id, identifier: target.identifier, upstream_url: "http://upstream.test/base?x=1" },
      ]);
      assert.equal((await read(first.version)).status, 304);
      assert.equal(await f.role.direct.bindings({ since: first.version }), undefined);
      const added = await f.newResource(zone);
      const second = (await (await read(first.version)).json()) as BindingsPage;
      assert.notEqual(second.version, first.version);
      await f.change(
        zone,
        "resource",
        (tx) => tx`update resources set archived_at = now() where zone_id = ${zone} and id = ${added.id}`,
      );
      assert.equal(((await (await read(second.version)).json()) as BindingsPage).version, first.version);
    });

    /** `many` resources of some 2.5 KB each in a zone of its own. */
    const newFullZone = async (many: number): Promise<string> => {
      const id = await f.newZone();
      await f.change(
        id,
        "resource",
        (tx) => tx`insert into resources (zone_id, id, identifier, name, upstream_url)
          select ${id}, n::text, 'resource://' || repeat('i', 480) || n, 'one', 'http://upstream.test/' || repeat('u', 2000)
          from generate_series(1, ${many}::int) n`,
      );
      return id;
    };
    const archive = (ids: readonly string[]): Promise<unknown> =>
      Promise.all(
        ids.map((id) => f.change(id, "zone", (tx) => tx`update zones set archived_at = now() where id = ${id}`)),
      );

    it("come page by page, each zone whole, and a zone that is too large is refused by itself", async () => {
      const before = (await f.role.direct.bindings({ since: undefined })) as BindingsPage;
      const sizes = [1_000, 1_000, 6_500, 0, 300, 200, 1_000];
      const ids: string[] = [];
      for (const size of sizes) ids.push(await newFullZone(size));
      const pages: BindingsPage[] = [];
      for (let path: string | undefined = BINDINGS_PATH; path !== undefined;) {
        const response = await get(path);
        assert.equal(response.status, 200);
        const text = await response.text();
        assert.ok(text.length < 6 * 1024 * 1024, `a page of ${text.length} characters`);
        const page = JSON.parse(text) as BindingsPage;
        pages.push(page);
        path = page.cursor === undefined ? undefined : `${BINDINGS_PATH}?cursor=${page.cursor}`;
      }
      assert.ok(pages.length >= 4, `${pages.length} pages`);
      assert.deepEqual(new Set(pages.map(({ version }) => version)).size, 1);
      const zones = pages.flatMap((page) => page.zones);
      assert.equal(new Set(zones.map(({ zone_id }) => zone_id)).size, zones.length, "each zone once");
      assert.equal(zones.length, before.zones.length + ids.length);
      const found = ids.map((id) => zones.find(({ zone_id }) => zone_id === id));
      assert.deepEqual(
        found.map((one) => [one?.resources.length, one?.too_large]),
        sizes.map((size) => (size > 1_000 ? [0, true] : [size, undefined])),
      );
      const alone = await get(`${BINDINGS_PATH}?zone_id=${ids[4]}`);
      assert.deepEqual(await alone.json(), { zones: [found[4]] });
      await archive(ids);
      assert.equal((await f.role.direct.bindings({ since: undefined }))?.version, before.version);
      assert.deepEqual(await f.role.direct.bindings({ zone_id: String(ids[4]) }), { zones: [] });
    });

    it("of many zones come page by page, too", async () => {
      const many = 1_203;
      await f.change(
        zone,
        "zone",
        (tx) => tx`insert into zones (id, slug, name)
        select 'many-' || n, 'many-' || n, 'one of many' from generate_series(1, ${many}::int) n`,
      );
      const names: string[] = [];
      let page = await f.role.direct.bindings({ since: undefined });
      for (
        ;
        page !== undefined;
        page = page.cursor === undefined ? undefined : await f.role.direct.bindings({ cursor: page.cursor })
      ) {
        assert.ok(page.zones.length <= 500);
        names.push(...page.zones.map(({ zone_id }) => zone_id));
      }
      assert.equal(names.filter((name) => name.startsWith("many-")).length, many);
      assert.equal(new Set(names).size, names.length);
      await f.change(zone, "zone", (tx) => tx`delete from zones where id like 'many-%'`);
    });

    it("are asked for in one way at a time, and with a cursor of ours alone", async () => {
      for (const query of ["?since=a&zone_id=b", "?cursor=a&since=b", "?cursor=nonsense", "?since=a&since=b"])
        assert.equal((await get(`${BINDINGS_PATH}${query}`)).status, 400, query);
    });

    it("are nobody else's, and good once", async () => {
      const path = BINDINGS_PATH;
      assert.equal((await get(path, {})).status, 401);
      assert.equal((await get(path, headersFor({ method: "GET", path: `${path}?since=x` }))).status, 401);
      const headers = headersFor({ method: "GET", path });
      assert.equal((await get(path, headers)).status, 200);
      const again = await get(path, headers);
      assert.equal(again.status, 401);
      assert.equal(((await again.json()) as { reason: string }).reason, "gateway_call_replayed");
    });
  });

  describe("for revocations", () => {
    const pages = async (): Promise<readonly RevocationPage[]> => {
      const found: RevocationPage[] = [];
      let cursor: string | undefined;
      do {
        const response = await get(`${REVOCATIONS_PATH}${cursor === undefined ? "" : `?cursor=${cursor}`}`);
        assert.equal(response.status, 200);
        const page = (await response.json()) as RevocationPage;
        found.push(page);
        cursor = page.cursor;
      } while (cursor !== undefined);
      return found;
    };

    it("bring the place in the stream and each zone's marks with the number that they are as of", async () => {
      const answer = await f.ambient(zone, app);
      const sid = String(answer.body["session_id"]);
      const before_it = (await pages())[0];
      await f.revokeSession(zone, sid);
      const page = (await pages())[0];
      const [old_zone, new_zone] = [before_it, page].map((one) => one?.zones.find((found) => found.zone_id === zone));
      assert.equal(new_zone?.seq, (old_zone?.seq ?? 0) + 1);
      const mark = new_zone?.marks.find((one) => one.id === sid);
      assert.equal(mark?.kind, "session");
      assert.ok(
        (mark?.expires_at ?? 0) >= f.clock.now_ms() / 1_000 + 3_600,
        "past every leeway of the session's last token",
      );
      await eventually(async () => (await pages())[0]?.position !== before_it?.position);
    });

    it("bring the grants that were revoked, for as long as a token of theirs may live", async () => {
      const own = await f.newZone();
      const owner = await f.newApplication(own);
      const resource = await f.newResource(own);
      await f.control.sql`insert into stream_seqs (stream, zone_id, seq) values ('caracal.sessions.revoke', ${own}, 2)
        on conflict (stream, zone_id) do nothing`;
      const archived = ["live", "now", "long ago"];
      await f.control.sql`
        insert into grants (zone_id, id, application_id, subject, resource_id, scopes, archived_at)
        select ${own}, id, ${owner.id}, id, ${resource.id}, '{}',
          case id when 'now' then now() when 'long ago' then now() - interval '2 hours' end
        from json_array_elements_text(${JSON.stringify(archived)}::text::json) id`;
      const marks = (await pages())
        .flatMap((page) => page.zones.filter((one) => one.zone_id === own))
        .flatMap((one) => one.marks);
      assert.deepEqual(
        marks.map(({ kind, id }) => [kind, id]),
        [["grant", "now"]],
      );
      const lives_s = (marks[0]?.expires_at ?? 0) - f.clock.now_ms() / 1_000;
      assert.ok(lives_s > 3_600 && lives_s < 3_700, `${lives_s} s`);
    });

    it("bring the agent sessions that do not run and the edges that were revoked, until nothing of them can live", async () => {
      const own = await f.newZone();
      const graph = createGraph(f, own);
      const owner = await f.newApplication(own);
      const agents = await Promise.all([1, 2, 3].map(() => graph.agent(owner)));
      const [giver, ended, over] = agents as [TestAgent, TestAgent, TestAgent];
      const [held, revoked, gone] = [
        await graph.edge(giver, ended),
        await graph.edge(giver, ended),
        await graph.edge(giver, ended, { expires_in_s: -61 }),
      ];
      await graph.suspend(ended);
      await f.control.sql`update agent_sessions set status = 'terminated', expires_at = now() - interval '61 seconds'
        where zone_id = ${own} and id = ${over.id}`;
      for (const id of [revoked, gone]) await graph.revoke(id);
      const marks = (await pages())
        .flatMap((page) => page.zones.filter((one) => one.zone_id === own))
        .flatMap((one) => one.marks);
      assert.deepEqual(
        marks.map(({ kind, id }) => [kind, id]),
        [
          ["agent_session", ended.id],
          ["delegation_edge", revoked],
        ],
      );
      assert.notEqual(held, revoked);
      const lives_s = marks.map(({ expires_at }) => expires_at - f.clock.now_ms() / 1_000);
      assert.ok((lives_s[0] ?? 0) > 3_600 && (lives_s[0] ?? 0) < 3_700, `${lives_s[0]} s`);
      assert.ok((lives_s[1] ?? 0) > 1_800 && (lives_s[1] ?? 0) < 1_900, `${lives_s[1]} s`);
    });

    it("come in pages that together hold every zone and mark once, as of no later number than their first part", async () => {
      const big = await f.newZone();
      const owner = await f.newApplication(big);
      await f.db.sql`
        insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at, revoked_at)
        select ${big}, 's' || to_char(n, 'FM00000'), ${owner.id}, ${owner.id}, 'application', now() + interval '1 hour', now()
        from generate_series(1, 4500) n`;
      const target_of_big = await f.newResource(big);
      await f.control.sql`
        insert into grants (zone_id, id, application_id, subject, resource_id, scopes, archived_at)
        select ${big}, 's' || to_char(n, 'FM00000'), ${owner.id}, n::text, ${target_of_big.id}, '{}', now()
        from generate_series(1, 2500) n`;
      await f.db.sql`insert into stream_seqs (stream, zone_id, seq) values ('caracal.sessions.revoke', ${big}, 4500)`;
      await f.db
        .sql`insert into stream_seqs (stream, zone_id, seq) select 'caracal.sessions.revoke', 'zone-' || to_char(n, 'FM0000'), n from generate_series(1, 450) n`;
      const all = await pages();
      assert.ok(all.length >= 5, `${all.length} pages`);
      const zones = all.flatMap((page) => page.zones);
      assert.equal(
        new Set(zones.map((one) => one.zone_id)).size,
        new Set(zones.filter((one) => one.zone_id !== big).map((one) => one.zone_id)).size + 1,
      );
      const parts = zones.filter((one) => one.zone_id === big);
      const ids = parts.flatMap((part) => part.marks.map((mark) => `${mark.kind} ${mark.id}`));
      assert.equal(ids.length, 7_000);
      assert.equal(new Set(ids).size, 7_000);
      assert.deepEqual([...new Set(parts.map((part) => part.seq))], [4_500]);
      assert.equal(zones.filter((one) => one.zone_id.startsWith("zone-")).length, 450);
      assert.equal(new Set(all.map((page) => page.position)).size, 1);
    });

    it("refuse a cursor that is not ours", async () => {
      for (const cursor of [
        "x",
        "e30",
        Buffer.from('{"position":1,"zone_id":"z"}').toString("base64url"),
        "a".repeat(2_000),
      ]) {
        const response = await get(`${REVOCATIONS_PATH}?cursor=${cursor}`);
        assert.equal(response.status, 400, cursor.slice(0, 40));
      }
    });
  });
});
