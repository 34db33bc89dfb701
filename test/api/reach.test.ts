import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { apiEndpoints, type ApiOperation } from "../../src/contracts/api.ts";
import type { ApiEndpoint } from "../../src/contracts/api-access.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { bodyOf, furnish, idOf, pathOf, type World } from "./furnish.ts";
import { ask, idsAmong, idsIn, type Route, routesOf, takes, withId } from "./routes.ts";
import { type Answer, expectOk, makeZone, send, serveApi, type ServedApi } from "./serve.ts";

/** Each test walks through all operations of the OpenAPI document, so that a new one is tried without a line here. */
describe("every operation of the OpenAPI document", () => {
  let api: ServedApi;
  let routes: readonly Route[];
  let guarded: readonly Route[];
  before(async () => {
    api = await serveApi();
    routes = routesOf((await send(api.url, { path: "/openapi.json" })).text);
    guarded = routes.filter(({ scheme }) => scheme === "adminToken");
  });
  after(() => api.close());

  const nameOf = ({ method, path }: Route): string => `${method} ${path}`;
  /** Asks as its world would have it, but for what is given. */
  const tryIt = (
    route: Route,
    world: World,
    token: string | undefined,
    other: { ids?: Record<string, string>; body?: unknown; headers?: Record<string, string> } = {},
  ): Promise<Answer> =>
    ask(api, route, pathOf(route, world, other.ids), token, { body: bodyOf(route.name, world), ...other });
  const changes = async (): Promise<number> =>
    (await api.owner.sql<[{ n: number }]>`select count(*)::int as n from admin_audit`)[0].n;

  /** Those that need no `write`, though they are not GET. */
  const ASKING = ["simulatePolicySet"];
  const writes = (): readonly Route[] =>
    guarded.filter(({ method, name }) => method !== "GET" && !ASKING.includes(name));

  it("does what it is for, for who may: the parts that the other tests spoil are good", async () => {
    const world = await furnish(api);
    // What is archived serves no other operation any more, and in an archived zone there is nothing.
    const rank = ({ method, name }: Route): number => (name === "archiveZone" ? 2 : method === "DELETE" ? 1 : 0);
    const order = guarded.toSorted((a, b) => rank(a) - rank(b));
    for (const route of order) {
      const answer = await tryIt(route, world, api.global_token);
      const { status } = apiEndpoints[route.name as ApiOperation];
      assert.equal(answer.status, status, `${nameOf(route)}: ${answer.text}`);
    }
  });

  it("answers nobody without a token, or with one that is expired, revoked or no token at all", async () => {
    const world = await furnish(api);
    const own = { label: "l", zone_id: world.zone_id };
    const expired = await expectOk(api.url, api.global_token, "createAdminToken", {
      body: { ...own, expires_in_s: 60 },
    });
    await api.db.sql`update admin_tokens set expires_at = now() where id = ${expired.id}`;
    const revoked = await expectOk(api.url, api.global_token, "createAdminToken", { body: own });
    await expectOk(api.url, api.global_token, "revokeAdminToken", { params: { id: revoked.id } });
    const made = await changes();
    for (const route of routes) {
      for (const token of [undefined, "x".repeat(43), expired.token, revoked.token]) {
        const { status, body } = await tryIt(route, world, token);
        assert.deepEqual([status, body.error], [401, "invalid_token"], nameOf(route));
      }
    }
    assert.equal(await changes(), made);
  });

  it("is read by a token that may read only, and written by none", async () => {
    const world = await furnish(api);
    const body = { label: "r", zone_id: null, access: "read" };
    const { token } = await expectOk(api.url, api.global_token, "createAdminToken", { body });
    const made = await changes();
    for (const route of guarded) {
      const answer = await tryIt(route, world, token);
      if (writes().includes(route)) {
        assert.deepEqual([answer.status, answer.body.error], [403, "admin_token_read_only"], nameOf(route));
      } else assert.equal(answer.status, 200, `${nameOf(route)}: ${answer.text}`);
    }
    assert.equal(await changes(), made);
  });

  it("of a zone answers no token of another zone", async () => {
    const world = await furnish(api);
    const other = await makeZone(api);
    const made = await changes();
    const of_zone = guarded.filter(({ path }) => path.includes("{zone_id}"));
    assert.ok(of_zone.length > 40);
    for (const route of of_zone) {
      const { status, body } = await tryIt(route, world, other.token);
      assert.deepEqual([status, body.error], [403, "admin_token_zone_mismatch"], nameOf(route));
    }
    assert.equal(await changes(), made);
  });

  it("has no use for another zone's id in its path, not even for a global token", async () => {
    const mine = await furnish(api);
    const theirs = await furnish(api);
    const made = await changes();
    let tried = 0;
    for (const route of guarded) {
      for (const parameter of idsAmong(route, "path")) {
        const ids = { [parameter]: idOf(route, parameter, theirs) };
        const tokens = route.path.includes("{zone_id}") ? [mine.token, api.global_token] : [mine.token];
        for (const token of tokens) {
          const { status, text } = await tryIt(route, mine, token, { ids });
          assert.equal(status, 404, `${nameOf(route)} ${parameter}: ${text}`);
          tried += 1;
        }
      }
    }
    assert.ok(tried > 50, `${tried}`);
    assert.equal(await changes(), made);
  });

  /** What a caller learns of it, but for the request's own id. */
  const said = ({ status, body: { error, message, issues, diagnostics } }: Answer) => ({
    status,
    error,
    message,
    issues,
    diagnostics,
  });

  it("has no use for another zone's id in its body, and tells it from none that ever was", async () => {
    const mine = await furnish(api);
    const theirs = await furnish(api);
    /** What is meant by a field, where its name is not that of the thing. */
    const MEANT: Readonly<Record<string, string>> = {
      workload_issuer_id: "issuers",
      policy_version_id: "policies/versions",
      version_id: "policy-sets/versions",
    };
    const made = await changes();
    let fields = 0;
    for (const route of guarded) {
      for (const at of idsIn(route.body)) {
        const field = at.at(-1) ?? "";
        const body = bodyOf(route.name, mine);
        const foreign =
          field === "zone_id" ? theirs.zone_id : theirs.ids[MEANT[field] ?? `${field.replace(/_id$/, "")}s`];
        assert.ok(body !== undefined && foreign !== undefined, `${route.name} takes an id in ${at.join(".")}`);
        const [refused, unknown] = [
          await tryIt(route, mine, mine.token, { body: withId(body, at, foreign) }),
          await tryIt(route, mine, mine.token, { body: withId(body, at, uuidv7()) }),
        ];
        assert.ok(refused.status >= 400 && refused.status < 500, `${route.name} ${at.join(".")}: ${refused.text}`);
        assert.deepEqual(said(refused), said(unknown), `${route.name} ${at.join(".")}`);
        fields += 1;
      }
    }
    assert.ok(fields >= 10, `${fields} fields take an id`);
    assert.equal(await changes(), made);
  });

  it("finds nothing by another zone's id in its query", async () => {
    const mine = await furnish(api);
    const theirs = await furnish(api);
    const MEANT: Readonly<Record<string, keyof World["ids"]>> = { client_id: "applications" };
    let tried = 0;
    for (const route of guarded) {
      for (const parameter of idsAmong(route, "query")) {
        const idIn = ({ zone_id, ids }: World): string =>
          parameter === "zone_id" ? zone_id : (ids[MEANT[parameter] ?? `${parameter.replace(/_id$/, "")}s`] ?? "");
        const found = async (world: World): Promise<number> => {
          const { status, text } = await send(api.url, {
            path: `${pathOf(route, mine)}?${parameter}=${idIn(world)}`,
            token: mine.token,
          });
          assert.equal(status, 200, `${nameOf(route)} ${parameter}: ${text}`);
          return (JSON.parse(text) as { items: unknown[] }).items.length;
        };
        assert.ok((await found(mine)) > 0, `${nameOf(route)} finds its own by ${parameter}`);
        assert.equal(await found(theirs), 0, `${nameOf(route)} ${parameter}`);
        tried += 1;
      }
    }
    assert.ok(tried >= 5, `${tried}`);
  });

  it("that changes something makes no change on a condition that can't be met, whether it has an ETag or not", async () => {
    const world = await furnish(api);
    const made = await changes();
    for (const route of writes()) {
      const answer = await tryIt(route, world, api.global_token, { headers: { "if-match": '"0"' } });
      assert.deepEqual(
        [answer.status, answer.body.error],
        [412, "precondition_failed"],
        `${nameOf(route)} ${answer.text}`,
      );
    }
    assert.equal(await changes(), made);
    const edited = writes().filter(({ method }) => method === "PATCH" || method === "DELETE");
    assert.deepEqual(
      edited.filter((route) => !takes(route, "IfMatch")).map(({ name }) => name),
      ["revokeAdminToken"],
      "what is edited has an ETag; a revoked token is only ever revoked",
    );
  });

  it("that makes something makes it once under a key, and shows its secret once", async () => {
    const world = await furnish(api);
    const making = guarded.filter((route) => takes(route, "IdempotencyKey"));
    assert.ok(making.length > 10, `${making.length}`);
    for (const route of making) {
      const { shown_once = [] }: ApiEndpoint = apiEndpoints[route.name as ApiOperation];
      const parts = { body: bodyOf(route.name, world), headers: { "idempotency-key": route.name } };
      const first = await tryIt(route, world, api.global_token, parts);
      assert.equal(first.status, 201, `${nameOf(route)} ${first.text}`);
      const made = await changes();
      const again = await tryIt(route, world, api.global_token, parts);
      assert.equal(again.status, 201, nameOf(route));
      const shown = Object.entries(JSON.parse(first.text) as object);
      assert.deepEqual(
        JSON.parse(again.text),
        Object.fromEntries(shown.filter(([field]) => !shown_once.includes(field))),
        nameOf(route),
      );
      assert.equal(await changes(), made, nameOf(route));
    }
  });
});
