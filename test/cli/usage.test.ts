import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { runToEnd } from "../support/program.ts";

const DEV = { CARACAL_ENV: "dev" };
const HEX_32 = "ab".repeat(32);

describe("a command that is used wrongly", () => {
  const wrong: readonly (readonly [args: readonly string[], env: Readonly<Record<string, string>>, says: RegExp])[] = [
    [["serve", "--role=x"], DEV, /^caracal: --role: "x" is none of /],
    [["serve", "--role=gateway"], { CARACAL_ENV: "production" }, /^caracal: REDIS_URL: /m],
    [["serve"], DEV, /--role/],
    [["nonsense"], DEV, /^caracal: "nonsense" is no command/],
    [["migrate"], DEV, /^caracal: DATABASE_URL: is missing/],
    [["migrate"], { DATABASE_URL: "postgres://u:p@db.example.com/caracal" }, /^caracal: DATABASE_URL: /],
    [["admin-token", "create"], DEV, /^caracal: --global: is missing/],
    [["admin-token", "create", "--global", "--expires-in-days", "0"], DEV, /^caracal: --expires-in-days: /],
    [["dead-letters", "replay", "caracal.audit.events", "--limit", "x"], DEV, /^caracal: --limit: /],
    [["dead-letters", "replay", "elsewhere"], DEV, /^caracal: stream: /],
    [["dead-letters", "replay", "caracal.audit.events"], DEV, /^caracal: REDIS_URL: is missing/],
    [["audit", "verify"], DEV, /^caracal: AUDIT_HMAC_KEY: is missing/],
    [["keys", "rewrap"], DEV, /^caracal: ZONE_KEK: is missing/],
    [["keys", "rotate"], DEV, /^caracal: --all-zones: is missing/],
  ];
  for (const [args, env, says] of wrong)
    it(`ends with 2, and says what is wrong: ${args.join(" ")} (${Object.keys(env).join(" ")})`, async () => {
      const end = await runToEnd(args, { env });
      assert.match(end.stderr, says);
      assert.deepEqual([end.code, end.stdout], [2, ""]);
    });

  it("is told from one that fails: a database that does not answer ends it with 1", async () => {
    const DATABASE_URL = "postgres://u:p@127.0.0.1:1/caracal?sslmode=disable";
    const end = await runToEnd(["audit", "verify"], { env: { ...DEV, DATABASE_URL, AUDIT_HMAC_KEY: HEX_32 } });
    assert.match(end.stderr, /^caracal: DATABASE_URL: the database can't be reached/);
    assert.equal(end.code, 1);
  });
});
