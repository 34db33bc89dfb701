import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { replaceSealed, SEALED_COLUMNS } from "../../src/api/store/sealed-values.ts";
import { type Keyring, keyring } from "../../src/domain/keyring.ts";
import { seal, unseal } from "../../src/domain/sealing.ts";
import { makeZoneKey, openZoneKey } from "../../src/domain/zone-key.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import type { Database } from "../../src/ports/database.ts";
import { eventually } from "../support/eventually.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { cleanEnvironment, killGroup, launch, MAIN, runToEnd } from "../support/program.ts";

const former = randomBytes(32);
const present = randomBytes(32);
const FORMER = keyring(former);
const PRESENT = keyring(present);

describe("caracal keys rewrap", () => {
  let database: TestDatabase;
  let db: Database;
  const zone_id = uuidv7();
  before(async () => {
    database = await createTestDatabase();
    db = createPostgres({ url: database.url, name: "test", max: 4 });
    await db.sql`insert into zones (id, slug, name) values (${zone_id}, 'z', 'Z')`;
  });
  after(async () => {
    await db.close();
    await database.close();
  });

  const env = (ring: Buffer, previous?: Buffer): Record<string, string> => ({
    CARACAL_ENV: "dev",
    DATABASE_URL: database.url,
    ZONE_KEK: ring.toString("hex"),
    ...(previous === undefined ? {} : { ZONE_KEK_PREVIOUS: previous.toString("hex") }),
  });

  const insertGrants = async (ring: Keyring, count: number): Promise<void> => {
    const ids = Array.from({ length: count }, () => uuidv7());
    const at = (row: string, column: string) => ({ table: "grants", zone_id, row, column });
    const access = ids.map((id) => seal(ring, at(id, "sealed_access_token"), Buffer.from(`access ${id}`)));
    const refresh = ids.map((id) => seal(ring, at(id, "sealed_refresh_token"), Buffer.from(`refresh ${id}`)));
    await db.sql`
      insert into grants
        (zone_id, id, application_id, subject, resource_id, scopes, sealed_access_token, sealed_refresh_token)
      select ${zone_id}, id, ${app}, id, ${resource}, '{}', access, refresh
      from unnest(${ids}::text[], ${access}::text[], ${refresh}::text[]) as made (id, access, refresh)`;
  };
  const app = uuidv7();
  const resource = uuidv7();

  it("knows every column of the schema that holds sealed values", async () => {
    const rows = await db.sql<{ table: string; column: string }[]>`
      select table_name as table, column_name as column from information_schema.columns
      where table_schema = current_schema() and column_name like 'sealed\\_%' order by 1, 2`;
    const known = SEALED_COLUMNS.map(({ table, column }) => `${table}.${column}`).toSorted();
    assert.deepEqual(
      rows.map(({ table, column }) => `${table}.${column}`),
      known,
    );
  });

  it("replaces a value only while it is the one that was read", async () => {
    const id = uuidv7();
    const place = SEALED_COLUMNS.find(({ column }) => column === "sealed_api_key");
    assert.ok(place !== undefined);
    await db.sql`
      insert into providers (zone_id, id, name, kind, allowed_hosts, auth_header, sealed_api_key, archived_at)
      values (${zone_id}, ${id}, 'q', 'apikey', '{a.example.com}', 'Authorization', ${`v1.${PRESENT.current.id}.newer`}, now())`;
    const replaced = await db.sql.begin((tx) =>
      replaceSealed(tx, place, { zone_id, row: id, sealed: "what was read" }, "what would be lost"),
    );
    assert.equal(replaced, false);
    const [row] = await db.sql<[{ sealed_api_key: string }]>`select sealed_api_key from providers where id = ${id}`;
    assert.equal(row.sealed_api_key, `v1.${PRESENT.current.id}.newer`);
    await db.sql`delete from providers where id = ${id}`;
  });

  it("moves everything to the present key, is taken up after kill -9, and leaves what it can't open", async () => {
    const key = makeZoneKey(FORMER, zone_id);
    await db.sql`
      insert into zone_keys (zone_id, kid, public_jwk, sealed_private)
      values (${zone_id}, ${key.kid}, ${key.public_jwk}, ${key.sealed_private})`;
    await db.sql`
      insert into applications (zone_id, id, name, kind, secret_hash, credential_types)
      values (${zone_id}, ${app}, 'a', 'confidential', 'x', '{client_secret}')`;
    await db.sql`
      insert into resources (zone_id, id, identifier, name, upstream_url)
      values (${zone_id}, ${resource}, 'resource://r', 'R', 'http://127.0.0.1/')`;
    const provider = uuidv7();
    const place = { table: "providers", zone_id, row: provider, column: "sealed_api_key" };
    await db.sql`
      insert into providers (zone_id, id, name, kind, allowed_hosts, auth_header, sealed_api_key)
      values (${zone_id}, ${provider}, 'p', 'apikey', '{a.example.com}', 'Authorization', ${seal(FORMER, place, Buffer.from("api key"))})`;
    const grants = 3_000;
    await insertGrants(FORMER, grants);
    const total = 2 + 2 * grants;

    const first = launch(process.execPath, [MAIN, "keys", "rewrap"], cleanEnvironment(env(present, former)));
    await eventually(() => /^grants\.sealed_access_token: 200 of 3000$/m.test(first.stdout()), {
      timeout_ms: 30_000,
      every_ms: 1,
    });
    killGroup(first.pid, "SIGKILL");
    await first.exited;
    const count = async (ring: Keyring): Promise<number> => {
      const like = `v1.${ring.current.id}.%`;
      const [row] = await db.sql<[{ n: number }]>`
        select (select count(*) from zone_keys where sealed_private like ${like})::int
             + (select count(*) from providers where sealed_api_key like ${like})::int
             + (select count(*) filter (where sealed_access_token like ${like}) + count(*) filter (where sealed_refresh_token like ${like}) from grants)::int as n`;
      return row.n;
    };
    const before_second = await count(PRESENT);
    assert.ok(before_second >= 202 && before_second < total, `${before_second} of ${total} were moved before the kill`);
    assert.equal(await count(FORMER), total - before_second);

    const second = await runToEnd(["keys", "rewrap"], { env: env(present, former), timeout_ms: 60_000 });
    assert.equal(second.code, 0, second.stderr);
    assert.match(
      second.stdout,
      new RegExp(`^${total - before_second} values moved to key [0-9a-f]{8}; 0 are under another\\.$`, "m"),
    );
    assert.ok(!second.stdout.includes(former.toString("hex")));

    // All of it opens with the present key alone, at its own place.
    const [row] = await db.sql<
      [{ sealed_private: string }]
    >`select sealed_private from zone_keys where kid = ${key.kid}`;
    assert.equal(openZoneKey(PRESENT, zone_id, key.kid, row.sealed_private).type, "private");
    const [held] = await db.sql<
      [{ sealed_api_key: string }]
    >`select sealed_api_key from providers where id = ${provider}`;
    assert.equal(unseal(PRESENT, place, held.sealed_api_key).toString(), "api key");
    const opened = await db.sql<{ id: string; access: string; refresh: string }[]>`
      select id, sealed_access_token as access, sealed_refresh_token as refresh from grants`;
    for (const { id, access, refresh } of opened) {
      const at = (column: string) => ({ table: "grants", zone_id, row: id, column });
      assert.equal(unseal(PRESENT, at("sealed_access_token"), access).toString(), `access ${id}`);
      assert.equal(unseal(PRESENT, at("sealed_refresh_token"), refresh).toString(), `refresh ${id}`);
    }
    const [audited] = await db.sql<[{ n: number; actors: string }]>`
      select sum((detail_json::jsonb->>'values')::int)::int as n, string_agg(distinct actor, ',') as actors
      from admin_audit where action = 'zone_kek.rewrap'`;
    assert.deepEqual({ ...audited }, { n: total, actors: "cli" });

    const third = await runToEnd(["keys", "rewrap"], { env: env(present, former) });
    assert.deepEqual([third.code, third.stdout.startsWith("0 values moved")], [0, true]);
    await insertGrants(keyring(randomBytes(32)), 1);
    const stranger = await runToEnd(["keys", "rewrap"], { env: env(present, former) });
    assert.equal(stranger.code, 1);
    assert.match(
      stranger.stderr,
      /grants\.sealed_access_token was sealed under key [0-9a-f]{8}, which is not in ZONE_KEK or ZONE_KEK_PREVIOUS/,
    );
    const lacking = await runToEnd(["keys", "rewrap"], { env: { CARACAL_ENV: "dev", DATABASE_URL: database.url } });
    assert.deepEqual([lacking.code, lacking.stderr.startsWith("caracal: ZONE_KEK: is missing")], [2, true]);
  });
});
