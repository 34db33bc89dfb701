import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { loadConfig, readConfig } from "../../src/config/index.ts";
import { ROLE_NAMES, type RoleName } from "../../src/domain/role-name.ts";
import { layOut } from "../../src/process/roles.ts";

const SECRETS = {
  STREAMS_HMAC_KEY: "a1".repeat(32),
  AUDIT_HMAC_KEY: "b2".repeat(32),
  ZONE_KEK: "c3".repeat(32),
};
const SERVERS = { CARACAL_ENV: "dev", DATABASE_URL: "postgres://localhost/x", REDIS_URL: "redis://localhost" };
const ELSEWHERE = { STS_URL: "https://sts.example" };

const laid = (roles: readonly RoleName[], env: Readonly<Record<string, string>>): ReturnType<typeof layOut> =>
  layOut(loadConfig({ ...env, ...SECRETS }, roles));

describe("the layout of a process", () => {
  it("gives the ledger a thread of its own beside other roles, on servers", () => {
    assert.deepEqual(laid(ROLE_NAMES, SERVERS), { here: ["api", "sts", "coordinator", "gateway"], apart: ["audit"] });
    assert.deepEqual(laid(["audit", "gateway"], { ...SERVERS, ...ELSEWHERE }), { here: ["gateway"], apart: ["audit"] });
  });

  it("has one thread where the storage is embedded, in part too, and for a role by itself", () => {
    const { DATABASE_URL: _database, ...on_redis } = SERVERS;
    const { REDIS_URL: _redis, ...on_postgres } = SERVERS;
    for (const env of [{ CARACAL_ENV: "dev" }, on_redis, on_postgres])
      assert.deepEqual(laid(ROLE_NAMES, env), { here: ROLE_NAMES, apart: [] });
    assert.deepEqual(laid(["audit"], SERVERS), { here: ["audit"], apart: [] });
    assert.deepEqual(laid(["sts"], SERVERS), { here: ["sts"], apart: [] });
  });

  it("gives the thread its role's own variables, which make the same configuration there", () => {
    const env = {
      ...SERVERS,
      ...SECRETS,
      DATABASE_URL_AUDIT: "postgres://ledger@localhost/x",
      DATABASE_URL_STS: "postgres://sts@localhost/x",
      MIGRATE_DATABASE_URL: "postgres://owner@localhost/x",
      AUDIT_MAX_DELIVERIES: "7",
      BOOTSTRAP_ADMIN_TOKEN: "d4".repeat(32),
      LOG_LEVEL: "error",
    };
    const { config, textsOf } = readConfig(env, ROLE_NAMES);
    const texts = textsOf(["audit"]);
    for (const name of [
      "ZONE_KEK",
      "BOOTSTRAP_ADMIN_TOKEN",
      "DATABASE_URL",
      "DATABASE_URL_STS",
      "MIGRATE_DATABASE_URL",
    ])
      assert.equal(texts[name], undefined, name);
    const own = loadConfig(texts, ["audit"]);
    for (const [name, value] of Object.entries(own))
      if (name !== "roles") assert.deepEqual(value, config[name as keyof typeof config], name);
    assert.equal(own.AUDIT_MAX_DELIVERIES, 7);
    assert.equal(own.DATABASE_URL_AUDIT, env.DATABASE_URL_AUDIT);
    assert.equal(
      readConfig({ ...env, DATABASE_URL_AUDIT: "" }, ROLE_NAMES).textsOf(["audit"])["DATABASE_URL"],
      env.DATABASE_URL,
    );
  });
});
