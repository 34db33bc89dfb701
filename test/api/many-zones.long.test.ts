import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { apiEndpoints, type ApiOperation } from "../../src/contracts/api.ts";
import { bodyOf, furnish, pathOf, type World } from "./furnish.ts";
import { ask, idsAmong, type Route, routesOf } from "./routes.ts";
import { send, serveApiOnOneConnection, type ServedApi } from "./serve.ts";

const ZONES = 10_000;
/** Zones that one statement makes: each has its deadline. */
const STEP = 500;
/** More than any page and what belongs to it, and less than any table of so many zones has. */
const ROWS_AT_MOST = 400;
/** What is looked for where the query has no id. */
const SOUGHT: Readonly<Record<string, string>> = {
  name: "nobody",
  slug: "copy-7",
  identifier: "resource://r",
  subject: "ann",
  status: "expired",
};
/** From the sixth on a prepared statement may have another plan, which fits all parameters. */
const PLANNED_ANEW = 7;

/** What is copied for each zone, in the order of dependence; `with`: what must be another one in each row. */
const COPIED: readonly { readonly table: string; readonly with?: Readonly<Record<string, string>> }[] = [
  { table: "zone_keys" },
  { table: "issuers" },
  { table: "registration_tokens", with: { token_sha256: "encode(sha256((z.id || t.id)::bytea), 'hex')" } },
  { table: "applications" },
  { table: "providers" },
  { table: "resources" },
  { table: "grants" },
  { table: "policies" },
  { table: "policy_versions", with: { wasm: "'x'::bytea", source: "''" } },
  { table: "policy_sets" },
  { table: "policy_set_versions" },
  { table: "policy_set_entries" },
  { table: "sessions" },
  { table: "step_up_challenges" },
  { table: "admin_tokens", with: { id: "z.id || t.id", token_sha256: "encode(sha256((z.id || t.id)::bytea), 'hex')" } },
  { table: "admin_audit", with: { id: "z.id || t.id" } },
  { table: "quotas" },
  { table: "stream_seqs" },
];

describe(`ten thousand zones`, () => {
  let api: ServedApi;
  let routes: readonly Route[];
  let world: World;

  /** The furnished zone again, so many times: ids are a zone's own, so that they can stay. */
  const copyZone = async (): Promise<void> => {
    const { sql } = api.owner;
    await sql`
      insert into zones (id, slug, name)
      select '00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'), 'copy-' || n, 'Copy'
      from generate_series(1, ${ZONES}::int) as n`;
    for (const { table, with: other = {} } of COPIED) {
      const columns = await sql<{ name: string }[]>`
        select column_name as name from information_schema.columns
        where table_schema = current_schema() and table_name = ${table} and is_generated = 'NEVER'
        order by ordinal_position`;
      const names = columns.map(({ name }) => `"${name}"`).join(", ");
      const values = columns.map(({ name }) => other[name] ?? (name === "zone_id" ? "z.id" : `t."${name}"`)).join(", ");
      for (let from = 1; from <= ZONES; from += STEP) {
        await sql.unsafe(`
          insert into ${table} (${names}) select ${values}
          from (select * from ${table} where zone_id = '${world.zone_id}' order by 1, 2 limit 3) t,
            generate_series(${from}, ${from + STEP - 1}) as n
            join zones z on z.id = '00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0')`);
      }
      await sql.unsafe(`analyze ${table}`);
    }
    await sql.unsafe("analyze zones");
  };

  before(async () => {
    api = await serveApiOnOneConnection();
    routes = routesOf((await send(api.url, { path: "/openapi.json" })).text).filter(
      ({ scheme }) => scheme === "adminToken",
    );
    world = await furnish(api);
    await api.owner.sql`insert into quotas (zone_id, name, max) values (${world.zone_id}, 'grants', 5)`;
    await copyZone();
  });
  after(() => api.close());

  /** Rows that statements have looked at so far, by tables. */
  const looked = async (): Promise<ReadonlyMap<string, number>> => {
    await api.owner.sql`select pg_stat_force_next_flush()`;
    const rows = await api.owner.sql<{ name: string; n: number }[]>`
      select relname as name, (seq_tup_read + coalesce(idx_tup_fetch, 0))::float8 as n from pg_stat_user_tables`;
    return new Map(rows.map(({ name, n }) => [name, n]));
  };

  const tryIt = async (route: Route, query = ""): Promise<number> => {
    const before_ = await looked();
    const body = bodyOf(route.name, world);
    const answer = await ask(api, route, pathOf(route, world) + query, api.global_token, { body });
    const { status } = apiEndpoints[route.name as ApiOperation];
    assert.equal(answer.status, status, `${route.method} ${route.path}${query}: ${answer.text}`);
    const after_ = await looked();
    return Math.max(...[...after_].map(([name, n]) => n - (before_.get(name) ?? 0)));
  };

  it("make no list, no look-up and no change read more rows of any table than one zone's page", async (test) => {
    const [sample] = await api.owner.sql<[{ n: number }]>`select count(*)::int as n from zones`;
    assert.ok(sample.n > ZONES);
    const most: { rows: number; of: string } = { rows: 0, of: "" };
    const note = (rows: number, of: string): void => {
      assert.ok(rows < ROWS_AT_MOST, `${of} reads ${rows} rows of a table`);
      if (rows > most.rows) Object.assign(most, { rows, of });
    };
    for (const route of routes.filter(({ method }) => method === "GET")) {
      const filters = [
        ...idsAmong(route, "query").map(
          (name) => `?${name}=${name === "zone_id" ? world.zone_id : world.ids["applications"]}`,
        ),
        ...route.parameters.flatMap(({ in: place, name = "" }) =>
          place === "query" && name in SOUGHT ? [`?${name}=${encodeURIComponent(SOUGHT[name] ?? "")}`] : [],
        ),
      ];
      for (const query of ["", "?limit=1", ...filters]) {
        if (query === "?limit=1" && !route.parameters.some(({ name }) => name === "limit")) continue;
        for (let n = 0; n < PLANNED_ANEW; n += 1) note(await tryIt(route, query), `${route.name}${query}`);
      }
    }
    const rank = ({ method, name }: Route): number => (name === "archiveZone" ? 2 : method === "DELETE" ? 1 : 0);
    const writes = routes.filter(({ method }) => method !== "GET").toSorted((a, b) => rank(a) - rank(b));
    for (const route of writes) note(await tryIt(route), route.name);
    test.diagnostic(`${ZONES} zones: ${most.of} reads the most rows of one table, ${most.rows}`);
  });

  it("are walked through page by page, each once", async () => {
    const seen = new Set<string>();
    for (let cursor: string | undefined; ;) {
      const query = cursor === undefined ? "" : `&cursor=${cursor}`;
      const { text } = await send(api.url, { path: `/v1/zones?limit=200${query}`, token: api.global_token });
      const page = JSON.parse(text) as { items: { id: string }[]; next_cursor?: string };
      for (const { id } of page.items) {
        assert.ok(!seen.has(id));
        seen.add(id);
      }
      cursor = page.next_cursor;
      if (cursor === undefined) break;
    }
    const [live] = await api.owner.sql<[{ n: number }]>`select count(*)::int as n from zones where archived_at is null`;
    assert.equal(seen.size, live.n);
  });
});
