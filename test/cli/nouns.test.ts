import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { clean, tableOf } from "../../src/cli/show.ts";
import { apiEndpoints } from "../../src/contracts/api.ts";
import { runToEnd } from "../support/program.ts";
import { type CliRig, startRig, type ZoneRig } from "./rig.ts";

type Thing = { readonly id: string; readonly revision: number; readonly name: string } & Readonly<
  Record<string, unknown>
>;

const POLICY = `package caracal.authz

result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": [], "diagnostics": []}
`;

describe("the nouns of the command line", () => {
  let rig: CliRig;
  let zone: ZoneRig;
  before(async () => {
    rig = await startRig();
    zone = await rig.zone();
  });
  after(() => rig.close());

  it("have a verb for every operation of the API, each under one name", async () => {
    const script = await rig.run("completion", "bash");
    assert.equal(script.code, 0, script.stderr);
    const lines = script.stdout
      .split("\n")
      .filter((line) =>
        /^ +"(zone|app|resource|provider|issuer|policy|policy-set|grant|session|key|token|registration-token|challenge) /.test(
          line,
        ),
      );
    assert.equal(lines.length, Object.keys(apiEndpoints).length);
    assert.equal(new Set(lines.map((line) => line.split(")")[0])).size, lines.length);
  });

  it("create, show, edit and archive; by id and by name", async () => {
    const made = await zone.json<Thing & { client_secret: string }>(
      "app",
      "create",
      "--name",
      "agent",
      "--scopes",
      "a",
      "--scopes",
      "b",
    );
    assert.match(made.client_secret, /^caracal_secret_/);
    assert.deepEqual(made["scopes"], ["a", "b"]);
    const shown = await zone.json<Thing>("app", "show", "agent");
    assert.equal(shown.id, made.id);
    const edited = await zone.json<Thing>(
      "app",
      "edit",
      made.id,
      "--unset",
      "scopes",
      "--unbound-mandates",
      "--rate-limit-per-minute",
      "7",
    );
    assert.deepEqual([edited["scopes"], edited["unbound_mandates"], edited["rate_limit_per_minute"]], [[], true, 7]);
    const back = await zone.json<Thing>(
      "app",
      "edit",
      "agent",
      "--unbound-mandates",
      "false",
      "--unset",
      "rate-limit-per-minute",
    );
    assert.deepEqual([back["unbound_mandates"], back["rate_limit_per_minute"]], [false, null]);
    const archived = await zone.run("app", "archive", "agent");
    assert.deepEqual([archived.code, archived.stdout], [0, ""]);
    assert.equal((await zone.run("app", "show", made.id)).code, 3);
  });

  it("end with a code that a script can tell apart, and say what to do, with the request's id", async () => {
    const made = await zone.json<Thing>("app", "create", "--name", "codes");
    const refused = await zone.run("app", "create", "--name", " blank");
    assert.equal(refused.code, 1);
    assert.match(
      refused.stderr,
      /caracal: {3}name: must not begin or end with white space\ncaracal: {3}request [0-9a-f-]{36}\n$/,
    );
    for (const args of [
      ["app", "create"],
      ["app", "create", "--nam", "x"],
      ["app", "nonsense"],
      ["app", "show"],
      ["app"],
      ["app", "list", "--limit", "0"],
    ]) {
      const wrong = await zone.run(...args);
      assert.equal(wrong.code, 2, args.join(" "));
      assert.notEqual(wrong.stderr, "");
    }
    const absent = await zone.run("app", "show", "nobody");
    assert.deepEqual([absent.code, absent.stderr], [3, 'caracal: there is none with the name "nobody" here\n']);
    const stale = await zone.run("app", "edit", made.id, "--name", "other", "--if-match", "9");
    assert.equal(stale.code, 4);
    await zone.json("app", "create", "--name", "codes");
    const ambiguous = await zone.run("app", "show", "codes");
    assert.deepEqual([ambiguous.code, ambiguous.stderr], [4, 'caracal: 2 have the name "codes"; give the id\n']);
    const away = await rig.runWith({ ...zone.env, CARACAL_API_URL: "http://127.0.0.1:1" }, "app", "list");
    assert.equal(away.code, 5);
    const stranger = await rig.runWith(
      { ...zone.env, CARACAL_ADMIN_TOKEN_FILE: rig.file("wrong", "x".repeat(43)) },
      "app",
      "list",
    );
    assert.equal(stranger.code, 1);
    assert.ok(!stranger.stderr.includes("xxx"), "a token is never shown");
  });

  it("take secrets from files alone, and put them into a new file of this user's", async () => {
    const plain = await zone.run(
      "provider",
      "create",
      "--name",
      "p",
      "--kind",
      "apikey",
      "--allowed-hosts",
      "a.example.com",
      "--api-key",
      "s3cr3t",
    );
    assert.equal(plain.code, 2);
    assert.match(plain.stderr, /A secret is no argument/);
    const key = rig.file("key", "s3cr3t\n");
    const made = await zone.json<Thing>(
      "provider",
      "create",
      "--name",
      "p",
      "--kind",
      "apikey",
      "--allowed-hosts",
      "a.example.com",
      "--api-key",
      `@${key}`,
    );
    assert.deepEqual(made["secret_config_keys"], ["api_key"]);
    const out = join(rig.dir, "client-secret");
    const app = await zone.run("app", "create", "--name", "filed", "--secret-out", out);
    assert.equal(app.code, 0, app.stderr);
    assert.ok(!app.stdout.includes("caracal_secret_"));
    assert.match(readFileSync(out, "utf8"), /^caracal_secret_[A-Za-z0-9_-]{43}\n$/);
    assert.equal(statSync(out).mode & 0o777, 0o600);
    const again = await zone.run("app", "rotate-secret", "filed", "--secret-out", out);
    assert.equal(again.code, 2, "a secret that is there is not overwritten");
    assert.equal((await zone.run("app", "create", "--name", "quiet", "--quiet")).code, 2, "its secret would be lost");
    const gone = join(rig.dir, "not-made");
    assert.equal((await zone.run("app", "rotate-secret", "filed", "--if-match", "99", "--secret-out", gone)).code, 4);
    assert.ok(!existsSync(gone), "what was refused leaves no file");
  });

  it("list page after page, ids only where asked", async () => {
    const many = await rig.zone();
    const rows = Array.from(
      { length: 205 },
      (_, at) =>
        `('${many.zone_id}', 'f0000000-0000-7000-8000-${String(at).padStart(12, "0")}', 'r', 'resource://r${at}', 'http://127.0.0.1/')`,
    );
    await rig.api.owner.sql.unsafe(
      `insert into resources (zone_id, id, name, identifier, upstream_url) values ${rows.join(", ")}`,
    );
    const first = await many.run("resource", "list", "--quiet");
    assert.deepEqual([first.code, first.stdout.trim().split("\n").length], [0, 50]);
    assert.match(first.stderr, /--all/);
    assert.equal((await many.json<Thing[]>("resource", "list", "--limit", "201")).length, 201);
    const all = await many.json<Thing[]>("resource", "list", "--all");
    assert.equal(new Set(all.map(({ id }) => id)).size, 205);
    assert.deepEqual(await many.json("provider", "list"), []);
    const filtered = await many.json<Thing[]>("resource", "list", "--identifier", "resource://r7");
    assert.equal(filtered.length, 1);
  });

  it("write a policy, put it into a set and activate it", async () => {
    const source = rig.file("allow.rego", POLICY);
    await zone.json("policy", "create", "--name", "allow");
    const version = await zone.json<{ id: string }>("policy", "add-version", "allow", "--source", `@${source}`);
    await zone.json("policy-set", "create", "--name", "set");
    const set = await zone.json<{ id: string }>("policy-set", "add-version", "set", "--entries", version.id);
    const active = await zone.json<{ version_id: string }>("policy-set", "activate", "set", "--version-id", set.id);
    assert.equal(active.version_id, set.id);
    const shown = await zone.json<{ source: string }>("policy", "show-version", "allow", version.id);
    assert.equal(shown.source, POLICY);
    const broken = await zone.run("policy", "add-version", "allow", "--source", "package caracal.authz\n\nresult := ");
    assert.equal(broken.code, 1);
    assert.match(broken.stderr, /row \d+, column \d+/);
  });

  it("rotate keys, in one zone and in all, and go on where one refuses", async () => {
    const fresh = await rig.zone();
    assert.equal((await fresh.run("key", "rotate")).code, 0);
    const soon = await rig.run("keys", "rotate", "--all-zones");
    assert.equal(soon.code, 4, soon.stderr);
    assert.match(soon.stdout, /zones have a new key\.\n$/);
    const forced = await rig.run("keys", "rotate", "--all-zones", "--force");
    assert.equal(forced.code, 0, forced.stderr);
    assert.equal((await fresh.json<unknown[]>("key", "list")).length, 1);
    assert.equal((await rig.run("keys", "rotate")).code, 2);
  });

  it("take address, token and zone of the instance that runs from the data folder, and mix them with no others", async () => {
    const folder = join(rig.dir, "data");
    mkdirSync(folder);
    writeFileSync(
      join(folder, "quickstart.json"),
      JSON.stringify({ api_url: rig.api.url, admin_token: zone.token, zone_id: zone.zone_id }),
    );
    const own = await runToEnd(["zone", "list", "--quiet"], { env: { CARACAL_DATA_DIR: folder } });
    assert.deepEqual([own.code, own.stdout], [0, `${zone.zone_id}\n`]);
    const elsewhere = await runToEnd(["zone", "list"], {
      env: { CARACAL_DATA_DIR: folder, CARACAL_API_URL: "http://127.0.0.1:1" },
    });
    assert.deepEqual([elsewhere.code, /CARACAL_ADMIN_TOKEN: is missing/.test(elsewhere.stderr)], [2, true]);
    const plain = await rig.runWith({ ...zone.env, CARACAL_API_URL: "http://api.example.com" }, "zone", "list");
    assert.deepEqual([plain.code, /no https address/.test(plain.stderr)], [2, true]);
  });

  it("take a zone by its slug, where a token sees several", async () => {
    const none = await rig.run("app", "list");
    assert.equal(none.code, 2);
    const slug = (await zone.json<{ slug: string }>("zone", "show", zone.zone_id)).slug;
    assert.equal((await rig.run("app", "list", "--zone", slug)).code, 0);
    assert.equal((await rig.run("app", "list", "--zone", "no-such-zone")).code, 3);
  });
});

describe("what a terminal shows", () => {
  it("is without control characters, whoever made the name", () => {
    assert.equal(clean("a\u001b[31mb\u202ec\u0007\nd"), "ab c  d");
    for (const unseen of ["\u00ad", "\u061c", "\u{e0041}", "\u3164", "\u2029", "\ud800"])
      assert.equal(clean(`a${unseen}b`), "a b");
    const [, row] = tableOf(["id", "name"], [{ id: "1", name: "\u001b]0;title\u0007x" }]);
    assert.ok(!/[\p{Cc}]/u.test(row ?? "\u0000"), JSON.stringify(row));
  });

  it("is completed by bash: commands, then their options", async () => {
    const script = await runToEnd(["completion", "bash"]);
    const ask =
      'COMP_WORDS=(caracal app create --na); COMP_CWORD=3; _caracal; echo "${COMPREPLY[*]}"; COMP_WORDS=(caracal policy-s); COMP_CWORD=1; _caracal; echo "${COMPREPLY[*]}"';
    const bash = spawnSync("bash", ["-c", `${script.stdout}\n${ask}`], { encoding: "utf8" });
    assert.equal(bash.stdout, "--name\npolicy-set\n", bash.stderr);
  });
});
