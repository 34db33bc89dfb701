import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { openDataDir } from "../../src/embedded/data-dir.ts";
import { StartupFault } from "../../src/kernel/problem.ts";

const root = mkdtempSync(join(tmpdir(), "caracal-dir-"));
after(() => rmSync(root, { recursive: true }));
let made = 0;
const fresh = (): string => join(root, `d${(made += 1)}`);

const fault = async (opening: Promise<unknown>): Promise<string> => {
  const error = await opening.then(
    () => assert.fail("it opened"),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof StartupFault, String(error));
  assert.equal(error.faults.length, 1);
  assert.ok(!error.message.includes("\n"));
  return error.message;
};

describe("the data folder", () => {
  it("is private, and so is every file in it", async () => {
    const path = fresh();
    const dir = await openDataDir(path, {});
    dir.write("quickstart.json", "{}");
    assert.equal(statSync(path).mode & 0o777, 0o700);
    for (const name of readdirSync(path).filter((one) => one !== "held"))
      assert.equal(statSync(join(path, name)).mode & 0o777, 0o600, name);
    await dir.release();
  });

  it("makes each secret once and gives the same ones at the next start", async () => {
    const path = fresh();
    const first = await openDataDir(path, {});
    const { secrets } = first;
    await first.release();
    const second = await openDataDir(path, {});
    assert.deepEqual(second.secrets, secrets);
    assert.match(secrets["ZONE_KEK"] ?? "", /^[0-9a-f]{64}$/);
    assert.equal(new Set(Object.values(secrets)).size, 3);
    await second.release();
  });

  it("leaves a secret to the environment where that has it", async () => {
    const dir = await openDataDir(fresh(), { ZONE_KEK: "from the environment" });
    assert.equal(dir.secrets["ZONE_KEK"], undefined);
    assert.ok(!existsSync(dir.file("zone-kek")));
    await dir.release();
  });

  it("is held by one process: a second start says so", async () => {
    const path = fresh();
    const dir = await openDataDir(path, {});
    assert.match(
      await fault(openDataDir(path, {})),
      /^CARACAL_DATA_DIR: .* is in use by another caracal; stop that one or/,
    );
    await dir.release();
    await (await openDataDir(path, {})).release();
  });

  it("of a newer format is refused, and so is one that is damaged", async () => {
    for (const [text, line] of [
      ["2\n", /was written by a newer caracal \(format 2, this one reads 1\)/],
      ["what\n", /format is damaged/],
    ] as const) {
      const path = fresh();
      mkdirSync(path, { mode: 0o700 });
      writeFileSync(join(path, "format"), text);
      assert.match(await fault(openDataDir(path, {})), line);
      assert.equal(readFileSync(join(path, "format"), "utf8"), text);
      assert.ok(!existsSync(join(path, "zone-kek")), "nothing was written");
    }
  });

  it("does not make a lost secret anew beside data that only the old one opens", async () => {
    const path = fresh();
    const dir = await openDataDir(path, {});
    mkdirSync(dir.file("database"));
    rmSync(dir.file("zone-kek"));
    await dir.release();
    assert.match(await fault(openDataDir(path, {})), /^ZONE_KEK: .*zone-kek is missing/);
  });

  it("is refused where it is a file or open to others", async () => {
    const plain = fresh();
    writeFileSync(plain, "");
    assert.match(await fault(openDataDir(plain, {})), /^CARACAL_DATA_DIR: .* can't be written \((EEXIST|ENOTDIR)\)/);
    const open = fresh();
    mkdirSync(open);
    chmodSync(open, 0o755);
    assert.match(await fault(openDataDir(open, {})), /open to other users.*chmod 700/);
  });
});
