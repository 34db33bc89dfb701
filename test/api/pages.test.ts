import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import * as fc from "fast-check";
import type { ApiOperation } from "../../src/contracts/api.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { call, expectOk, makeZone, serveApi, type ServedApi } from "./serve.ts";

/** A list of a fresh zone: how its entries come and go. `word` is what they may be filtered by. */
type List = {
  make(word: string): Promise<string>;
  /** Takes one out of the list. */
  remove(id: string): Promise<unknown>;
  page(query: Record<string, string>): Promise<{ readonly ids: readonly string[]; readonly next: string | undefined }>;
};

const WORDS = ["x", "y"] as const;

describe("the pages of a list", () => {
  let api: ServedApi;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  type InZone = { readonly zone_id: string; readonly token: string };

  const pageOf = async ({ zone_id, token }: InZone, name: ApiOperation, query: Record<string, string>) => {
    const answer = await call(api.url, token, name, { params: { zone_id }, query });
    assert.equal(answer.status, 200, answer.text);
    const { items, next_cursor } = JSON.parse(answer.text) as { items: { id: string }[]; next_cursor?: string };
    return { ids: items.map(({ id }) => id), next: next_cursor };
  };

  const LISTS: Readonly<Record<string, { readonly filter: string; open(zone: InZone): Promise<List> }>> = {
    applications: {
      filter: "name",
      open: async (zone) => ({
        make: async (name) => {
          const body = { name, kind: "public" };
          return (await expectOk(api.url, zone.token, "createApplication", { params: zone, body })).id;
        },
        remove: (id) => expectOk(api.url, zone.token, "archiveApplication", { params: { ...zone, id } }),
        page: (query) => pageOf(zone, "listApplications", { ...query, kind: "public" }),
      }),
    },
    grants: {
      filter: "resource_id",
      open: async (zone) => {
        const { zone_id, token } = zone;
        const body = { name: "a", kind: "public" };
        const app = await expectOk(api.url, token, "createApplication", { params: zone, body });
        const made = new Map<string, string>();
        for (const word of WORDS) {
          const resource = { identifier: `resource://${word}`, name: word, upstream_url: "https://r.example.com" };
          made.set(word, (await expectOk(api.url, token, "createResource", { params: zone, body: resource })).id);
        }
        const resourceOf = (word: string): string => made.get(word) ?? "";
        return {
          make: async (word) => {
            const grant = { application_id: app.id, resource_id: resourceOf(word), subject: uuidv7(), scopes: [] };
            return (await expectOk(api.url, token, "createGrant", { params: zone, body: grant })).id;
          },
          remove: (id) => expectOk(api.url, token, "archiveGrant", { params: { zone_id, id } }),
          page: ({ resource_id, ...query }) =>
            pageOf(zone, "listGrants", {
              ...query,
              ...(resource_id === undefined ? {} : { resource_id: resourceOf(resource_id) }),
            }),
        };
      },
    },
    "sessions, which come newest first": {
      filter: "subject",
      open: async (zone) => {
        const { zone_id, token } = zone;
        const body = { name: "a", kind: "public" };
        const app = await expectOk(api.url, token, "createApplication", { params: zone, body });
        return {
          make: async (subject) => {
            const id = uuidv7();
            await api.db.sql`
              insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at)
              values (${zone_id}, ${id}, ${app.id}, ${subject}, 'user', now() + interval '1 hour')`;
            return id;
          },
          remove: (id) => expectOk(api.url, token, "revokeSession", { params: { zone_id, id } }),
          page: (query) => pageOf(zone, "listSessions", { ...query, status: "active" }),
        };
      },
    },
  };

  /** What happens beside the reading of one page. */
  const meanwhile = fc.record({
    makes: fc.array(fc.constantFrom(...WORDS), { maxLength: 3 }),
    removes: fc.array(fc.nat(), { maxLength: 2 }),
  });
  const walk = fc.record({
    first: fc.array(fc.constantFrom(...WORDS), { maxLength: 9 }),
    limit: fc.integer({ min: 1, max: 4 }),
    word: fc.option(fc.constantFrom(...WORDS), { nil: undefined }),
    steps: fc.array(meanwhile, { maxLength: 6 }),
  });

  for (const [what, { filter, open }] of Object.entries(LISTS)) {
    it(`have each entry that was there all the time once, and only what fits, whatever comes and goes: ${what}`, async () => {
      await fc.assert(
        fc.asyncProperty(walk, async ({ first, limit, word, steps }) => {
          const list = await open(await makeZone(api));
          const words = new Map<string, string>();
          const make = async (one: string): Promise<unknown> => words.set(await list.make(one), one);
          for (const one of first) await make(one);
          const fits = (id: string): boolean => word === undefined || words.get(id) === word;
          const staying = new Set([...words.keys()].filter(fits));
          const removed = new Set<string>();
          const seen: string[] = [];
          let cursor: string | undefined;
          for (let n = 0; ; n += 1) {
            const gone = new Set(removed);
            const { makes, removes } = steps[n] ?? { makes: [], removes: [] };
            const live = [...words.keys()].filter((id) => !removed.has(id));
            const leaving = new Set(live.length === 0 ? [] : removes.map((at) => live[at % live.length] ?? ""));
            for (const id of leaving) {
              removed.add(id);
              if (!seen.includes(id)) staying.delete(id);
            }
            const query = {
              limit: String(limit),
              ...(word === undefined ? {} : { [filter]: word }),
              ...(cursor === undefined ? {} : { cursor }),
            };
            const [page] = await Promise.all([list.page(query), ...makes.map(make), ...[...leaving].map(list.remove)]);
            assert.ok(page.ids.length <= limit);
            for (const id of page.ids) {
              assert.ok(!gone.has(id), "what was archived before is in no page");
              assert.ok(!seen.includes(id), "nothing comes twice");
              seen.push(id);
            }
            cursor = page.next;
            if (cursor === undefined) break;
          }
          assert.ok(seen.every(fits));
          assert.deepEqual(
            [...staying].filter((id) => !seen.includes(id)),
            [],
          );
        }),
        { numRuns: 15 },
      );
    });
  }

  it("of the admin audit are filtered, and a long walk to what fits is cut in pieces", async () => {
    const zone = await makeZone(api);
    const body = { name: "first" };
    const { id } = await expectOk(api.url, zone.token, "createPolicy", { params: zone, body });
    await expectOk(api.url, zone.token, "updatePolicy", { params: { ...zone, id }, body: { name: "other" } });
    const { items } = await expectOk(api.url, zone.token, "listZoneAdminAudit", { params: zone });
    const made = items.find(({ action }) => action === "policy.create");
    assert.ok(made !== undefined);
    const find = async (query: Record<string, string>): Promise<readonly string[]> => {
      const page = await expectOk(api.url, zone.token, "listZoneAdminAudit", { params: zone, query });
      return page.items.map(({ action }) => action);
    };
    assert.deepEqual(await find({ action: "policy.create" }), ["policy.create"]);
    assert.deepEqual(await find({ object_id: id }), ["policy.update", "policy.create"]);
    assert.deepEqual(await find({ request_id: made.request_id }), ["policy.create"]);
    assert.deepEqual(await find({ actor: made.actor, action: "policy.update" }), ["policy.update"]);
    assert.deepEqual(await find({ actor: "cli" }), []);

    await api.owner.sql`
      insert into admin_audit (id, zone_id, actor, action, object_kind, object_id, request_id)
      select 'f' || lpad(n::text, 7, '0') || '-0000-7000-8000-000000000000', ${zone.zone_id}, 'cli', 'x.y', 'x', 'o', 'r'
      from generate_series(1, 10000) as n`;
    const query = { action: "policy.create" };
    const first = await expectOk(api.url, zone.token, "listZoneAdminAudit", { params: zone, query });
    assert.deepEqual(first.items, []);
    assert.ok(first.next_cursor !== undefined, "what was not looked at follows");
    const rest = await expectOk(api.url, zone.token, "listZoneAdminAudit", {
      params: zone,
      query: { ...query, cursor: first.next_cursor },
    });
    assert.deepEqual([rest.items.map(({ action }) => action), rest.next_cursor], [["policy.create"], undefined]);
  });
});
