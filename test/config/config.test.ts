import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { withOperatorDatabase } from "../../src/cli/migrate.ts";
import { databaseUrlOf, type Env, loadConfig } from "../../src/config/index.ts";
import { unreadVariables } from "../../src/config/unread.ts";
import { VARIABLES } from "../../src/config/variables.ts";
import { ROLE_NAMES, type RoleName } from "../../src/domain/role-name.ts";
import { StartupFault } from "../../src/kernel/problem.ts";

const dir = mkdtempSync(join(tmpdir(), "caracal-config-"));
after(() => rmSync(dir, { recursive: true }));
const file = (name: string, text: string): string => {
  writeFileSync(join(dir, name), text);
  return join(dir, name);
};

const KEY = "a1".repeat(32);
const PRODUCTION: Env = {
  TLS_CERT_FILE: file("cert.pem", "cert"),
  TLS_KEY_FILE: file("key.pem", "key"),
  DATABASE_URL: "postgres://caracal:hunter2@db/caracal?sslmode=verify-full",
  REDIS_URL: "rediss://:hunter2@redis:6379",
  STREAMS_HMAC_KEY: KEY,
  AUDIT_HMAC_KEY: "b2".repeat(32),
  ZONE_KEK: "c3".repeat(32),
  STS_URL: "https://sts.example",
};

const faults = (env: Env, roles: readonly RoleName[] = ROLE_NAMES): readonly string[] => {
  try {
    loadConfig(env, roles);
    return [];
  } catch (error) {
    assert.ok(error instanceof StartupFault);
    return error.faults;
  }
};

