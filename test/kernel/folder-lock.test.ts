import assert from "node:assert/strict";
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { lockFolder } from "../../src/kernel/folder-lock.ts";

const CHILD = fileURLToPath(new URL("./folder-lock-child.js", import.meta.url));

describe("the lock of a folder", () => {
  const root = mkdtempSync(join(tmpdir(), "caracal-lock-"));
  let made = 0;
  const fresh = (): string => join(root, `l${(made += 1)}`);
  const children = new Set<ChildProcess>();
  after(() => {
    for (const child of children) child.kill("SIGKILL");
    rmSync(root, { recursive: true });
  });

  const start = async (folder: string): Promise<ChildProcess> => {
    const child = fork(CHILD, [folder]);
    children.add(child);
    assert.deepEqual((await once(child, "message"))[0], "ready");
    return child;
  };
  const take = async (child: ChildProcess): Promise<unknown> => {
    const answer = once(child, "message");
    child.send("take");
    return (await answer)[0];
  };
  const end = async (child: ChildProcess, signal?: "SIGKILL"): Promise<void> => {
    const exit = once(child, "exit");
    if (signal === undefined) child.send("go");
    else child.kill(signal);
    await exit;
    children.delete(child);
  };

  it("is one holder's at a time, and free again once it is released", async () => {
    const folder = fresh();
    const release = await lockFolder(folder);
    assert.ok(release !== undefined);
    assert.equal(await lockFolder(folder), undefined);
    await release();
    for (let i = 0; i < 3; i += 1) {
      const again = await lockFolder(folder);
      assert.ok(again !== undefined);
      assert.equal(readdirSync(folder).length, 1, "nothing gathers there");
      await again();
    }
  });

  it("is given to exactly one of 30 processes that come at once upon a lock whose holder was killed", async () => {
    const folder = fresh();
    let holder = await start(folder);
    assert.equal(await take(holder), "held");
    const racers = await Promise.all(Array.from({ length: 30 }, () => start(folder)));
    for (let round = 0; round < 5; round += 1) {
      await end(holder, "SIGKILL");
      racers.splice(racers.indexOf(holder), racers.includes(holder) ? 1 : 0);
      const answers = await Promise.all(racers.map(take));
      assert.equal(answers.filter((answer) => answer === "held").length, 1, `round ${round}`);
      holder = racers[answers.indexOf("held")] as ChildProcess;
    }
    assert.equal(readdirSync(folder).length, 1);
    for (const child of [...children]) await end(child);
  });

  it("is one holder's among those who come at once in one process", async () => {
    for (let round = 0; round < 20; round += 1) {
      const folder = fresh();
      await (
        await lockFolder(folder)
      )?.();
      const taken = await Promise.all(Array.from({ length: 30 }, () => lockFolder(folder)));
      const held = taken.filter((release) => release !== undefined);
      assert.equal(held.length, 1);
      await held[0]?.();
    }
  });

  it("never gives a number again, so that one who was slow takes none that was another's", async () => {
    const folder = fresh();
    for (const number of ["1", "2", "3"]) {
      const release = await lockFolder(folder);
      assert.deepEqual(readdirSync(folder), [number]);
      assert.equal(await lockFolder(folder), undefined);
      await release?.();
    }
  });

  it("works however long the folder's path is", async () => {
    const folder = join(root, ...Array.from({ length: 4 }, () => "x".repeat(100)));
    const release = await lockFolder(folder);
    assert.ok(release !== undefined);
    assert.equal(await lockFolder(folder), undefined);
    await release();
  });
});
