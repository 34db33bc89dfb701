import assert from "node:assert/strict";
import { readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { type CliRig, startRig, type ZoneRig } from "./rig.ts";
import { FILE, KEY, policy, writeZoneFile } from "./zone-file.ts";

type Item = Readonly<Record<string, unknown>>;

describe("a zone's file", () => {
  let rig: CliRig;
  before(async () => {
    rig = await startRig();
    writeZoneFile(rig);
  });
  after(() => rig.close());

  const apply = (zone: ZoneRig, file: string, ...more: readonly string[]): ReturnType<ZoneRig["run"]> =>
    zone.run("apply", "-f", join(rig.dir, file), "--yes", ...more);

  /** Everything of a zone that a file says, by names. */
  const exported = async (zone: ZoneRig, folder: string): Promise<string> => {
    const dir = join(rig.dir, folder);
    const ended = await zone.run("export", "-f", join(dir, "zone.yaml"));
    assert.equal(ended.code, 0, ended.stderr);
    return readFileSync(join(dir, "zone.yaml"), "utf8");
  };
  const withoutZone = (text: string): string => text.replace(/^zone:\n(?: .*\n)+/m, "");

  it("makes a whole zone at once, in order, and the same file again finds nothing to do", async () => {
    const zone = await rig.zone();
    const out = join(rig.dir, "secrets.json");
    const dry = await zone.run("apply", "-f", join(rig.dir, "zone.yaml"), "--dry-run");
    assert.equal(dry.code, 0, dry.stderr);
    assert.deepEqual(await zone.json("app", "list"), []);
    const unasked = await zone.run("apply", "-f", join(rig.dir, "zone.yaml"));
    assert.deepEqual([unasked.code, /--yes/.test(unasked.stderr)], [2, true]);
    const made = await apply(zone, "zone.yaml", "--secrets-out", out);
    assert.equal(made.code, 0, made.stderr);
    assert.ok(!made.stdout.includes(KEY) && !made.stdout.includes("caracal_secret_"), "no secret is printed");
    for (const line of [
      "+ issuer people",
      "+ provider upstream",
      // Who agrees to it sees which secret goes where.
      `    api_key: (secret of the file ${join(rig.dir, "key.txt")})`,
      "+ application worker",
      "+ grant agent → resource://payments for people|ada",
      "+ policy first",
      "+ policy set main",
    ])
      assert.ok(made.stdout.split("\n").includes(line), `${line}\n${made.stdout}`);
    assert.equal(statSync(out).mode & 0o777, 0o600);
    const secrets = JSON.parse(readFileSync(out, "utf8")) as Record<
      string,
      { client_id: string; client_secret: string }
    >;
    assert.deepEqual(Object.keys(secrets), ["agent", "worker"]);
    const [grant] = await zone.json<Item[]>("grant", "list");
    const [issuer] = await zone.json<Item[]>("issuer", "list");
    assert.equal(grant?.["subject"], `${String(issuer?.["id"])}|ada`);
    assert.equal(grant?.["application_id"], secrets["agent"]?.client_id);
    const again = await apply(zone, "zone.yaml", "--prune", "--secrets-out", out);
    assert.deepEqual([again.code, again.stdout], [0, "Nothing to do.\n"], again.stderr);
  });

  it("changes what differs, keeps what it does not name, and archives that with --prune alone", async () => {
    const zone = await rig.zone();
    assert.equal((await apply(zone, "zone.yaml")).code, 0);
    const changed = FILE.replace("team:payments", "team:billing")
      .replace(/ {2}- name: worker\n(?: {4}.*\n)+/, "")
      .replace("scopes: [read]", "scopes: [call, read]")
      .replace("    application: agent\ngrants", "grants")
      .replace("[first, second]", "[second]");
    rig.file("changed.yaml", changed);
    rig.file("changed-second.rego", policy("second, anew"));
    rig.file("changed.yaml", changed.replace("file: second.rego", "file: changed-second.rego"));
    const kept = await apply(zone, "changed.yaml");
    assert.equal(kept.code, 0, kept.stderr);
    for (const line of [
      "~ application agent",
      '    traits: ["team:payments"] → ["team:billing"]',
      '    application: "agent" → null',
      '    scopes: ["read"] → ["call","read"]',
      "~ policy second",
      "    active: main: first, second → main: second",
      "  application worker is not in the file and stays; --prune archives it",
    ])
      assert.ok(kept.stdout.split("\n").includes(line), `${line}\n${kept.stdout}`);
    assert.equal((await zone.json<Item[]>("app", "list")).length, 2);
    const pruned = await apply(zone, "changed.yaml", "--prune");
    assert.equal(pruned.stdout, "- application worker\n1 changes were made.\n", pruned.stderr);
    // Back to what it was: the former version of the policy is taken again.
    const back = await apply(zone, "zone.yaml");
    assert.equal(back.code, 0, back.stderr);
    assert.equal((await zone.json<Item[]>("policy", "versions", "second")).length, 2);
    assert.equal((await apply(zone, "zone.yaml")).stdout, "Nothing to do.\n");
  });

  it("is exported without secrets, and makes the same zone elsewhere", async () => {
    const zone = await rig.zone();
    assert.equal((await apply(zone, "zone.yaml")).code, 0);
    const text = await exported(zone, "there");
    assert.ok(!text.includes(KEY) && !/[0-9a-f]{8}-[0-9a-f]{4}-7/.test(text), "neither a secret nor an id");
    assert.equal((await apply(zone, "there/zone.yaml", "--prune")).stdout, "Nothing to do.\n");
    assert.equal(
      (await zone.run("export", "-f", join(rig.dir, "there", "zone.yaml"))).code,
      2,
      "nothing is overwritten",
    );
    const elsewhere = await rig.zone();
    const made = await apply(elsewhere, "there/zone.yaml", "--zone", elsewhere.zone_id);
    assert.equal(made.code, 0, made.stderr);
    assert.equal(withoutZone(await exported(elsewhere, "elsewhere")), withoutZone(text));
    for (const name of ["first", "second"])
      assert.equal(readFileSync(join(rig.dir, "elsewhere", "policies", `${name}.rego`), "utf8"), policy(name));
  });

  it("makes the zone itself where the token may", async () => {
    rig.file("own.yaml", `zone: { slug: from-a-file, name: From a file }\n${FILE}`);
    const made = await rig.run("apply", "-f", join(rig.dir, "own.yaml"), "--yes");
    assert.equal(made.code, 0, made.stderr);
    assert.match(made.stdout, /^\+ zone from-a-file\n/);
    rig.file("own.yaml", `zone: { slug: from-a-file, name: Renamed }\n${FILE}`);
    assert.equal(
      (await rig.run("apply", "-f", join(rig.dir, "own.yaml"), "--yes")).stdout,
      '~ zone from-a-file\n    name: "From a file" → "Renamed"\n1 changes were made.\n',
    );
  });

  it("is refused as a whole, each fault with its file, line and field", async () => {
    const zone = await rig.zone();
    const wrong = FILE.replace("provider: upstream", "provider: nobody")
      .replace("api_key: { file: key.txt }", "api_key: written-here")
      .replace("scopes: [call]\n", "scopes: [call]\n    colour: red\n")
      .replace("file: second.rego", "file: nowhere.rego")
      .replace("https://api.example.com\n", "ftp://api.example.com\n");
    rig.file("wrong.yaml", `${wrong}extra: 1\n`);
    const ended = await apply(zone, "wrong.yaml");
    assert.equal(ended.code, 1);
    const lines = ended.stderr.trim().split("\n");
    const lineOf = (text: string): number =>
      `${wrong}extra: 1`.split("\n").findIndex((line) => line.includes(text)) + 1;
    const expected: readonly (readonly [string, string])[] = [
      [
        "written-here",
        "providers.0.api_key: must say where the secret is: {file: …} or {env: …}; it is not written here",
      ],
      ["colour", "applications.0.colour: is not a field of this request; remove it"],
      ["ftp:", "resources.0.upstream_url: must be an http or https URL, such as https://payments.example.com/mcp"],
      ["provider: nobody", "resources.0.provider: names none of this file's providers"],
      ["nowhere.rego", "policies.1.file: can't be read (ENOENT)"],
      ["[first, second]", "policy_set.policies.1: names none of this file's policies"],
      ["extra: 1", "extra: is none of zone, issuers, providers, applications, resources, grants, policies, policy_set"],
    ];
    assert.deepEqual(
      lines,
      expected.map(([text, message]) => `caracal: wrong.yaml:${lineOf(text)}: ${message}`),
    );
    assert.deepEqual(await zone.json("app", "list"), [], "nothing was made");
    rig.file("broken.yaml", "applications:\n  - name: a\n  - name: [\n");
    const broken = await apply(zone, "broken.yaml");
    assert.deepEqual([broken.code, /^caracal: broken\.yaml:\d+: /.test(broken.stderr)], [1, true], broken.stderr);
    assert.equal((await apply(zone, "no-such.yaml")).code, 2);
  });

  it("reads no file without an end", async () => {
    const zone = await rig.zone();
    truncateSync(rig.file("endless.txt", ""), 64 * 1024 * 1024);
    rig.file("endless.yaml", FILE.replaceAll(/key\.txt|second\.rego/g, "endless.txt"));
    const ended = await apply(zone, "endless.yaml");
    assert.equal(ended.code, 1);
    assert.match(ended.stderr, /providers\.0\.api_key: names a file that can't be read \(EFBIG\)/);
    assert.match(ended.stderr, /policies\.1\.file: can't be read \(EFBIG\)/);
    const whole = await apply(zone, "endless.txt");
    assert.deepEqual([whole.code, /can't be read \(EFBIG\)/.test(whole.stderr)], [2, true], whole.stderr);
  });

  it("does not overwrite what somebody else changed meanwhile, nor what can't be changed", async () => {
    const zone = await rig.zone();
    assert.equal((await apply(zone, "zone.yaml")).code, 0);
    rig.file("fixed.yaml", FILE.replace("  - name: agent\n", "  - name: agent\n    kind: public\n"));
    const fixed = await apply(zone, "fixed.yaml");
    assert.deepEqual(
      [fixed.code, fixed.stderr.startsWith('caracal: application agent: kind is "confidential" and can\'t be changed')],
      [4, true],
      fixed.stderr,
    );
  });

  it("keeps secrets in no file that others can read, nor in one that is not its own", async () => {
    const zone = await rig.zone();
    const open = join(rig.dir, "open.json");
    writeFileSync(open, "{}", { mode: 0o644 });
    assert.equal((await apply(zone, "zone.yaml", "--secrets-out", open)).code, 2);
    assert.equal((await apply(zone, "zone.yaml", "--secrets-out", rig.file("other.txt", "my notes"))).code, 2);
    assert.deepEqual(await zone.json("app", "list"), []);
    const shown = await apply(zone, "zone.yaml");
    assert.equal(shown.stdout.match(/client_secret caracal_secret_\S+ \(shown this once\)/g)?.length, 2);
  });
});