describe("the configuration", () => {
  it("is production by default, complete with what the checklist names, and frozen", () => {
    const config = loadConfig(PRODUCTION, ROLE_NAMES);
    assert.equal(config.production, true);
    assert.deepEqual(
      [config.GATEWAY_PORT, config.STS_PORT, config.COORDINATOR_PORT, config.API_PORT, config.AUDIT_PORT],
      [8081, 8080, 4000, 3000, 9090],
    );
    assert.deepEqual(
      [config.MAX_REQUEST_BYTES, config.STS_TIMEOUT, config.JTI_FAIL_OPEN, config.ALLOW_PRIVATE_UPSTREAMS],
      [10 * 1024 * 1024, 5_000, false, false],
    );
    assert.ok(Object.isFrozen(config));
  });

  const REFUSED: readonly (readonly [string, Env, RegExp, (readonly RoleName[])?])[] = [
    [
      "the Gateway's certificate is missing",
      { TLS_CERT_FILE: undefined, TLS_KEY_FILE: undefined },
      /^TLS_CERT_FILE: is missing/m,
    ],
    [
      "the Gateway's key can't be read",
      { TLS_KEY_FILE: "/nowhere/key.pem" },
      /^TLS_KEY_FILE: \/nowhere\/key.pem can't be read/m,
    ],
    ["the Gateway would serve without TLS", { INSECURE_HTTP: "true" }, /^INSECURE_HTTP: is true/m],
    ["the Gateway would call the STS in the clear", { INSECURE_STS: "1" }, /^INSECURE_STS: is true/m],
    ["replay protection would fail open", { JTI_FAIL_OPEN: "true" }, /^JTI_FAIL_OPEN: is true/m],
    ["STS_URL is plain http", { STS_URL: "http://sts.example" }, /^STS_URL: does not start with https/m],
    [
      "the database is reached without TLS",
      { DATABASE_URL: "postgres://db/caracal" },
      /^DATABASE_URL: has no sslmode/m,
    ],
    [
      "the database may be reached without TLS",
      { DATABASE_URL: "postgres://db/caracal?sslmode=prefer" },
      /^DATABASE_URL: has no sslmode/m,
    ],
    [
      "a role's own database is reached without TLS",
      { DATABASE_URL_STS: "postgres://db/x?sslmode=disable" },
      /^DATABASE_URL_STS: has no sslmode/m,
    ],
    ["there is no database", { DATABASE_URL: undefined }, /^DATABASE_URL: is missing/m],
    ["the KEK is missing", { ZONE_KEK: undefined }, /^ZONE_KEK: is missing/m],
    ["the KEK is short", { ZONE_KEK: "c3".repeat(31) }, /^ZONE_KEK: is not 32 bytes of hex/m],
    ["the KEK is long", { ZONE_KEK: "c3".repeat(33) }, /^ZONE_KEK: is not 32 bytes of hex/m],
    ["the KEK is not hex", { ZONE_KEK: "zz".repeat(32) }, /^ZONE_KEK: is not 32 bytes of hex/m],
    ["the KEK is zero", { ZONE_KEK: "00".repeat(32) }, /^ZONE_KEK: is all zero/m],
    ["the streams' key is missing", { STREAMS_HMAC_KEY: undefined }, /^STREAMS_HMAC_KEY: is missing/m],
    ["the streams' key is short", { STREAMS_HMAC_KEY: "a1".repeat(31) }, /^STREAMS_HMAC_KEY: has fewer than 32 bytes/m],
    ["the audit key is not hex", { AUDIT_HMAC_KEY: "secret" }, /^AUDIT_HMAC_KEY: is not hex/m],
    ["the audit key is missing", { AUDIT_HMAC_KEY: undefined }, /^AUDIT_HMAC_KEY: is missing/m],
    [
      "the two keys are equal",
      { AUDIT_HMAC_KEY: KEY.toUpperCase() },
      /^AUDIT_HMAC_KEY: is the same as STREAMS_HMAC_KEY/m,
    ],
    ["Redis is missing", { REDIS_URL: undefined }, /^REDIS_URL: is missing/m],
    [
      "private upstreams have no list",
      { ALLOW_PRIVATE_UPSTREAMS: "true" },
      /^ALLOW_PRIVATE_UPSTREAMS: is true without UPSTREAM_HOST_ALLOWLIST/m,
    ],
    [
      "a trusted proxy is no network",
      { TRUSTED_PROXIES: "10.0.0.0/8, 10.0.0.0/33" },
      /^TRUSTED_PROXIES: has an entry that is neither/m,
    ],
    [
      "a name server is no address",
      { DNS_SERVERS: "10.0.0.2, [fd00::2]:53, 10.0.0.2:5353, ns.example.com" },
      /^DNS_SERVERS: has an entry that is no address/m,
    ],
    ["a Gateway alone does not know its STS", { STS_URL: undefined }, /^STS_URL: is missing/m, ["gateway"]],
  ];
  for (const [name, change, line, roles] of REFUSED) {
    it(`is refused in production when ${name}`, () => {
      assert.match(faults({ ...PRODUCTION, ...change }, roles).join("\n"), line);
    });
  }

  it("names every fault at once, one line each, and no secret", () => {
    const lines = faults({
      CARACAL_ENV: "production",
      ZONE_KEK: "hunter2hunter2",
      STS_TIMEOUT: "soon",
      GATEWAY_PORT: "99999",
      JTI_FAIL_OPEN: "perhaps",
    });
    const names = lines.map((line) => line.split(":", 1)[0]);
    for (const name of [
      "ZONE_KEK",
      "STS_TIMEOUT",
      "GATEWAY_PORT",
      "JTI_FAIL_OPEN",
      "DATABASE_URL",
      "REDIS_URL",
      "STREAMS_HMAC_KEY",
      "TLS_CERT_FILE",
    ]) {
      assert.ok(names.includes(name), `${name} is not named in ${lines.join("\n")}`);
    }
    assert.ok(!lines.join("\n").includes("hunter2"));
    assert.ok(lines.every((line) => !line.includes("\n")));
  });

  it("shows no user info of an address that it refuses, and names the variable whose escapes can't be read", () => {
    const lines = faults({ ...PRODUCTION, STS_URL: "https://svc:hunter2@sts.example" }).join("\n");
    assert.match(lines, /^STS_URL: has user info/m);
    assert.ok(!lines.includes("hunter2"), lines);
    assert.match(
      faults({ ...PRODUCTION, REDIS_URL: "redis://:a%zz@redis:6379" }).join("\n"),
      /^REDIS_URL: has a % that begins/m,
    );
    assert.match(
      faults({ ...PRODUCTION, DATABASE_URL: "postgres://u:100%@db/x?sslmode=require" }).join("\n"),
      /^DATABASE_URL: has a %/m,
    );
  });

  it("takes every mode of TLS that encrypts, for a role and for an operator's command", async () => {
    for (const mode of ["require", "verify-ca", "verify-full"]) {
      const DATABASE_URL = `postgres://u@127.0.0.1:1/x?sslmode=${mode}`;
      assert.deepEqual(faults({ ...PRODUCTION, DATABASE_URL }), [], mode);
      await assert.rejects(
        withOperatorDatabase({ DATABASE_URL }, "test", async () => undefined),
        /can't be reached/,
      );
    }
    await assert.rejects(
      withOperatorDatabase({ DATABASE_URL: "postgres://u@127.0.0.1:1/x" }, "test", async () => undefined),
      /^StartupFault: DATABASE_URL: has no sslmode/,
    );
  });

  it("serves a Gateway without a certificate in dev, unless that is forbidden there, too", () => {
    const dev = { ...PRODUCTION, CARACAL_ENV: "dev", TLS_CERT_FILE: undefined, TLS_KEY_FILE: undefined };
    assert.deepEqual(faults(dev), []);
    assert.match(faults({ ...dev, INSECURE_HTTP: "false" }).join("\n"), /^INSECURE_HTTP: is false/m);
    assert.deepEqual(faults({ ...dev, INSECURE_HTTP: "false" }, ["sts"]), []);
    assert.deepEqual(faults({ ...PRODUCTION, CARACAL_ENV: "dev", INSECURE_HTTP: "false" }), []);
  });

  it("lets a Gateway in dev call its STS in the clear only where that is asked for", () => {
    const dev = { ...PRODUCTION, CARACAL_ENV: "dev", STS_URL: "http://sts" };
    assert.match(faults(dev, ["gateway"]).join("\n"), /^STS_URL: is plain http/m);
    assert.deepEqual(faults({ ...dev, INSECURE_STS: "true" }, ["gateway"]), []);
  });

  it("gives each role its own database, else the common one", () => {
    for (const role of ["sts", "coordinator", "api", "audit"] as const) {
      const own = `postgres://${role}@db/x?sslmode=require`;
      const env = { ...PRODUCTION, [`DATABASE_URL_${role.toUpperCase()}`]: own };
      assert.equal(databaseUrlOf(loadConfig(env, ROLE_NAMES), role), own);
      assert.equal(databaseUrlOf(loadConfig(PRODUCTION, ROLE_NAMES), role), PRODUCTION["DATABASE_URL"]);
    }
  });

  it("lets private upstreams through in production with a list", () => {
    const config = loadConfig(
      { ...PRODUCTION, ALLOW_PRIVATE_UPSTREAMS: "true", UPSTREAM_HOST_ALLOWLIST: "mcp.internal, 10.0.0.7" },
      ROLE_NAMES,
    );
    assert.deepEqual(config.UPSTREAM_HOST_ALLOWLIST, ["mcp.internal", "10.0.0.7"]);
  });

  it("reads of each role only what is its own: another role's nonsense does no harm", () => {
    const { DATABASE_URL: _database, ZONE_KEK: _kek, AUDIT_HMAC_KEY: _audit, ...gateway } = PRODUCTION;
    assert.deepEqual(
      faults({ ...gateway, DATABASE_URL: "nonsense", ZONE_KEK: "nonsense", AUDIT_HMAC_KEY: "nonsense" }, ["gateway"]),
      [],
    );
    const { ZONE_KEK: _zone, TLS_CERT_FILE: _cert, TLS_KEY_FILE: _key, STS_URL: _url, ...audit } = PRODUCTION;
    assert.deepEqual(faults(audit, ["audit"]), []);
  });

  it("takes each secret from the file that NAME_FILE names, and never from both", () => {
    const path = file("kek", `${"d4".repeat(32)}\n`);
    const { ZONE_KEK: _kek, ...rest } = PRODUCTION;
    assert.deepEqual(
      loadConfig({ ...rest, ZONE_KEK_FILE: path }, ROLE_NAMES).ZONE_KEK,
      Buffer.from("d4".repeat(32), "hex"),
    );
    assert.match(faults({ ...PRODUCTION, ZONE_KEK_FILE: path }).join("\n"), /^ZONE_KEK: is set beside ZONE_KEK_FILE/m);
    assert.match(faults({ ...rest, ZONE_KEK_FILE: join(dir, "none") }).join("\n"), /^ZONE_KEK_FILE: .*ENOENT/m);
  });

  it("keeps former keys as a list", () => {
    const config = loadConfig(
      { ...PRODUCTION, STREAMS_HMAC_KEY_PREVIOUS: `${"e5".repeat(32)},${"f6".repeat(32)}` },
      ROLE_NAMES,
    );
    assert.equal(config.STREAMS_HMAC_KEY_PREVIOUS.length, 2);
    assert.match(
      faults({ ...PRODUCTION, STREAMS_HMAC_KEY_PREVIOUS: "abc" }).join("\n"),
      /^STREAMS_HMAC_KEY_PREVIOUS: is not hex/m,
    );
  });

  it("embeds in dev what has no address, and only in a process that has all roles", () => {
    const secrets = { STREAMS_HMAC_KEY: KEY, AUDIT_HMAC_KEY: "b2".repeat(32), ZONE_KEK: "c3".repeat(32) };
    const dev = loadConfig({ CARACAL_ENV: "dev" }, ROLE_NAMES, secrets);
    assert.deepEqual([dev.embedded_database, dev.embedded_redis, dev.GATEWAY_HOST], [true, true, "127.0.0.1"]);
    const attached = loadConfig(
      { CARACAL_ENV: "dev", DATABASE_URL: "postgres://localhost/x", REDIS_URL: "redis://localhost" },
      ROLE_NAMES,
      secrets,
    );
    assert.deepEqual([attached.embedded_database, attached.embedded_redis], [false, false]);
    assert.match(
      faults({ CARACAL_ENV: "dev", ...secrets }, ["sts"]).join("\n"),
      /^CARACAL_ENV: is dev with embedded storage/m,
    );
  });

  it("refuses two keys that HMAC takes for one, however they are written", () => {
    const pad = (key: string) => [key, `${key}00`, key + "00".repeat(32)];
    const hashed = createHash("sha256")
      .update(Buffer.from("d4".repeat(65), "hex"))
      .digest("hex");
    const same = [
      ...pad(KEY).map((twin) => [KEY, twin] as const),
      ...pad(KEY).map((twin) => [twin, KEY] as const),
      ["d4".repeat(65), hashed] as const,
    ];
    for (const [streams, audit] of same) {
      const said = faults({ ...PRODUCTION, STREAMS_HMAC_KEY: streams, AUDIT_HMAC_KEY: audit }).join("\n");
      assert.match(said, /^AUDIT_HMAC_KEY: is the same as STREAMS_HMAC_KEY/m, audit);
    }
    assert.deepEqual(faults({ ...PRODUCTION, AUDIT_HMAC_KEY: `${KEY}01` }), []);
  });

  it("refuses former KEKs that could be no KEK, and a bootstrap token that could never be sent", () => {
    for (const wrong of ["00".repeat(32), "a1".repeat(33), `${KEY},${"00".repeat(32)}`]) {
      assert.match(faults({ ...PRODUCTION, ZONE_KEK_PREVIOUS: wrong }).join("\n"), /^ZONE_KEK_PREVIOUS: is/m, wrong);
    }
    for (const wrong of [`${KEY} `, `${KEY}\n${KEY}`, ` ${KEY}`, `${KEY}ü`]) {
      const said = faults({ ...PRODUCTION, BOOTSTRAP_ADMIN_TOKEN: wrong }).join("\n");
      assert.match(said, /^BOOTSTRAP_ADMIN_TOKEN: has a space/m);
      assert.ok(!said.includes(KEY));
    }
    assert.deepEqual(faults({ ...PRODUCTION, ZONE_KEK_PREVIOUS: KEY, BOOTSTRAP_ADMIN_TOKEN: `${KEY}==` }), []);
  });

  it("says which variables nothing reads, and which were meant", () => {
    const said = (name: string) => unreadVariables({ ...PRODUCTION, [name]: "x" });
    assert.deepEqual(said("STREAM_HMAC_KEY"), ["STREAM_HMAC_KEY: nothing reads it. Did you mean STREAMS_HMAC_KEY?"]);
    assert.deepEqual(said("TRUSTED_PROXYS"), ["TRUSTED_PROXYS: nothing reads it. Did you mean TRUSTED_PROXIES?"]);
    assert.match(said("ISSUER_URL_FILE").join(), /only secrets are read from files\. Did you mean ISSUER_URL\?/);
    assert.match(said("CARACAL_SPEED").join(), /^CARACAL_SPEED: nothing reads it/);
    for (const foreign of ["PATH", "HOME", "NODE_OPTIONS", "KUBERNETES_SERVICE_HOST", "STS_PORT", "ZONE_KEK_FILE"]) {
      assert.deepEqual(said(foreign), [], foreign);
    }
  });

  it("names a broken MIGRATE_DATABASE_URL by its own name", async () => {
    const env = {
      CARACAL_ENV: "dev",
      DATABASE_URL: "postgres://u@127.0.0.1:1/d",
      MIGRATE_DATABASE_URL: "postgres://o@127.0.0.1:1/d",
    };
    const own = withOperatorDatabase(env, "test", async () => undefined);
    await assert.rejects(own, /^StartupFault: MIGRATE_DATABASE_URL: the database can't be reached/);
    const common = withOperatorDatabase({ ...env, MIGRATE_DATABASE_URL: "" }, "test", async () => undefined);
    await assert.rejects(common, /^StartupFault: DATABASE_URL: the database can't be reached/);
  });

  it("reads durations with their unit and says what a wrong one should look like", () => {
    assert.equal(loadConfig({ ...PRODUCTION, STS_TIMEOUT: "750ms" }, ROLE_NAMES).STS_TIMEOUT, 750);
    assert.equal(loadConfig({ ...PRODUCTION, STS_TIMEOUT: "2" }, ROLE_NAMES).STS_TIMEOUT, 2_000);
    for (const wrong of ["-1s", "1e3", "5 s", "", "99999h"]) {
      if (wrong !== "")
        assert.match(faults({ ...PRODUCTION, STS_TIMEOUT: wrong }).join("\n"), /^STS_TIMEOUT: is/m, wrong);
    }
  });

  it("has a doc for every variable, and a file for every secret", () => {
    for (const [name, variable] of Object.entries(VARIABLES)) {
      assert.ok(variable.doc.endsWith("."), name);
      if (/KEY|KEK|TOKEN|DATABASE_URL|REDIS_URL/.test(name) && name !== "TLS_KEY_FILE")
        assert.ok("secret" in variable, name);
    }
  });
});
